"""What a peer's heartbeats say, kept with the peer in `rf_node`; and whether its log is the one that it was."""

import logging
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from common.ids import tx_id_us
from common.ops.known_nodes import is_full
from common.ops.passed import note_passed
from common.ops.peers import MISSED_HEARTBEATS
from common.schema import tables as rf
from common.seldom import Seldom
from common.wire.control import Heartbeat, control_lines
from consumer import audit
from consumer.retired import returned, speaks_again
from consumer.statements import insert_missing
from consumer.watermark import read_mark

log = logging.getLogger(__name__)
_seldom = Seldom(log)

SEALING_US = 60_000_000
"""A tx may get its id so long before it is committed: until then a log may truly end before it."""
_RECENT_US = 3_600_000_000
"""What is older by its source's clock may have been kept by somebody."""
_AHEAD_US = 300_000_000
"""So much may clocks differ; what is further ahead was given by a clock that is wrong, or made up."""


class TooManyNodesError(Exception):
    """There is no room for a node that nobody has heard of."""


def note_heartbeat(
    connection: sa.Connection, heartbeat: Heartbeat, now_us: int, *, is_main: bool, is_named: bool, raw: bytes
) -> Mapping[str, object] | None:
    """Keep what a peer says of itself; return what is news about a log that was rewound, None where nothing is.

    `is_main`: whether the configuration names it as the main node, for a peer that was never heard of; `is_named`:
    whether it names it at all. `raw`: the line as it came, for those to whom it is handed on. Raises
    TooManyNodesError."""
    node = rf.node
    peer = sa.and_(node.c.node_id == heartbeat.source_node, node.c.is_self.is_(False))
    known = connection.execute(sa.select(node).where(peer)).one_or_none()
    if known is None:
        if not is_named and is_full(connection):
            raise TooManyNodesError(heartbeat.source_node)
        insert_missing(connection, node, [_peer(heartbeat, now_us, is_main=is_main)])
    elif known.heartbeat_us is not None and not _is_news(connection, heartbeat, known, now_us):
        _tell_left(heartbeat, known, now_us)
        return None
    why = _rewound(connection, heartbeat)
    was_rewound_us = known.rewound_us if known is not None else None
    values = _said(heartbeat, known, now_us) | {
        "said": raw.decode("utf-8"),
        "rewound_us": None if why is None else (was_rewound_us or now_us),
    }
    given = {"now_us": now_us, "wrote_us": heartbeat.at_us}
    update = sa.update(node).where(peer).values(values | speaks_again()).returning(node.c.returned_us)
    if connection.execute(update, given).scalar_one() == now_us:
        audit.write(connection, [returned(heartbeat.source_node)], now_us)
    _note_passed(connection, heartbeat, now_us)
    if why is None or was_rewound_us is not None:
        return None
    detail = {"incarnation": heartbeat.incarnation, "head_lsn": heartbeat.head_lsn, "error": why}
    line = audit.Line("rewound", heartbeat.source_node, heartbeat.head_tx_id, detail=detail)
    audit.write(connection, [line], now_us)
    return detail


def _said(heartbeat: Heartbeat, known: sa.Row[Any] | None, now_us: int) -> dict[str, object]:
    """Return what a heartbeat says, as the columns of its peer. `known`: the row as it was before."""
    clock_us, every_us = heartbeat.at_us - now_us, int(heartbeat.every_seconds * 1_000_000)
    was_us = known.clock_us if known is not None else None
    is_steady = was_us is not None and abs(clock_us - was_us) < every_us / 2
    heard_us = now_us
    if clock_us < -MISSED_HEARTBEATS * every_us and not is_steady and heartbeat.number == heartbeat.at_us:
        # It lay somewhere for long, and its node may be dead since. Of a clock that was set back the number shows it.
        heard_us = max(heartbeat.at_us, known.heard_us or 0) if known is not None else heartbeat.at_us
    return {
        "incarnation": heartbeat.incarnation,
        "last_seen_us": max(heard_us, known.last_seen_us) if known is not None else heard_us,
        "heard_us": heard_us,
        "heartbeat_us": _latest(heartbeat, known),
        "every_us": every_us,
        "head_incarnation": heartbeat.incarnation,
        "head_lsn": heartbeat.head_lsn,
        "head_tx_id": heartbeat.head_tx_id,
        "sent_lsn": heartbeat.sent_lsn,
        "clock_us": clock_us,
        "clock_steady": is_steady,
        "release": heartbeat.release,
        "schema_sha256": heartbeat.schema_sha256,
        "policies_sha256": heartbeat.policies_sha256,
    }


def _note_passed(connection: sa.Connection, heartbeat: Heartbeat, now_us: int) -> None:
    """Keep how far the peer has each log; nothing from a release that does not say so."""
    if heartbeat.passed is None:
        return
    passed = {(origin, incarnation): lsn for origin, incarnation, lsn in heartbeat.passed}
    # With what it has passed, how far its own log went then.
    own = {(heartbeat.source_node, heartbeat.incarnation): heartbeat.head_lsn}
    note_passed(connection, heartbeat.source_node, passed | own, now_us)


def _number(heartbeat: Heartbeat) -> int:
    return heartbeat.at_us if heartbeat.number is None else heartbeat.number


def _is_news(connection: sa.Connection, heartbeat: Heartbeat, known: sa.Row[Any], now_us: int) -> bool:
    return (
        _is_later(heartbeat, known, now_us)
        or _begins_anew(connection, heartbeat, known, now_us)
        or _is_later_than_nonsense(connection, heartbeat, known, now_us)
    )


