"""When to ask for what is missing: not before it had time to come by itself, nor while it comes; then seldom."""

from collections.abc import Sequence
from dataclasses import dataclass

from consumer.gaps import Gap
from consumer.watermark import SourceKey

_LONGEST_PAUSE_SECONDS = 600.0
_MOST_DOUBLINGS = 16
_STILL_SECONDS = 5.0


def pause_seconds(patience_seconds: float, asks: int) -> float:
    """Return how long to wait before the next request after so many for the same."""
    pause = patience_seconds * 2.0 ** min(asks, _MOST_DOUBLINGS)
    return min(pause, max(_LONGEST_PAUSE_SECONDS, patience_seconds))


@dataclass(slots=True)
class Watched:
    """A source of which something is missing. Instants are of the monotonic clock."""

    gap: Gap
    since: float
    moved: float
    """When the gap last became another one: something came."""
    asked: float | None = None
    asks: int = 0
    """Since then."""

    def note_asked(self, now: float) -> None:
        """Note that its source is asked now."""
        self.asked, self.asks = now, self.asks + 1


class GapWatch:
    """Follows the gaps from look to look. Belongs to one thread."""

    def __init__(self, patience_seconds: float) -> None:
        self._patience = patience_seconds
        self._watched: dict[SourceKey, Watched] = {}

    def look(self, gaps: Sequence[Gap], now: float) -> list[Watched]:
        """Take in what is missing now; return what was asked for and is not missing any more."""
        found = {gap.key: gap for gap in gaps}
        closed = [self._watched.pop(key) for key in self._watched.keys() - found.keys()]
        for key, gap in found.items():
            watched = self._watched.get(key)
            if watched is None:
                self._watched[key] = Watched(gap, since=now, moved=now)
                continue
            if gap.after_lsn != watched.gap.after_lsn or gap.until_lsn < watched.gap.until_lsn:
                watched.moved, watched.asks = now, 0
            watched.gap = gap
        return [one for one in closed if one.asked is not None]

    def due(self, now: float) -> list[Watched]:
        """Return what is to be asked for."""
        return [one for one in self._watched.values() if self._is_due(one, now)]

    def _is_due(self, one: Watched, now: float) -> bool:
        if now - one.since < self._patience:
            return False
        if one.asks == 0:
            # It comes, so let it; what still stands apart of it after a moment is another gap.
            return now - one.moved >= min(self._patience, _STILL_SECONDS)
        return one.asked is None or now - one.asked >= pause_seconds(self._patience, one.asks)
