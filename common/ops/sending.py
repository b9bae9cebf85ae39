"""Who sends what waits: whether a `rowferry run` is active on this node, as far as its watchdog shows."""

import sqlalchemy as sa

from common.config.model import Config
from common.ops.stalls import is_fresh, read_seen

BY_ITSELF = "the running node does that by itself"
NOBODY = "no `rowferry run` is active here, so it waits for one"


def is_running(connection: sa.Connection, now_us: int) -> bool:
    """Tell whether a `run` has looked at its work within the last minute and a half.

    One that was stopped since still counts until then; one that has just been started counts at once."""
    return any(is_fresh(seen, now_us) for seen in read_seen(connection).values())


def who_does_it(connection: sa.Connection, now_us: int) -> str:
    """Return who seals and sends what waits, as the end of a sentence."""
    return BY_ITSELF if is_running(connection, now_us) else NOBODY


def not_sent_yet(connection: sa.Connection, config: Config, now_us: int) -> str:
    """Return what becomes of a change that this node has just made, as a sentence."""
    if config.broker is None and config.directory is None and not config.peers:
        return "This node sends nothing by itself: others come for it over HTTP, or it goes with files."
    if is_running(connection, now_us):
        return "Not sent yet: the running node sends it to every other by itself."
    return "Not sent yet, and no `rowferry run` is active here: it goes out to every other node once one is."
