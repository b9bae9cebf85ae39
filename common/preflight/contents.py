"""What a set of files holds, kept on disk while it is looked through: memory stays bounded."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from types import TracebackType

from common.wire.records import Part

_SCHEMA = """
CREATE TABLE tx (source_node TEXT, tx_id TEXT, incarnation TEXT, prev_lsn INTEGER, from_lsn INTEGER, to_lsn INTEGER,
                 parts INTEGER, sha256 TEXT, file TEXT, line INTEGER, PRIMARY KEY (source_node, tx_id)) WITHOUT ROWID;
CREATE TABLE part (source_node TEXT, tx_id TEXT, part INTEGER, PRIMARY KEY (source_node, tx_id, part)) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class TxSeen:
    """One tx of the files, where its header was first seen."""

    source_node: str
    tx_id: str
    incarnation: str
    prev_lsn: int
    from_lsn: int
    to_lsn: int
    parts: int
    sha256: str
    file: str
    line: int


class Contents:
    """A private temporary database that SQLite spills to disk and that vanishes with its connection."""

    def __init__(self) -> None:
        self._connection = sqlite3.connect("", isolation_level=None)
        self._connection.executescript(_SCHEMA)
        self._connection.execute("BEGIN")

    def __enter__(self) -> "Contents":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    def add(self, part: Part, sha256: str, file: str) -> TxSeen | None:
        """Keep one part; `sha256` is its tx's content. Returns the tx as first seen, None when this is the first."""
        header = part.header
        key = (header.source_node, header.tx_id)
        self._connection.execute("INSERT OR IGNORE INTO part VALUES (?, ?, ?)", (*key, header.part))
        row = (
            header.incarnation,
            header.prev_lsn,
            header.from_lsn,
            header.to_lsn,
            header.parts,
            sha256,
            file,
            part.line,
        )
        done = self._connection.execute(f"INSERT OR IGNORE INTO tx VALUES ({', '.join('?' * 10)})", (*key, *row))
        if done.rowcount:
            return None
        found = self._connection.execute("SELECT * FROM tx WHERE source_node = ? AND tx_id = ?", key)
        return TxSeen(*found.fetchone())

    def txs(self) -> Iterator[TxSeen]:
        """Yield all txs in the order of each source's log."""
        query = "SELECT * FROM tx ORDER BY source_node, incarnation, prev_lsn, to_lsn"
        with closing(self._connection.execute(query)) as rows:
            for row in rows:
                yield TxSeen(*row)

    def parts_of(self, tx: TxSeen) -> set[int]:
        """Return which parts of a tx the files hold."""
        query = "SELECT part FROM part WHERE source_node = ? AND tx_id = ?"
        return {number for (number,) in self._connection.execute(query, (tx.source_node, tx.tx_id))}
