"""The write transaction of sealing: lines, versions, the tx, and the touches that are done with."""

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec

from common.dialects.sqlite.guards import forget_displacing
from common.dialects.sqlite.key_ranges import go_on_where_needed
from common.dialects.sqlite.names import log_table
from common.dialects.sqlite.spool import Content
from common.dialects.sqlite.touches import Stretch
from common.errors import Reason
from common.ports.dialect import BY_SEALING, NodeFacts
from common.wire.records import TableMeta

_json = msgspec.json.Encoder()


@dataclass(frozen=True, slots=True)
class Letter:
    """Rows of this node that can't travel: a dead letter of its own."""

    tx_id: str
    table: str
    reason: Reason
    error: str
    rows: int
    sha256: str
    body: bytes
    at_us: int


@dataclass(frozen=True, slots=True)
class ReadyTx:
    """One segment, ready to be stored."""

    tx_id: str
    exported_at: str
    prev_lsn: int
    grouped: bool
    tables: dict[str, TableMeta]
    content: Content
    captured_us: int
    stretches: dict[int, Stretch]
    """By shape: the touches that are done with it."""
    mark: int | None
    letters: list[Letter]

    @property
    def changes(self) -> int:
        """How many changes it has; without any it only takes touches away."""
        return self.content.count

    @property
    def to_lsn(self) -> int:
        """The LSN of its last change."""
        return self.prev_lsn + self.content.count


def store(connection: sqlite3.Connection, node: NodeFacts, group: Sequence[ReadyTx]) -> None:
    """Store some txs, inside the caller's write transaction."""
    shortened: set[int] = set()
    for one in group:
        if one.changes:
            _store_tx(connection, node, one)
        for letter in one.letters:
            _store_letter(connection, node, letter)
        for shape_id, stretch in one.stretches.items():
            if stretch.last > stretch.after:
                connection.execute(f"DELETE FROM {log_table(shape_id)} WHERE seq > ? AND seq <= ?", stretch)
                shortened.add(shape_id)
        if one.mark is not None:
            connection.execute("DELETE FROM rf_mark_bound WHERE mark <= ?", (one.mark,))
            connection.execute("DELETE FROM rf_mark WHERE id <= ?", (one.mark,))
    _forget_bounds(connection, shortened)
    forget_displacing(connection)
    go_on_where_needed(connection, {name for one in group for name in one.tables})
    connection.execute("UPDATE rf_seal_turn SET turn = turn + 1")


def _forget_bounds(connection: sqlite3.Connection, shape_ids: Iterable[int]) -> None:
    """An empty log's numbers begin anew: what its numbers meant to marks that are still to be sealed is over.

    `shape_ids`: of the logs that have just lost touches. One that was empty before may be gone by now.

    That is also why a tx takes its own stretch of a log away, and not all up to its last one: by then the application
    may have written more, under low numbers."""
    for shape_id in shape_ids:
        if connection.execute(f"SELECT 1 FROM {log_table(shape_id)} LIMIT 1").fetchone() is None:
            connection.execute("DELETE FROM rf_mark_bound WHERE shape_id = ?", (shape_id,))


def _store_tx(connection: sqlite3.Connection, node: NodeFacts, one: ReadyTx) -> None:
    one.content.store(connection, node.incarnation, one.tx_id)
    tables = {name: {"pk": list(meta.pk), "columns": dict(meta.columns)} for name, meta in one.tables.items()}
    row = {
        "incarnation": node.incarnation,
        "to_lsn": one.to_lsn,
        "from_lsn": one.prev_lsn + 1,
        "prev_lsn": one.prev_lsn,
        "tx_id": one.tx_id,
        "exported_at": one.exported_at,
        "grouped": int(one.grouped),
        "tables": _json.encode(tables).decode(),
        "bytes": one.content.size,
        "captured_us": one.captured_us,
    }
    _insert(connection, "rf_tx", row)
    connection.execute(
        "INSERT INTO rf_seal (incarnation, last_lsn, last_tx_id) VALUES (?, ?, ?) ON CONFLICT (incarnation)"
        " DO UPDATE SET last_lsn = excluded.last_lsn, last_tx_id = excluded.last_tx_id",
        (node.incarnation, one.to_lsn, one.tx_id),
    )


def _store_letter(connection: sqlite3.Connection, node: NodeFacts, letter: Letter) -> None:
    row = {
        "source_node": node.node_id,
        "tx_id": letter.tx_id,
        "incarnation": node.incarnation,
        "changes": letter.rows,
        "parts": 1,
        "reason": letter.reason.value,
        "state": "dead",
        "table_name": letter.table,
        "error": letter.error,
        "attempts": 1,
        "first_failed_us": letter.at_us,
        "last_failed_us": letter.at_us,
        "origin": BY_SEALING,
        "sha256": letter.sha256,
        "body": letter.body,
        "broker_copy": 0,
    }
    _insert(connection, "rf_dead_letter", row)


def _insert(connection: sqlite3.Connection, table: str, row: dict[str, object]) -> None:
    names, marks = ", ".join(f'"{name}"' for name in row), ", ".join("?" * len(row))
    connection.execute(f"INSERT INTO {table} ({names}) VALUES ({marks})", tuple(row.values()))
