"""`rf_row_version`: the version of each row, read and written under the lock of `rf_seal`."""

from collections.abc import Sequence
from typing import Any

from common.dialects.postgresql.arrays import number_array, text_array
from common.dialects.postgresql.prepared import Prepared
from common.ports.dialect import RowState, RowWrite
from common.versions import NEVER, Version

_READ = """
SELECT k.key, (SELECT table_id FROM rf_table WHERE name = %(table)s),
       EXISTS (SELECT FROM rf_paused WHERE table_name = %(table)s),
       v.main_epoch, v.hlc, v.node_id, v.base_epoch, v.base_hlc, v.base_node, v.deleted
FROM ({keys}) AS k
LEFT JOIN LATERAL (
    SELECT * FROM rf_row_version v
    WHERE v.table_id = (SELECT table_id FROM rf_table WHERE name = %(table)s) AND v.key = k.key COLLATE "C" LIMIT 1
) v ON true
ORDER BY k.rf_place
"""
INTO_ROW_VERSION = """
INSERT INTO rf_row_version AS v
    (table_id, key, main_epoch, hlc, node_id, base_epoch, base_hlc, base_node, deleted)
"""
OVER_WHAT_STANDS = """
ON CONFLICT (table_id, key) DO UPDATE
SET main_epoch = excluded.main_epoch, hlc = excluded.hlc, node_id = excluded.node_id,
    base_epoch = excluded.base_epoch, base_hlc = excluded.base_hlc, base_node = excluded.base_node,
    deleted = excluded.deleted
"""
_INSERT = f"""{INTO_ROW_VERSION}
SELECT %(table_id)s, * FROM unnest(
    %(keys)s::text[], %(epochs)s::int[], %(hlcs)s::bigint[], %(nodes)s::text[],
    %(base_epochs)s::int[], %(base_hlcs)s::bigint[], %(base_nodes)s::text[], %(deleted)s::bool[])
"""
_UPSERT = _INSERT + OVER_WHAT_STANDS


def versions_query(keys: str) -> str:
    """Return the query for the versions of what `keys` selects as `key` and `rf_place`; its parameter is `table`.

    Each row begins with the key, the table's number, and whether the table is paused."""
    return _READ.replace("{keys}", keys)


def row_states(found: Sequence[tuple[Any, ...]]) -> list[RowState]:
    """Return the states that rows of that query tell, in the order of the keys."""
    return [
        RowState(key, Version(epoch, hlc, node), Version(base_epoch, base_hlc, base_node), deleted, known=True)
        if epoch is not None
        else RowState(key, NEVER, NEVER, deleted=False, known=False)
        for key, _, _, epoch, hlc, node, base_epoch, base_hlc, base_node, deleted in found
    ]


class RowVersions:
    """Writes the versions of one applying transaction."""

    def __init__(self, prepared: Prepared) -> None:
        self._prepared = prepared
        self._unknown: dict[str, set[str]] = {}
        """By table: keys that had no version when they were locked. Under that lock nobody else makes one."""

    def found(self, table: str, states: Sequence[RowState]) -> None:
        """Take note of what stands in the database."""
        self._unknown.setdefault(table, set()).update(state.key for state in states if not state.known)

    def write(self, table: str, table_id: int, writes: Sequence[RowWrite]) -> None:
        """Record the versions of rows that were written; at most one write a key."""
        unknown = self._unknown.get(table, set())
        # A row older than `migrate` has no record: whoever writes it next inserts one.
        writes = [write for write in writes if write.version != NEVER]
        first = [write for write in writes if write.key in unknown]
        again = [write for write in writes if write.key not in unknown] if len(first) < len(writes) else []
        # Once: the write may be taken back by a savepoint, and then it is not known what stands.
        unknown.difference_update(write.key for write in first)
        if first:
            self._prepared.execute(_INSERT, _parameters(table_id, first))
        if again:
            self._prepared.execute(_UPSERT.encode(), _parameters(table_id, again))


def _parameters(table_id: int, writes: Sequence[RowWrite]) -> dict[str, object]:
    return {
        "table_id": table_id,
        "keys": text_array([write.key for write in writes]),
        "epochs": number_array([write.version.main_epoch for write in writes]),
        "hlcs": number_array([write.version.hlc for write in writes]),
        "nodes": text_array([write.version.node_id for write in writes]),
        "base_epochs": number_array([write.base.main_epoch for write in writes]),
        "base_hlcs": number_array([write.base.hlc for write in writes]),
        "base_nodes": text_array([write.base.node_id for write in writes]),
        "deleted": number_array([int(write.image is None) for write in writes]),
    }
