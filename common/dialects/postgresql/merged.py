"""Rows of which another node's write left some columns as they stood here, since it does not know of them.

Such a row is like no other node's, and its version says the opposite. So it is sent again whole, on top of that
version, where such a column holds something else than a row has there by itself: a node that gets the column
later has it from here. It goes as an insert: nobody updated it, and an append-only table takes nothing else."""

from collections.abc import Sequence
from typing import Any

import psycopg

from common.dialects.postgresql.missed import UNKNOWN_WHEN
from common.dialects.postgresql.naming import ident
from common.dialects.postgresql.queries import escaped, recordset, same_key, target_rows
from common.dialects.postgresql.registry import encode_meta
from common.dialects.postgresql.rows import Rows
from common.dialects.postgresql.shapes import image_expression, key_expression, relation
from common.dialects.postgresql.types import image_value
from common.ports.dialect import TableShape
from common.wire.records import TableMeta

Raw = psycopg.Connection[tuple[Any, ...]]

_USUAL = """
SELECT a.attname, coalesce(
    CASE WHEN a.atthasmissing THEN quote_literal((a.attmissingval::text::text[])[1]) END,
    CASE WHEN d.adbin::text LIKE '{CONST%%' THEN pg_get_expr(d.adbin, d.adrelid) END, 'NULL'),
    format_type(a.atttypid, a.atttypmod)
FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE a.attrelid = %s::regclass AND a.attname = ANY(%s)
"""
"""What a column has by itself: what rows had when it came, else its default where that is plain."""


class MergedRows:
    """Notes such rows of one applying transaction, and logs them at its end."""

    def __init__(self, raw: Raw) -> None:
        self._raw = raw
        self._found: list[tuple[Rows, list[str], list[bytes]]] = []

    def note(self, rows: Rows, meta: TableMeta, pks: Sequence[bytes]) -> None:
        """Note those of the rows with these keys that stand; they are about to be written as `meta` describes them."""
        unnamed = [column.name for column in rows.table.written if column.name not in meta.columns]
        if not unnamed or not pks:
            return
        source = recordset(rows.key_readings(), "pks", numbered=True)
        query = f"SELECT r.rf_place FROM {source} JOIN {target_rows(rows.table)} t ON {same_key(rows.table, 't', 'r')}"
        standing = [pks[place - 1] for (place,) in self._raw.execute(query.encode(), {"pks": rows.keys(pks)})]
        if standing:
            self._found.append((rows, unnamed, standing))

    def log(self) -> None:
        """Have them sealed as this node's own writes, if they still stand and capture fits their table."""
        for rows, unnamed, pks in self._found:
            usual = self._raw.execute(_USUAL, (relation(rows.table), unnamed)).fetchall()
            given = {"pks": rows.keys(pks), "table": rows.table.name, "meta": encode_meta(rows.table.meta)}
            self._raw.execute(_log_sql(rows, usual).encode(), given)


def _log_sql(rows: Rows, usual: Sequence[tuple[Any, ...]]) -> str:
    table: TableShape = rows.table
    columns = {column.name: column for column in table.columns}
    values = escaped(", ".join(f"({value})::{kind} AS {ident(name)}" for name, value, kind in usual))
    differs = " OR ".join(
        f"{image_value(columns[name], 't')} IS DISTINCT FROM {image_value(columns[name], 'd')}" for name, _, _ in usual
    )
    key, image = escaped(key_expression(table, "t")), escaped(image_expression(table, "t"))
    return f"""INSERT INTO rf_change_log (captured_at, shape_id, op, old_tid, new_tid, pk, before, after)
SELECT {UNKNOWN_WHEN}, c.shape_id, 'I', NULL, t.ctid, {key}, NULL, i.image
FROM {recordset(rows.key_readings(), "pks")} JOIN {target_rows(table)} t ON {same_key(table, "t", "r")}
CROSS JOIN LATERAL (SELECT {image} AS image) i CROSS JOIN (SELECT {values}) d
JOIN rf_table n ON n.name = %(table)s JOIN rf_capture c USING (table_id)
JOIN rf_shape s ON s.shape_id = c.shape_id AND s.meta = %(meta)s
WHERE {escaped(differs)}"""
