"""The lines and versions of one tx, made before the write lock is taken: in memory, or aside where they are many."""

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from common.dialects.sqlite.connection import transaction
from common.dialects.sqlite.copying import in_temporary_folder
from common.dialects.sqlite.versions import (
    VERSION_COLUMNS,
    VERSION_VALUES,
    Record,
    record_row,
    upsert_versions,
    write_versions,
)

Line: TypeAlias = tuple[int, str, str, bytes]
"""LSN, table, op, line."""
_LINE_COLUMNS = "incarnation, lsn, tx_id, table_name, op, line"


class Content(Protocol):
    """What a tx is made of, ready to be stored."""

    count: int
    """Its changes."""
    size: int
    """Bytes of its lines."""

    def store(self, connection: sqlite3.Connection, incarnation: str, tx_id: str) -> None:
        """Write log and versions, inside the caller's write transaction."""
        ...


@dataclass(slots=True)
class Held:
    """In memory."""

    lines: Sequence[Line]
    records: Sequence[tuple[int, str, Record]]
    count: int
    size: int

    def store(self, connection: sqlite3.Connection, incarnation: str, tx_id: str) -> None:
        """See `Content`."""
        connection.executemany(
            f"INSERT INTO rf_change_log ({_LINE_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)",
            ((incarnation, lsn, tx_id, table, op, line) for lsn, table, op, line in self.lines),
        )
        write_versions(connection, self.records)


class Spooled:
    """In SQLite's temporary database: of one tx at a time."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.count = self.size = 0
        self._connection = connection
        with in_temporary_folder():
            connection.execute("CREATE TABLE temp.rf_spool_line (lsn INTEGER PRIMARY KEY, table_name, op, line)")
            connection.execute(
                f"CREATE TABLE temp.rf_spool_version ({VERSION_COLUMNS}, PRIMARY KEY (table_id, key)) WITHOUT ROWID"
            )

    def add(self, lines: Sequence[Line], records: Iterable[tuple[int, str, Record]]) -> None:
        """Take some more of the tx: its next lines, and versions of other rows than before."""
        connection = self._connection
        with in_temporary_folder(), transaction(connection, "BEGIN"):
            connection.executemany("INSERT INTO temp.rf_spool_line VALUES (?, ?, ?, ?)", lines)
            rows = (record_row(table_id, key, record) for table_id, key, record in records)
            connection.executemany(f"INSERT INTO temp.rf_spool_version {VERSION_VALUES}", rows)
        self.count += len(lines)
        self.size += sum([len(one[3]) for one in lines])

    def store(self, connection: sqlite3.Connection, incarnation: str, tx_id: str) -> None:
        """See `Content`."""
        connection.execute(
            f"INSERT INTO main.rf_change_log ({_LINE_COLUMNS})"
            " SELECT ?, lsn, ?, table_name, op, line FROM temp.rf_spool_line ORDER BY lsn",
            (incarnation, tx_id),
        )
        source = f"SELECT {VERSION_COLUMNS} FROM temp.rf_spool_version WHERE true ORDER BY table_id, key"
        connection.execute(upsert_versions(source))

    def drop(self) -> None:
        """Take it away."""
        for name in ("rf_spool_line", "rf_spool_version"):
            self._connection.execute(f"DROP TABLE IF EXISTS temp.{name}")
