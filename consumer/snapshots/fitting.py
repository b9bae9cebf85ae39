"""Whether a node may take a snapshot: nothing that only it has, or that it has already, would be lost by it."""

from collections.abc import Mapping

import sqlalchemy as sa

from common.console import listed
from common.errors import UsageError
from common.ops.rewinding import settled_until
from common.ports.dialect import TableShape
from common.runtime.node import Node
from common.schema import tables as rf
from common.schema.first_rows import any_row
from consumer.snapshots.own_state import above_mark, own_ends, refuse_unseen
from consumer.snapshots.preflight import Found
from consumer.watermark import SourceKey, read_all


def check_fit(node: Node, connection: sa.Connection, found: Found, *, replace: bool) -> None:
    """Raise UsageError with the remedy where it would. Within one transaction, in which nobody else writes, the answer
    holds until its end."""
    refuse_unseen(node)
    _check_own(node, connection, found)
    if replace:
        _check_others(connection, found)
        _check_tables(node, connection, found)
    else:
        _check_is_new(node, connection)


def _check_own(node: Node, connection: sa.Connection, found: Found) -> None:
    facts, source = node.facts, found.header.source_node
    ends = own_ends(connection, facts.incarnation)
    missing = sum(max(0, end.lsn - found.own_lsns.get(incarnation, 0)) for incarnation, end in ends.items())
    if missing:
        raise UsageError(
            f"this node has {missing} changes of its own that the snapshot of {source} does not have: let them reach"
            f" {source} (rowferry run --once) and export there again"
        )
    # Of what `rejoin` has settled it said what is lost; should more of it come up, that is told again.
    settled = settled_until(connection)
    unsettled = {incarnation for incarnation, lsn in found.own_lsns.items() if lsn > settled.get(incarnation, 0)}
    earlier = unsettled - ends.keys() - {facts.incarnation}
    if earlier:
        raise UsageError(
            f"{source} knows a node {facts.node_id} from before (incarnation {min(earlier)}), of which this database"
            " knows nothing. What that one had sent may still be on its way: others would take it, and this node would"
            " hold it for its own and never have it. Give this database another node.id, and retire the old one"
            f" (rowferry node retire {facts.node_id})"
        )
    if found.own_letters:
        raise UsageError(
            f"{source} has set aside {found.own_letters} txs of this node, so its rows lack them: settle them there"
            f" (rowferry dlq list --source {facts.node_id}) and export again"
        )


def _check_others(connection: sa.Connection, found: Found) -> None:
    """A step back would have to be made good from logs and folders that may not go back so far any more."""
    ahead: dict[str, int] = {}
    for key, (mark, _) in read_all(connection).items():
        _note_ahead(ahead, found.marks, key, mark.last_lsn)
    columns = [rf.applied_tx.c[name] for name in ("source_node", "incarnation", "tx_id", "to_lsn")]
    above = sa.select(*columns).join_from(rf.applied_tx, rf.sync_state, above_mark(rf.applied_tx))
    for peer, incarnation, tx_id, lsn in connection.execute(above):
        if (peer, tx_id) not in found.applied:
            _note_ahead(ahead, found.marks, (peer, incarnation), lsn)
    if ahead:
        told = ", ".join(f"{count} of {peer}" for peer, count in sorted(ahead.items()))
        raise UsageError(
            f"this node has taken changes that the snapshot of {found.header.source_node} lacks ({told}): export there"
            " again once it has them, with `rowferry run` stopped here"
        )


def _note_ahead(ahead: dict[str, int], marks: Mapping[SourceKey, int], key: SourceKey, lsn: int) -> None:
    more = lsn - marks.get(key, 0)
    if more > 0:
        ahead[key[0]] = max(ahead.get(key[0], 0), more)


def _check_tables(node: Node, connection: sa.Connection, found: Found) -> None:
    """A table that the snapshot does not have can't be as it is where that comes from."""
    others = [shape for name, shape in node.captured_tables().items() if name not in found.metas]
    filled = [shape.name for shape in others if _has_rows(connection, shape)]
    if filled:
        raise UsageError(
            f"{listed(filled)} is captured here and not where the snapshot comes from, and has rows: capture it there"
            " too and export again, or remove it from tables.include here"
        )


def _check_is_new(node: Node, connection: sa.Connection) -> None:
    held = [name for name, shape in node.captured_tables().items() if _has_rows(connection, shape)]
    if held or _knows_others(connection):
        what = f"there are rows in {listed(held)}" if held else "it has taken changes of others"
        raise UsageError(
            f"this is not a new node: {what}. --replace deletes all rows of the captured tables, and what is known of"
            " them, and puts the snapshot in their place; rowferry backup keeps them"
        )


def _has_rows(connection: sa.Connection, shape: TableShape) -> bool:
    return bool(connection.scalar(any_row(shape)))


def _knows_others(connection: sa.Connection) -> bool:
    taken = sa.exists().where(rf.sync_state.c.direction == "in", rf.sync_state.c.highest_lsn > 0)
    return bool(connection.scalar(sa.select(sa.or_(taken, sa.exists(sa.select(rf.applied_tx))))))
