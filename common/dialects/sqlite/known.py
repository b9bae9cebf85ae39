"""Digests that are remembered of rows, as the shape that a table has now would have them."""

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from common.dialects.sqlite.digests import Passage, shape_of
from common.dialects.sqlite.passages import passage_to
from common.dialects.sqlite.shapes import StoredShape

NOT_KNOWN = b""
"""In the place of a digest: there is a record of the row, and no digest of it. Equals none."""
_json = msgspec.json.Encoder()
_DIGESTS = (
    "SELECT v.key, v.digest, v.deleted OR EXISTS (SELECT 1 FROM main.rf_stepped_back AS s JOIN main.rf_table AS t"
    " ON t.name = s.table_name WHERE t.table_id = v.table_id AND s.key = v.key)"
    " FROM json_each(?) AS asked CROSS JOIN main.rf_row_version AS v ON v.table_id = ? AND v.key = asked.value"
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

        None stands for a tombstone or a row that steps back, `NOT_KNOWN` for a row of which there is no digest."""
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
            self._passages[both] = passage_to(connection, made_under, now.shape_id, now.shape)
        passage = self._passages[both]
        return NOT_KNOWN if passage is None else passage.translate(stored)
