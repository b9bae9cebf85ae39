"""Paused tables: capture is off by command, batches are applied on, and `resume` logs what was written meanwhile.

`rf_paused_row` has a digest of each row as it was when the table was paused, or as it was applied since. A number for
each column, not one for the row: so they still tell when columns come or go."""

from collections.abc import Mapping, Sequence
from typing import Any

import psycopg

from common.dialects.postgresql.captured import CapturedTable
from common.dialects.postgresql.missed import columns_since, last_logged
from common.dialects.postgresql.naming import ident, literal, qualified
from common.dialects.postgresql.queries import escaped, recordset, same_key, target_rows
from common.dialects.postgresql.registry import Registry
from common.dialects.postgresql.rows import Rows
from common.dialects.postgresql.shapes import image_expression, key_expression, relation, rows_of
from common.dialects.postgresql.types import image_value
from common.errors import PausedError
from common.ports.dialect import ColumnShape, TableShape
from common.wire.records import TableMeta

Raw = psycopg.Connection[tuple[Any, ...]]


def remember_sql(table: CapturedTable) -> list[str]:
    """Return the statements that take the digests of a table that is to be paused. Needs the table's lock."""
    shape, kept = table.shape, qualified(table.home, "rf_paused_row")
    return [
        f"DELETE FROM {kept} WHERE table_id = {table.table_id}",
        f"INSERT INTO {kept} (table_id, key, shape_id, digest)\n"
        f"SELECT {table.table_id}, {key_expression(shape, 'r')}, {table.shape_id}, {_digest(shape, 'r')}"
        f" FROM {rows_of(table.shape)} r",
    ]


def written_meanwhile_sql(raw: Raw, table: CapturedTable, oid: int, *, rekeyed: bool) -> list[str]:
    """Return the statements that log what was written while a table was paused. Need the table's lock.

    `rekeyed`: its key has another type now, so all rows are sent under their new keys, and none is taken for gone."""
    shape, kept = table.shape, qualified(table.home, "rf_paused_row")
    changed = _differs(raw, shape, table.table_id, table.shape_id, oid)
    written = f"""INSERT INTO {table.log} (shape_id, op, old_tid, new_tid, pk, before, after)
SELECT {table.shape_id}, CASE WHEN p.key IS NULL THEN 'I' ELSE 'U' END,
       CASE WHEN p.key IS NOT NULL THEN c.place END, c.place, c.key,
       CASE WHEN p.key IS NOT NULL THEN coalesce(l.after, c.image) END, c.image
FROM (SELECT r.ctid AS place, {key_expression(shape, "r")} AS key, {image_expression(shape, "r")} AS image,
             {_digest(shape, "r")} AS digest
      FROM {rows_of(table.shape)} r) c
LEFT JOIN {kept} p ON p.table_id = {table.table_id} AND p.key = c.key
LEFT JOIN ({last_logged(table)}) l ON l.pk = c.key
WHERE p.key IS NULL OR {changed}"""
    gone = f"""INSERT INTO {table.log} (shape_id, op, pk, before)
SELECT {table.shape_id}, 'D', p.key, coalesce(l.after, p.key)
FROM {kept} p LEFT JOIN ({last_logged(table)}) l ON l.pk = p.key
WHERE p.table_id = {table.table_id}
  AND NOT EXISTS (SELECT FROM {rows_of(shape)} r WHERE {key_expression(shape, "r")} = p.key)"""
    return [written] if rekeyed else [written, gone]