def _is_later(heartbeat: Heartbeat, known: sa.Row[Any], now_us: int) -> bool:
    """Tell whether a heartbeat was given after the last one that was heard: an older one tells nothing any more.

    It may be signed and true and come from somebody who kept it. A release without numbers has its clock alone; where
    that was set back only a log that has grown shows it, which a node that was put back does not say of itself."""
    if _number(heartbeat) > known.heartbeat_us:
        return True
    said = _last_heard(heartbeat.incarnation, known)
    if said is not None and heartbeat.number is not None and said.number is not None:
        # Within one incarnation numbers rise, whatever was said in the one before by a clock that was ahead.
        # A leap is of what was heard before that: numbers that a clock gave while it was ahead, or made-up ones.
        return said.number < heartbeat.number <= max(said.number, now_us) + _RECENT_US
    is_same_log = heartbeat.incarnation == known.head_incarnation and known.rewound_us is None
    return heartbeat.number is None and is_same_log and heartbeat.head_lsn > known.head_lsn


def _last_heard(incarnation: str, known: sa.Row[Any]) -> Heartbeat | None:
    """Return the last heartbeat that was heard, where it was of this incarnation."""
    if known.said is None or known.head_incarnation != incarnation:
        return None
    lines = control_lines(known.said.encode())
    return lines[0] if lines and isinstance(lines[0], Heartbeat) else None


def _begins_anew(connection: sa.Connection, heartbeat: Heartbeat, known: sa.Row[Any], now_us: int) -> bool:
    """Tell whether it is of an incarnation that its source has begun since, with a clock that was far ahead before.

    Its numbers would stay below what was said then until the clock has come there. An incarnation that ended is known
    here by something; and one that was never heard of tells by its clock that it is not of long ago."""
    was_ahead = known.heartbeat_us > now_us
    if not was_ahead or abs(heartbeat.at_us - now_us) > _RECENT_US:
        return False
    source, incarnation = heartbeat.source_node, heartbeat.incarnation
    if incarnation in (known.incarnation, known.head_incarnation):
        return False
    # What was heard of a log of its own stands here for good, beside what it has passed of others.
    passed = rf.passed.c
    its = sa.select(passed.peer).where(
        passed.peer == source, passed.origin == source, passed.incarnation == incarnation
    )
    return connection.execute(its.limit(1)).first() is None


def _is_later_than_nonsense(connection: sa.Connection, heartbeat: Heartbeat, known: sa.Row[Any], now_us: int) -> bool:
    """Tell whether it was given after the last one that was heard, where a number that is far ahead says nothing of it.

    Somebody made that number up, or its source was put back after its clock was far ahead: by numbers it would be
    silent here for ever. What was given before the last one was heard, and kept, has a clock of before that; or a
    clock that was ahead, and then it knows nothing of what its source has written since."""
    if not _is_far_ahead(known, now_us) or not known.heard_us + _AHEAD_US < heartbeat.at_us <= now_us + _AHEAD_US:
        return False
    return _rewound(connection, heartbeat) is None


def _is_far_ahead(known: sa.Row[Any], now_us: int) -> bool:
    return bool(known.heard_us is not None and known.heartbeat_us > now_us + _AHEAD_US)


def _tell_left(heartbeat: Heartbeat, known: sa.Row[Any], now_us: int) -> None:
    """Say that one is left which may well be a true one: else its node would be silent here, and nobody knew why."""
    if not _is_far_ahead(known, now_us) or heartbeat.at_us <= known.heard_us:
        return
    _seldom.warn(
        "heartbeat_left",
        heartbeat.source_node,
        source_node=heartbeat.source_node,
        error="its number is below one that was heard and is far ahead of this node's clock",
        remedy="see that its clock is right: then it is heard again within some minutes",
    )


def _latest(heartbeat: Heartbeat, known: sa.Row[Any] | None) -> int:
    """Return what a later heartbeat has to be above. A clock that was set back lowers it for nobody: else what was said
    before that would count again."""
    before = 0 if known is None or known.heartbeat_us is None else known.heartbeat_us
    return max(before, _number(heartbeat))


def _rewound(connection: sa.Connection, heartbeat: Heartbeat) -> str | None:
    """Return what shows that the log is another one than it was; None where nothing does."""
    head_lsn, head_tx_id = heartbeat.head_lsn, heartbeat.head_tx_id
    applied = rf.applied_tx.c
    query = (
        sa.select(applied.to_lsn, applied.tx_id)
        .where(
            applied.source_node == heartbeat.source_node,
            applied.incarnation == heartbeat.incarnation,
            applied.prev_lsn < head_lsn,
        )
        .order_by(applied.prev_lsn.desc())
        .limit(1)
    )
    there = connection.execute(query).one_or_none()
    if there is not None and there.to_lsn >= head_lsn and (there.to_lsn, there.tx_id) != (head_lsn, head_tx_id):
        return f"its log ends at LSN {head_lsn} with {head_tx_id}, where this node has had {there.tx_id}"
    mark = read_mark(connection, heartbeat.source_node, heartbeat.incarnation)
    if mark.last_tx_id is None or head_lsn >= mark.last_lsn:
        return None
    # A heartbeat may have been given just before what has overtaken it.
    if heartbeat.at_us <= tx_id_us(mark.last_tx_id) + SEALING_US:
        return None
    return f"its log ends at LSN {head_lsn}, where this node has had it up to LSN {mark.last_lsn}"


def _peer(heartbeat: Heartbeat, now_us: int, *, is_main: bool) -> dict[str, object]:
    return {
        "node_id": heartbeat.source_node,
        "role": "main" if is_main else "branch",
        "incarnation": heartbeat.incarnation,
        "is_self": False,
        "first_seen_us": now_us,
        "last_seen_us": now_us,
    }
