"""A transaction that altered a table between two of its writes: all its images are of the columns that it left.

A header names the columns that each image of its table has, and their types, so the images must agree. What stood in a
dropped column is in no row that the transaction left behind."""

from collections.abc import Iterable
from typing import Any

import psycopg

from common.dialects.postgresql.registry import Registry
from common.wire.records import TableMeta

Raw = psycopg.Connection[tuple[Any, ...]]

_METAS = """
SELECT s.shape_id, s.table_id, s.meta FROM rf_shape s
WHERE s.shape_id = ANY(%(shapes)s)
ORDER BY (SELECT max(l.seq) FROM rf_change_log l WHERE l.xid = %(xid)s::text::xid8 AND l.shape_id = s.shape_id)
"""
_TEXT = "e.value #>> '{{}}'"
# Of a kind that is no JSON of the other, whatever USING made of it, the value stays: who applies it sets it aside.
_RETYPED = f"""
CASE WHEN e.key = ANY(%(strings)s::text[]) AND json_typeof(e.value) IN ('number', 'boolean') THEN to_json({_TEXT})
     WHEN json_typeof(e.value) = 'string' AND (
          e.key = ANY(%(ints)s::text[]) AND {_TEXT} ~ '^-?(0|[1-9]\\d*)$'
          OR e.key = ANY(%(floats)s::text[]) AND {_TEXT} ~ '^-?(0|[1-9]\\d*)(\\.\\d+)?([eE][-+]?\\d+)?$'
          OR e.key = ANY(%(bools)s::text[]) AND {_TEXT} IN ('true', 'false')) THEN ({_TEXT})::json
     ELSE e.value END
"""
# json_each leaves the text of each value as it is; image and key are put together as the triggers do it.
_IMAGE = f"""
(SELECT concat('{{{{', string_agg(concat(to_json(e.key), ' : ', {_RETYPED}), ', ' ORDER BY e.place), '}}}}')
 FROM json_each(l.{{image}}::json) WITH ORDINALITY AS e(key, value, place) WHERE e.key = ANY(%(columns)s::text[]))
"""
_KEY = f"""
(SELECT concat('{{{{', string_agg(concat(to_json(e.key), ':', {_RETYPED}), ',' ORDER BY e.place), '}}}}')
 FROM json_each(l.pk::json) WITH ORDINALITY AS e(key, value, place))
"""
_NARROW = f"""
UPDATE rf_change_log l SET shape_id = %(shape)s, pk = {_KEY.format()},
    before = CASE WHEN l.before IS NOT NULL THEN {_IMAGE.format(image="before")} END,
    after = CASE WHEN l.after IS NOT NULL THEN {_IMAGE.format(image="after")} END
WHERE l.xid = %(xid)s::text::xid8 AND l.shape_id = ANY(%(others)s)
"""
_IN_NO_STRING = {"int": "ints", "float": "floats", "bool": "bools"}


def narrow(raw: Raw, xid: int, shapes: Iterable[int]) -> list[int]:
    """Bring a transaction's log rows to one shape for each table; return these shapes."""
    tables: dict[int, dict[int, TableMeta]] = {}
    for number, table_id, meta in raw.execute(_METAS, {"xid": xid, "shapes": sorted(shapes)}):
        tables.setdefault(table_id, {})[number] = TableMeta.model_validate_json(meta)
    left = []
    for table_id, metas in tables.items():
        common = _in_all(list(metas.values()))
        shape = Registry(raw).add_shape(table_id, common)
        others = sorted(metas.keys() - {shape})
        if others:
            given = {"xid": xid, "shape": shape, "others": others, "columns": list(common.columns)}
            raw.execute(_NARROW.encode(), given | _retyped(common, metas.values()))
        left.append(shape)
    return left


def _in_all(metas: list[TableMeta]) -> TableMeta:
    """The last shape, of the columns that are in all."""
    *others, last = metas
    columns = {name: kind for name, kind in last.columns.items() if all(name in one.columns for one in others)}
    return last.model_copy(update={"columns": columns})


def _retyped(common: TableMeta, metas: Iterable[TableMeta]) -> dict[str, list[str]]:
    """Columns that had another type in one of `metas`, by the JSON that they are now."""
    found: dict[str, list[str]] = {"strings": [], "ints": [], "floats": [], "bools": []}
    shapes = list(metas)
    for name, kind in common.columns.items():
        if kind != "bytes" and any(one.columns[name] != kind for one in shapes):
            found[_IN_NO_STRING.get(kind, "strings")].append(name)
    return found
