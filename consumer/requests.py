"""`rf_request`: what this node asked others for, and what others asked of it until the producer has answered."""

import logging
from collections.abc import Collection

import sqlalchemy as sa

from common.clock import to_iso
from common.ops.status_words import A_COPY
from common.runtime.node import Node
from common.schema import tables as rf
from common.wire.control import Gone, Request
from consumer.gaps import Gap
from consumer.statements import writing

log = logging.getLogger(__name__)

_MOST_WAITING = 1_000
"""Requests of others that wait at once: who may write to the broker may make up names."""
_MOST_OF_ONE = 20
"""Of one asker: who makes up incarnations takes nobody's place."""


def request_for(node: Node, gap: Gap) -> Request:
    """Return what asks a source for a gap, now."""
    return Request(
        from_node=node.facts.node_id,
        to_node=gap.peer,
        incarnation=gap.incarnation,
        after_lsn=gap.after_lsn,
        until_lsn=gap.until_lsn,
        asked_at=to_iso(node.clock.now_us()),
    )


def note_request(connection: sa.Connection, request: Request, now_us: int, named: Collection[str] = ()) -> bool:
    """Keep what another node asks for; with what it asked for before that is one stretch. False where too many wait.

    `named`: the nodes that the configuration names. They, and those that were heard of before, take the place of a name
    that nobody knows. One that is being answered goes on where it stands: what was sent is on its way, and is asked for
    again if not."""
    table = rf.request
    waiting = connection.execute(
        sa.select(table).where(_is("in", request.from_node, request.incarnation))
    ).one_or_none()
    if waiting is not None:
        after_lsn = request.after_lsn if request.until_lsn <= waiting.after_lsn else waiting.after_lsn
        values = {
            "after_lsn": after_lsn,
            "until_lsn": max(waiting.until_lsn, request.until_lsn),
            "asked": waiting.asked + 1,
            "last_asked_us": now_us,
        }
        connection.execute(sa.update(table).where(_is("in", request.from_node, request.incarnation)).values(values))
        return True
    its = sa.func.count(sa.case((table.c.peer == request.from_node, 1)))
    count = sa.select(sa.func.count(), its).select_from(table).where(table.c.direction == "in")
    in_all, of_one = connection.execute(count).one()
    if of_one >= _MOST_OF_ONE:
        return False
    if in_all >= _MOST_WAITING and not (_is_known(connection, request, named) and _take_place(connection, named)):
        return False
    row = _row("in", request.from_node, request, now_us)
    connection.execute(sa.insert(table).values(row))
    return True


def take_gone(node: Node, gone: Gone) -> None:
    """Note, and say loudly the first time, that what was asked for is gone for good. Raises OutageError."""
    if writing(node.database, lambda connection: note_gone(connection, gone)):
        fields = {"source_node": gone.from_node, "incarnation": gone.incarnation}
        lsns = {"after_lsn": gone.after_lsn, "until_lsn": gone.until_lsn}
        log.error("gap_cannot_be_filled", extra=fields | lsns | {"remedy": A_COPY})


def _is_known(connection: sa.Connection, request: Request, named: Collection[str]) -> bool:
    heard = sa.select(rf.node.c.node_id).where(rf.node.c.node_id == request.from_node)
    return request.from_node in named or connection.execute(heard).first() is not None


def _take_place(connection: sa.Connection, named: Collection[str]) -> bool:
    """Forget what a name asked for that nobody knows, of these the one longest ago; False where there is none."""
    table = rf.request
    strangers = sa.select(table.c.peer, table.c.incarnation).where(
        table.c.direction == "in", table.c.peer.not_in(sa.select(rf.node.c.node_id)), table.c.peer.not_in(list(named))
    )
    oldest = connection.execute(strangers.order_by(table.c.last_asked_us).limit(1)).one_or_none()
    if oldest is None:
        return False
    connection.execute(sa.delete(table).where(_is("in", oldest.peer, oldest.incarnation)))
    return True


def note_gone(connection: sa.Connection, gone: Gone) -> bool:
    """Note that what was asked for is gone for good; False where nobody asked, or it is known."""
    table = rf.request
    is_asked = sa.and_(
        _is("out", gone.from_node, gone.incarnation),
        table.c.after_lsn >= gone.after_lsn,
        table.c.after_lsn < gone.until_lsn,
        sa.func.coalesce(table.c.gone_until_lsn, -1) != gone.until_lsn,
    )
    return connection.execute(sa.update(table).where(is_asked).values(gone_until_lsn=gone.until_lsn)).rowcount > 0


def note_asked(connection: sa.Connection, request: Request, now_us: int) -> int:
    """Note that this node asks, and return how often it has asked since something of it came."""
    table = rf.request
    mine = _is("out", request.to_node, request.incarnation)
    before = connection.execute(sa.select(table).where(mine)).one_or_none()
    row = _row("out", request.to_node, request, now_us)
    if before is None:
        connection.execute(sa.insert(table).values(row))
        return 1
    if before.after_lsn == request.after_lsn and before.until_lsn <= request.until_lsn:
        row |= {
            "asked": before.asked + 1,
            "first_asked_us": before.first_asked_us,
            "gone_until_lsn": before.gone_until_lsn,
        }
    connection.execute(sa.update(table).where(mine).values(row))
    return int(str(row["asked"]))


def asked_for(connection: sa.Connection, gap: Gap) -> tuple[int, int]:
    """Return how often this node has asked for a gap, and when last, microseconds since the epoch; 0, 0 for never."""
    request = rf.request.c
    query = sa.select(request.asked, request.last_asked_us).where(
        _is("out", gap.peer, gap.incarnation), request.after_lsn == gap.after_lsn, request.until_lsn <= gap.until_lsn
    )
    row = connection.execute(query).one_or_none()
    return (0, 0) if row is None else (row.asked, row.last_asked_us)


def forget_asked(connection: sa.Connection, peer: str, incarnation: str) -> None:
    """Forget what this node asked a source for: it has come."""
    connection.execute(sa.delete(rf.request).where(_is("out", peer, incarnation)))


def _is(direction: str, peer: str, incarnation: str) -> sa.ColumnElement[bool]:
    table = rf.request.c
    return sa.and_(table.direction == direction, table.peer == peer, table.incarnation == incarnation)


def _row(direction: str, peer: str, request: Request, now_us: int) -> dict[str, object]:
    return {
        "peer": peer,
        "direction": direction,
        "incarnation": request.incarnation,
        "after_lsn": request.after_lsn,
        "until_lsn": request.until_lsn,
        "asked": 1,
        "first_asked_us": now_us,
        "last_asked_us": now_us,
        "gone_until_lsn": None,
    }