class PausedRows:
    """The rows of one paused table, for one applying transaction."""

    def __init__(self, raw: Raw, table: TableShape, table_id: int) -> None:
        self._raw = raw
        self._table = table
        self._table_id = table_id
        self._shape_id = Registry(raw).add_shape(table_id, table.meta)

    def refuse_written_meanwhile(self, rows: Rows, pks: Sequence[bytes]) -> None:
        """Raise PausedError where one of these rows is not as it was sealed or applied last.

        Keeps writers off the table until the commit: one that inserts a row now would be overwritten unseen."""
        self._raw.execute(f"LOCK TABLE {relation(self._table)} IN SHARE ROW EXCLUSIVE MODE".encode())
        found = self._raw.execute(f"SELECT {literal(relation(self._table))}::regclass::oid::bigint".encode()).fetchone()
        oid = int(found[0]) if found else 0
        table, source = self._table, recordset(rows.key_readings(), "pks", numbered=True)
        changed = _differs(self._raw, table, self._table_id, self._shape_id, oid)
        query = f"""
SELECT c.key FROM (
    SELECT {escaped(key_expression(table, "r"))} AS key, t.ctid IS NOT NULL AS stands,
           {escaped(_digest(table, "t"))} AS digest
    FROM {source} LEFT JOIN {target_rows(table)} t ON {same_key(table, "t", "r")}
) c LEFT JOIN rf_paused_row p ON p.table_id = {self._table_id} AND p.key = c.key
WHERE CASE WHEN c.stands AND p.key IS NOT NULL THEN {escaped(changed)} ELSE c.stands OR p.key IS NOT NULL END LIMIT 1"""
        written = self._raw.execute(query.encode(), {"pks": rows.keys(pks)}).fetchone()
        if written is not None:
            raise PausedError(table.name, str(written[0]))

    def remember(self, rows: Rows, pks: Sequence[bytes], keys: Sequence[str]) -> None:
        """Take the digests of rows that were applied."""
        table = self._table
        gone = "DELETE FROM rf_paused_row WHERE table_id = %(table_id)s AND key = ANY(%(keys)s)"
        self._raw.execute(gone, {"table_id": self._table_id, "keys": list(keys)})
        source = recordset(rows.key_readings(), "pks")
        taken = (
            "INSERT INTO rf_paused_row (table_id, key, shape_id, digest)"
            f" SELECT {self._table_id}, {escaped(key_expression(table, 't'))}, {self._shape_id},"
            f" {escaped(_digest(table, 't'))} FROM {source} JOIN {target_rows(table)} t ON {same_key(table, 't', 'r')}"
        )
        self._raw.execute(taken.encode(), {"pks": rows.keys(pks)})


def _digest(shape: TableShape, row: str) -> str:
    return f"ARRAY[{', '.join(_number(column, row) for column in shape.written)}]::bigint[]"


def _number(column: ColumnShape, row: str) -> str:
    return f'hashtextextended(to_json({image_value(column, row)})::text COLLATE "C", 0)'


def _differs(raw: Raw, shape: TableShape, table_id: int, shape_id: int, oid: int) -> str:
    """The condition that a row `c` as it stands is not what its kept digest `p` tells, whatever shape that is of."""
    fresh = {new.name: (new.value, new.kind) for new in columns_since(raw, oid, 0)}
    cases = [
        f"WHEN {number} THEN {_differs_from(shape, meta, fresh)}"
        for number, meta in Registry(raw).shapes(table_id).items()
        if number != shape_id
    ]
    return f"CASE p.shape_id WHEN {shape_id} THEN p.digest IS DISTINCT FROM c.digest {' '.join(cases)} ELSE true END"


def _differs_from(shape: TableShape, before: TableMeta, fresh: Mapping[str, tuple[str | None, str]]) -> str:
    old = {name: place for place, name in enumerate(before.columns, start=1)}
    terms = []
    for place, column in enumerate(shape.written, start=1):
        was = f"p.digest[{old[column.name]}]" if column.name in old else _unwritten(column, *fresh[column.name])
        terms.append(f"{was} IS DISTINCT FROM c.digest[{place}]")
    return f"({' OR '.join(terms)})"


def _unwritten(column: ColumnShape, value: str | None, kind: str) -> str:
    """What a new column has in a row that nobody has written since."""
    stored = f"NULL::{kind}" if value is None else f"{literal(value)}::{kind}"
    return f"(SELECT {_number(column, 'd')} FROM (SELECT {stored} AS {ident(column.name)}) d)"
