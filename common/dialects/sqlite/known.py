"""Digests that are remembered of rows, as the shape that a table has now would have them."""

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass

import msgspec

from common.dialects.sqlite.digests import Passage, came_from, number_of, shape_of
from common.dialects.sqlite.names import literal
from common.dialects.sqlite.shapes import StoredShape, read_shape
from common.dialects.sqlite.values import Value, read_text

NOT_KNOWN = b""
"""In the place of a digest: there is a record of the row, and no digest of it. Equals none."""
_json = msgspec.json.Encoder()
_DIGESTS = (
    "SELECT v.key, v.digest, v.deleted FROM json_each(?) AS asked CROSS JOIN main.rf_row_version AS v"
    " ON v.table_id = ? AND v.key = asked.value"
)


@dataclass(frozen=True, slots=True)
class Captured:
    """A shape with its number in `rf_shape`."""

    shape_id: int
    shape: StoredShape


class KnownDigests:
    """Reads digests. Keeps how to translate those of older shapes, as long as no column's default changes."""

    def __init__(self) -> None:
        self._passages: dict[tuple[int, int], Passage | None] = {}

    def of(
        self, connection: sqlite3.Connection, table_id: int, now: Captured, keys: Sequence[str]
    ) -> tuple[dict[str, bytes | None], set[str]]:
        """Return the digests of these keys as the shape `now` has them; and which were made under an older one.

        None stands for a tombstone, `NOT_KNOWN` for a row of which there is no digest."""
        known: dict[str, bytes | None] = {}
        older: set[str] = set()
        for key, stored, deleted in connection.execute(_DIGESTS, (_json.encode(keys).decode(), table_id)):
            if deleted:
                known[key] = None
            elif stored is None:
                known[key] = NOT_KNOWN
            elif shape_of(stored) == now.shape_id:
                known[key] = stored
            else:
                known[key] = self._translated(connection, now, stored)
                older.add(key)
        return known, older

    def _translated(self, connection: sqlite3.Connection, now: Captured, stored: bytes) -> bytes:
        made_under = shape_of(stored)
        both = (made_under, now.shape_id)
        if both not in self._passages:
            self._passages[both] = _passage(connection, made_under, now)
        passage = self._passages[both]
        return NOT_KNOWN if passage is None else passage.translate(stored)


def _passage(connection: sqlite3.Connection, made_under: int, now: Captured) -> Passage | None:
    found = connection.execute("SELECT shape FROM main.rf_shape WHERE shape_id = ?", (made_under,)).fetchone()
    if found is None:
        return None
    places = came_from(read_shape(found[0]), now.shape)
    defaults = _defaults(connection, now.shape)
    fresh = tuple(number_of(defaults[column.name]) for column in now.shape.columns)
    return Passage(now.shape_id, places, fresh)


def _defaults(connection: sqlite3.Connection, shape: StoredShape) -> dict[str, Value]:
    """Return what each column holds where nobody gave it a value, as SQLite would store it."""
    written = connection.execute(f"SELECT name, dflt_value FROM pragma_table_xinfo({literal(shape.bare)})").fetchall()
    defaults = dict(written)
    found: dict[str, Value] = {}
    with closing(sqlite3.connect(":memory:")) as scratch:
        scratch.text_factory = read_text
        for place, column in enumerate(shape.columns):
            default = defaults[column.name]
            given = "" if default is None else f" DEFAULT ({default})"
            scratch.execute(f"CREATE TABLE t{place} (c {column.declared}{given})")
            scratch.execute(f"INSERT INTO t{place} DEFAULT VALUES")
            found[column.name] = scratch.execute(f"SELECT c FROM t{place}").fetchone()[0]
    return found
