"""Every node that was heard of: when last, in which incarnation, and whether its clock is ahead."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import sqlalchemy as sa

from common.config.model import Config
from common.ids import tx_id_us
from common.ops.known_nodes import MOST_NODES, is_full
from common.ports.plain import Asked, Together
from common.runtime.node import Node
from common.schema import tables as rf
from common.seldom import Seldom
from consumer import audit
from consumer.retired import returned, speaks_again
from consumer.statements import insert_missing, writing

log = logging.getLogger(__name__)
_seldom = Seldom(log)
_FULL = f"{MOST_NODES} nodes are known already"

_ENDED = (
    sa.exists()
    .where(
        rf.sync_state.c.peer == rf.node.c.node_id,
        rf.sync_state.c.direction == "in",
        rf.sync_state.c.incarnation == rf.node.c.incarnation,
        rf.sync_state.c.incarnation != sa.bindparam("incarnation", type_=sa.Text),
        rf.sync_state.c.last_tx_id > sa.bindparam("tx_id", type_=sa.Text),
    )
    .correlate(rf.node)
)
"""Whether its incarnation that is known has written something since."""

_HEARD = (
    sa.update(rf.node)
    .where(rf.node.c.node_id == sa.bindparam("peer"), rf.node.c.is_self.is_(False))
    .values(
        last_seen_us=sa.bindparam("now_us"),
        # A batch that nobody has brought until now may be of a log that ended long ago.
        incarnation=sa.case((_ENDED, rf.node.c.incarnation), else_=sa.bindparam("incarnation", type_=sa.Text)),
        ahead_us=sa.case(
            (sa.bindparam("ahead_us", type_=sa.BigInteger) > 0, sa.bindparam("ahead_us", type_=sa.BigInteger)),
            # Only what it wrote after that shows that its clock was set right.
            (rf.node.c.ahead_seen_us < sa.bindparam("latest_us", type_=sa.BigInteger), 0),
            else_=rf.node.c.ahead_us,
        ),
        ahead_seen_us=sa.case(
            (sa.bindparam("ahead_us", type_=sa.BigInteger) > 0, sa.bindparam("now_us", type_=sa.BigInteger)),
            else_=rf.node.c.ahead_seen_us,
        ),
        **speaks_again(),
    )
    .returning(rf.node.c.returned_us)
)


class Heard(NamedTuple):
    """What verified txs say of their source. Instants in microseconds since the epoch, 0 where nothing says it."""

    node_id: str
    incarnation: str
    latest_us: int
    """The latest that its clock said."""
    tx_id: str
    """The last of its txs that are new here."""

    @property
    def wrote_us(self) -> int:
        """When it made that."""
        return tx_id_us(self.tx_id)


def ask_heard(together: Together, config: Config, heard: Iterable[Heard], now_us: int) -> "list[HeardOf]":
    """The same as `note_heard`, in a block; `end_heard` does the rest."""
    rows = [(one, _peer(config, one, now_us)) for one in sorted(heard)]
    return [HeardOf(one.node_id, row, together.ask(_HEARD, _given(one, row))) for one, row in rows]


class HeardOf(NamedTuple):
    """A note of a source that is under way."""

    node_id: str
    row: dict[str, object]
    """Of `rf_node`, where there is none of this id yet."""
    asked: Asked


def end_heard(connection: sa.Connection, config: Config, heard: Iterable[HeardOf], now_us: int) -> None:
    """Note those that were not known, and who speaks again; after the block."""
    for one in heard:
        found = one.asked.rows()
        if not found:
            _welcome(connection, config, [one.row])
        elif found[0][0] == now_us:
            audit.write(connection, [returned(one.node_id)], now_us)


def note_heard(connection: sa.Connection, config: Config, heard: Iterable[Heard], now_us: int) -> None:
    """Note that sources of verified txs were heard of, in the order of their ids."""
    rows = [(one, _peer(config, one, now_us)) for one in sorted(heard)]
    _welcome(connection, config, [row for one, row in rows if not _touch(connection, one, row)])


def _welcome(connection: sa.Connection, config: Config, rows: Sequence[dict[str, object]]) -> None:
    """Note nodes that nobody has heard of, one by one, as long as there is room. What they sent is applied all the
    same: it was believed."""
    for row in rows:
        if row["node_id"] not in config.named_nodes and is_full(connection):
            remedy = "see who sends in whose name: rowferry token list, broker.verify_user = true, or signatures"
            _seldom.tell(logging.ERROR, "node_not_noted", source_node=row["node_id"], error=_FULL, remedy=remedy)
            continue
        insert_missing(connection, rf.node, [row])


def _touch(connection: sa.Connection, heard: Heard, row: Mapping[str, object]) -> bool:
    """Note what was heard of a peer; False where there is none of this id. This node itself is none."""
    known = connection.execute(_HEARD, _given(heard, row)).one_or_none()
    if known is not None and known.returned_us == row["last_seen_us"]:
        audit.write(connection, [returned(heard.node_id)], known.returned_us)
    return known is not None


def _given(heard: Heard, row: Mapping[str, object]) -> dict[str, object]:
    return {
        "peer": heard.node_id,
        "now_us": row["last_seen_us"],
        "incarnation": heard.incarnation,
        "ahead_us": row["ahead_us"],
        "latest_us": heard.latest_us,
        "wrote_us": heard.wrote_us,
        "tx_id": heard.tx_id,
    }


def _peer(config: Config, heard: Heard, now_us: int) -> dict[str, object]:
    ahead_us = heard.latest_us - now_us
    ahead_us = ahead_us if ahead_us > config.limits.future_seconds * 1_000_000 else 0
    return {
        "node_id": heard.node_id,
        "role": "main" if heard.node_id == config.node.main else "branch",
        "incarnation": heard.incarnation,
        "is_self": False,
        "first_seen_us": now_us,
        "last_seen_us": now_us,
        "ahead_us": ahead_us,
        "ahead_seen_us": now_us if ahead_us else 0,
    }


def note_listening(node: Node) -> None:
    """Note that this node hears others now. Raises OutageError."""
    note = sa.update(rf.node).where(rf.node.c.is_self).values(heard_us=node.clock.now_us())
    writing(node.database, lambda connection: connection.execute(note))
