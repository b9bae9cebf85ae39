"""What a set of files holds, kept on disk while it is looked through: memory stays bounded."""

import sqlite3
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from types import TracebackType

from common.wire.compress import compress, decompress
from common.wire.headers import read_header
from common.wire.limits import UNBOUNDED
from common.wire.records import BatchHeader, Part

_SCHEMA = """
CREATE TABLE tx (source_node TEXT, tx_id TEXT, incarnation TEXT, prev_lsn INTEGER, from_lsn INTEGER, to_lsn INTEGER,
                 sha256 TEXT, file TEXT, line INTEGER, PRIMARY KEY (source_node, tx_id)) WITHOUT ROWID;
CREATE TABLE part (source_node TEXT, tx_id TEXT, parts INTEGER, part INTEGER, sha256 TEXT, file TEXT, line INTEGER,
                   header TEXT, payload BLOB, PRIMARY KEY (source_node, tx_id, parts, part));
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
    sha256: str
    file: str
    line: int


@dataclass(frozen=True, slots=True)
class PartSeen:
    """One part of a tx, where its header was first seen."""

    part: int
    sha256: str
    """Over its change and chunk lines."""
    file: str
    line: int


@dataclass(frozen=True, slots=True)
class Cut:
    """A tx as it was cut into so many parts. The same tx may come cut in several ways."""

    source_node: str
    tx_id: str
    parts: int


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

    def add(self, header: BatchHeader, sha256: str, file: str, line: int) -> TxSeen | None:
        """Keep a tx; `sha256` is its content. Returns it as first seen, None when this is the first."""
        key = (header.source_node, header.tx_id)
        row = (header.incarnation, header.prev_lsn, header.from_lsn, header.to_lsn, sha256, file, line)
        done = self._connection.execute(f"INSERT OR IGNORE INTO tx VALUES ({', '.join('?' * 9)})", (*key, *row))
        if done.rowcount:
            return None
        found = self._connection.execute("SELECT * FROM tx WHERE source_node = ? AND tx_id = ?", key)
        return TxSeen(*found.fetchone())

    def add_part(self, part: Part, sha256: str, file: str) -> PartSeen:
        """Keep a part with its lines, whose checksum is `sha256`. Returns it as first seen."""
        header = part.header
        key = (header.source_node, header.tx_id, header.parts, header.part)
        row = (sha256, file, part.line, part.raw[: part.raw.index(b"\n")].decode(), compress(part.payload, "zstd"))
        done = self._connection.execute(f"INSERT OR IGNORE INTO part VALUES ({', '.join('?' * 9)})", (*key, *row))
        if done.rowcount:
            return PartSeen(header.part, sha256, file, part.line)
        query = f"SELECT part, sha256, file, line FROM part WHERE {_CUT} AND part = ?"
        return PartSeen(*self._connection.execute(query, key).fetchone())

    def txs(self) -> Iterator[TxSeen]:
        """Yield all txs in the order of each source's log."""
        query = "SELECT * FROM tx ORDER BY source_node, incarnation, prev_lsn, to_lsn"
        with closing(self._connection.execute(query)) as rows:
            for row in rows:
                yield TxSeen(*row)

    def cuts(self) -> list[Cut]:
        """Return the ways in which txs were cut into parts, as far as parts are here."""
        query = "SELECT DISTINCT source_node, tx_id, parts FROM part ORDER BY rowid"
        return [Cut(*row) for row in self._connection.execute(query)]

    def parts_of(self, cut: Cut) -> list[PartSeen]:
        """Return which parts are here, in their order."""
        query = f"SELECT part, sha256, file, line FROM part WHERE {_CUT} ORDER BY part"
        return [PartSeen(*row) for row in self._connection.execute(query, _key(cut))]

    def headers_of(self, cut: Cut) -> Iterator[BatchHeader]:
        """Yield the headers of the parts that are here, in their order."""
        query = f"SELECT header FROM part WHERE {_CUT} ORDER BY part"
        with closing(self._connection.execute(query, _key(cut))) as rows:
            for (header,) in rows:
                yield read_header(header.encode())

    def payloads_of(self, cut: Cut) -> Generator[bytes]:
        """Yield the lines of the parts in their order, one part at a time."""
        query = f"SELECT payload FROM part WHERE {_CUT} ORDER BY part"
        with closing(self._connection.execute(query, _key(cut))) as rows:
            for (payload,) in rows:
                yield decompress(payload, "zstd", UNBOUNDED)


_CUT = "source_node = ? AND tx_id = ? AND parts = ?"


def _key(cut: Cut) -> tuple[str, str, int]:
    return cut.source_node, cut.tx_id, cut.parts
