"""Shapes by their number. A shape never changes once it has one, so what was read stays true."""

import json
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import psycopg

from common.dialects.postgresql.sealing_sql import SHAPES

Raw = psycopg.Connection[tuple[Any, ...]]

_FIRST_NAMES = """
SELECT h.shape_id, n.json_name FROM rf_shape h JOIN rf_table n USING (table_id) WHERE h.shape_id <= %s
"""
_MOST_NAMES = 100
"""Finding an element of an array takes time by its place."""


class ShapeCache:
    """Gives the `tables` of a tx header as JSON text."""

    def __init__(self) -> None:
        self._shapes: dict[int, tuple[str, dict[str, Any]]] = {}
        self._table_ids: dict[int, int] = {}
        self._headers: dict[tuple[int, ...], str] = {}

    def load(self, raw: Raw, numbers: Iterable[int]) -> None:
        """Read the shapes that are not known yet."""
        missing = sorted(set(numbers) - self._shapes.keys())
        if missing:
            for shape_id, table_id, name, meta in raw.execute(SHAPES, {"shapes": missing}):
                self._shapes[shape_id] = (name, json.loads(meta))
                self._table_ids[shape_id] = table_id

    def table_ids(self, numbers: Collection[int]) -> list[int]:
        """Return the tables of these shapes, by the shapes' places from 1; others have 0."""
        return [self._table_ids[number] if number in numbers else 0 for number in range(1, max(numbers) + 1)]

    def ids_of(self, numbers: Collection[int], names: Collection[str]) -> list[int]:
        """Return the tables of these shapes that have one of `names`."""
        return sorted({self._table_ids[number] for number in numbers if self._shapes[number][0] in names})

    def agree(self, numbers: Sequence[int]) -> bool:
        """Tell whether these shapes are of as many tables: a header describes a table once."""
        return len(numbers) == 1 or len({self._shapes[number][0] for number in numbers}) == len(numbers)

    def header_tables(self, numbers: Sequence[int]) -> str:
        """Return `{"orders":{"pk":["id"],"columns":{…}}}` for a tx whose rows have these shapes."""
        wanted = tuple(sorted(numbers))
        known = self._headers.get(wanted)
        if known is None:
            known = self._headers[wanted] = self._encoded(wanted)
        return known

    def _encoded(self, numbers: Sequence[int]) -> str:
        tables = dict(self._shapes[number] for number in numbers)
        return json.dumps(tables, ensure_ascii=False, separators=(",", ":"))


def first_table_names(raw: Raw) -> list[str | None]:
    """Return the name of the table, as JSON text, of each of the first shapes: by place, from 1; never empty."""
    names: dict[int, str] = dict(raw.execute(_FIRST_NAMES, (_MOST_NAMES,)).fetchall())
    return [names.get(shape_id) for shape_id in range(1, max(names, default=1) + 1)]
