"""Which dead letters nothing blocks any more: tried out and taken back, few at a time and not again at once.

A try takes the rows' locks for a moment, on SQLite the database's: a list that looks again by itself must not do that
for each of its letters each time."""

import threading
import time
from collections.abc import Callable, Sequence

from common.runtime.node import Node
from consumer.apply.group import Applier
from consumer.dead_letters.loading import load
from consumer.dead_letters.states import LetterState
from consumer.dead_letters.table_store import Letter
from consumer.statements import reading

KEPT_SECONDS = 60.0
"""So long what was seen is told again, on a page that looks again by itself."""
PERSONS_SECONDS = 5.0
"""And to somebody who loads the page."""
AT_ONCE = 10
"""So many letters are tried for one page."""
SECONDS = 0.5
"""After so long no other one is tried for it."""
MOST_CHANGES = 200
"""What holds more is tried on its own page alone."""
_MOST_KEPT = 2_000
_Key = tuple[str, str, int]


class Prospects:
    """What replays would come to, as it was seen lately. Any thread."""

    def __init__(self, node: Node, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._node = node
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._seen: dict[_Key, tuple[float, bool]] = {}

    def of(self, letters: Sequence[Letter], *, by_person: bool) -> list[bool | None]:
        """Tell of each letter whether a replay would apply it now; None where that was not tried. Raises OutageError.

        Who loads the page wants to know it anew, after having mended what was in the way."""
        kept_seconds = PERSONS_SECONDS if by_person else KEPT_SECONDS
        begun, tried, found = self._monotonic(), 0, list[bool | None]()
        for letter in letters:
            known = self._known(letter, kept_seconds)
            is_small = letter.changes is not None and letter.changes <= MOST_CHANGES
            # What is early is tried again by itself anyway.
            is_wanted = known is None and letter.state is LetterState.DEAD and is_small
            if is_wanted and tried < AT_ONCE and self._monotonic() - begun < SECONDS:
                tried += 1
                known = self._try(letter)
            found.append(known)
        return found

    def _known(self, letter: Letter, kept_seconds: float) -> bool | None:
        with self._lock:
            at, is_free = self._seen.get(_key(letter), (0.0, False))
            is_fresh = _key(letter) in self._seen and self._monotonic() - at < kept_seconds
        return is_free if is_fresh else None

    def _try(self, letter: Letter) -> bool:
        with reading(self._node.database) as connection:
            tx = load(connection, letter, self._node.config.trust(), replayed_by="nobody")
        is_free = not Applier(self._node).try_out(tx, lambda _: None).outcome.set_aside
        with self._lock:
            if len(self._seen) >= _MOST_KEPT:
                self._seen.clear()
            self._seen[_key(letter)] = self._monotonic(), is_free
        return is_free


def _key(letter: Letter) -> _Key:
    """Return what a letter is known by: another try may have come to something else."""
    return letter.source_node, letter.tx_id, letter.last_failed_us
