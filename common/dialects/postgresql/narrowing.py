"""A transaction that dropped a column between two of its writes: all its images are of the columns that it left.

A header names the columns that each image of its table has, so the images must agree. What stood in a dropped column
is in no row that the transaction left behind."""

from collections.abc import Iterable
from typing import Any

import psycopg

from common.dialects.postgresql.registry import Registry
from common.wire.records import TableMeta

Raw = psycopg.Connection[tuple[Any, ...]]

_METAS = "SELECT shape_id, table_id, meta FROM rf_shape WHERE shape_id = ANY(%s) ORDER BY shape_id"
# json_each leaves the text of each value as it is; the image is put together as the triggers do it.
_KEPT = """
(SELECT concat('{{', string_agg(concat(to_json(e.key), ' : ', e.value), ', ' ORDER BY e.place), '}}')
 FROM json_each(l.{image}::json) WITH ORDINALITY AS e(key, value, place) WHERE e.key = ANY(%(columns)s::text[]))
"""
_NARROW = f"""
UPDATE rf_change_log l SET shape_id = %(shape)s,
    before = CASE WHEN l.before IS NOT NULL THEN {_KEPT.format(image="before")} END,
    after = CASE WHEN l.after IS NOT NULL THEN {_KEPT.format(image="after")} END
WHERE l.xid = %(xid)s::text::xid8 AND l.shape_id = ANY(%(wider)s)
"""


def narrow(raw: Raw, xid: int, shapes: Iterable[int]) -> list[int]:
    """Bring a transaction's log rows to one shape for each table; return these shapes."""
    tables: dict[int, dict[int, TableMeta]] = {}
    for number, table_id, meta in raw.execute(_METAS, (sorted(shapes),)):
        tables.setdefault(table_id, {})[number] = TableMeta.model_validate_json(meta)
    left = []
    for table_id, metas in tables.items():
        common = _in_all(list(metas.values()))
        shape = Registry(raw).add_shape(table_id, common)
        wider = sorted(metas.keys() - {shape})
        if wider:
            given = {"xid": xid, "shape": shape, "wider": wider, "columns": list(common.columns)}
            raw.execute(_NARROW.encode(), given)
        left.append(shape)
    return left


def _in_all(metas: list[TableMeta]) -> TableMeta:
    *others, last = metas
    columns = {name: kind for name, kind in last.columns.items() if all(name in one.columns for one in others)}
    return last.model_copy(update={"columns": columns})
