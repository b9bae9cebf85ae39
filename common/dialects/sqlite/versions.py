"""Versions of rows, as `rf_row_version` keeps them."""

import sqlite3
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec

from common.versions import Version

_json = msgspec.json.Encoder()
_READ = (
    "SELECT v.key, v.main_epoch, v.hlc, v.node_id, v.base_epoch, v.base_hlc, v.base_node, v.deleted"
    " FROM json_each(?) AS asked CROSS JOIN main.rf_row_version AS v"
    " ON likelihood(v.table_id = ?, 0.000001) AND v.key = asked.value AND v.node_id <> ''"
)
"""By its key, also where the database was analyzed when there were hardly any versions."""
VERSION_COLUMNS = "table_id, key, main_epoch, hlc, node_id, base_epoch, base_hlc, base_node, deleted, digest"
VERSION_VALUES = "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"


class Record(NamedTuple):
    """What is known of one row."""

    version: Version
    base: Version
    deleted: bool
    digest: bytes | None = None
    """Of the row at this version, when it is written; not read back with the rest."""


def read_versions(connection: sqlite3.Connection, table_id: int, keys: Sequence[str]) -> dict[str, Record]:
    """Return the records of those keys that have one. What has a digest alone (rows older than capture) has none."""
    if not keys:
        return {}
    rows = connection.execute(_READ, (_json.encode(keys).decode(), table_id))
    # Plain tuples: there is one for each row of a batch.
    return {
        key: Record(Version(epoch, hlc, node), Version(base_epoch, base_hlc, base_node), bool(deleted))
        for key, epoch, hlc, node, base_epoch, base_hlc, base_node, deleted in rows
    }


def record_row(table_id: int, key: str, record: Record) -> tuple[object, ...]:
    """Return a record as `VERSION_COLUMNS` has it."""
    return (table_id, key, *record.version, *record.base, int(record.deleted), record.digest)


def upsert_versions(source: str) -> str:
    """Return the statement that stores records by table and key. `source`: a query, or VALUES, of `VERSION_COLUMNS`."""
    return (
        f"INSERT INTO main.rf_row_version ({VERSION_COLUMNS}) {source} ON CONFLICT (table_id, key) DO UPDATE SET"
        " main_epoch = excluded.main_epoch, hlc = excluded.hlc, node_id = excluded.node_id,"
        " base_epoch = excluded.base_epoch, base_hlc = excluded.base_hlc, base_node = excluded.base_node,"
        " deleted = excluded.deleted, digest = excluded.digest"
    )


_WRITE = upsert_versions(VERSION_VALUES)


def write_versions(connection: sqlite3.Connection, records: Iterable[tuple[int, str, Record]]) -> None:
    """Store records by table and key."""
    connection.executemany(_WRITE, (record_row(table_id, key, one) for table_id, key, one in records))
