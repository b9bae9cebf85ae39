"""Who sends what waits: whether a `rowferry run` is active on this node, as far as its watchdog shows."""

import sqlalchemy as sa

from common.config.model import Config
from common.ops.stalls import SEALER, Seen, is_fresh, read_seen, still_looks

NOBODY = "no `rowferry run` is active here, so it waits for one"


def run_seen_us(connection: sa.Connection) -> int | None:
    """Return when some `run` on this node looked at its work last; None where none ever did."""
    return max((seen.looked_us for seen in read_seen(connection).values()), default=None)


def is_running(connection: sa.Connection, now_us: int) -> bool:
    """Tell whether some `run` has looked at its work within the last minute and a half."""
    return still_looks(run_seen_us(connection), now_us)


def who_does_it(connection: sa.Connection, now_us: int) -> str:
    """Return who seals and sends what waits, as the end of a sentence."""
    seen = _sender(connection, now_us)
    return NOBODY if seen is None else f"the running node does it by itself ({_since(seen, now_us)})"


def not_sent_yet(connection: sa.Connection, config: Config, now_us: int) -> tuple[str, bool]:
    """Return what becomes of a change that this node has just made, as a sentence, and whether that needs nobody."""
    if config.broker is None and config.directory is None and not config.peers:
        return "This node sends nothing by itself: others fetch it over HTTP, or it is carried in files.", True
    seen = _sender(connection, now_us)
    if seen is None:
        return "The other nodes don't have it yet: they get it once a `rowferry run` is active here.", False
    return "The other nodes get it by themselves.", True


def _sender(connection: sa.Connection, now_us: int) -> Seen | None:
    """Return when a `run` that seals and sends was seen last; None where that is too long ago. It may run with
    `--only consumer`, and then does neither."""
    seen = read_seen(connection).get(SEALER)
    return seen if seen is not None and is_fresh(seen, now_us) else None


def _since(seen: Seen, now_us: int) -> str:
    """Say how long ago that was: one that was stopped since leaves no word."""
    return f"`rowferry run` was seen here {max(0, now_us - seen.looked_us) // 1_000_000} s ago"
