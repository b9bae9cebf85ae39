"""What export and import ask of this node alike: is all known that was written to it, and how far has it come."""

import sqlalchemy as sa

from common.console import listed
from common.errors import UsageError
from common.ops.pausing import paused_tables
from common.ops.purging import OWN_LOG, read_purged
from common.ports.dialect import LogHead
from common.runtime.node import Node
from common.schema import tables as rf


def refuse_unseen(node: Node) -> None:
    """Raise UsageError where something may have been written that capture has not seen: who replaces rows would lose
    it, and who exports them would give what has no version."""
    paused = list(paused_tables(node.database))
    if paused:
        raise UsageError(f"{listed(paused)} is paused: what was written there is not known yet; run `rowferry resume`")
    strays = node.capture().drifted(list(node.captured_tables().values()))
    if strays:
        raise UsageError(
            f"{listed(strays)} is not captured as it is now, so what was written there may not be known yet; run"
            " `rowferry migrate`"
        )


def own_ends(connection: sa.Connection, incarnation: str) -> dict[str, LogHead]:
    """Return where each of this node's own logs ends, by incarnation, as far as it knows them: also where they are
    purged. `incarnation`: the present one; missing where nothing is sealed under it."""
    tx = rf.tx.c
    purged = read_purged(connection, OWN_LOG).items()
    ends = {name: LogHead(row.until_lsn, None) for name, row in purged if row.until_lsn is not None}
    last = sa.select(tx.incarnation, sa.func.max(tx.to_lsn), sa.func.max(tx.tx_id)).group_by(tx.incarnation)
    ends |= {name: LogHead(lsn, tx_id) for name, lsn, tx_id in connection.execute(last)}
    remembered = sa.text("SELECT last_lsn, last_tx_id FROM rf_seal WHERE incarnation = :incarnation")
    found = connection.execute(remembered, {"incarnation": incarnation}).one_or_none()
    if found is not None and found.last_lsn:
        ends[incarnation] = LogHead(found.last_lsn, found.last_tx_id)
    return ends


def above_mark(txs: sa.Table) -> sa.ColumnElement[bool]:
    """Return the condition that one of `txs` (rf_applied_tx, rf_dead_letter) stands above the mark of its source, which
    is a row of rf_sync_state."""
    state, tx = rf.sync_state.c, txs.c
    its = state.peer == tx.source_node, state.incarnation == tx.incarnation, state.direction == "in"
    return sa.and_(*its, tx.prev_lsn >= state.last_lsn)
