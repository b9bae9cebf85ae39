"""The numbers of tables and shapes, and what capture stands: `rf_table`, `rf_shape`, `rf_capture`."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import msgspec
import psycopg

from common.wire.records import TableMeta

Raw = psycopg.Connection[tuple[Any, ...]]

_CAPTURES = """
SELECT t.name, c.relation, c.last_column, s.meta, c.fingerprint
FROM rf_capture c JOIN rf_table t USING (table_id) JOIN rf_shape s USING (shape_id)
"""
_MADE_SINCE = """
SELECT 1 FROM rf_capture c JOIN rf_table t USING (table_id)
JOIN pg_attribute a ON a.attrelid = %s AND a.attnum = -1
WHERE t.name = %s AND age(a.xmin) < age(c.xmin)
"""
"""What the server notes of a table's system columns never changes, so it is as old as the table."""
_ADD_TABLE = """
INSERT INTO rf_table (table_id, name, json_name) SELECT coalesce(max(table_id), 0) + 1, %s, %s FROM rf_table
RETURNING table_id
"""
_ADD_SHAPE = """
INSERT INTO rf_shape (shape_id, table_id, meta) SELECT coalesce(max(shape_id), 0) + 1, %s, %s FROM rf_shape
RETURNING shape_id
"""
# Numbers come from a count and not from a sequence, so that a plan shows those that the installation will take.
_ONE_AT_A_TIME = "LOCK TABLE rf_table IN SHARE ROW EXCLUSIVE MODE"
_ADD_CAPTURE = """
INSERT INTO rf_capture (table_id, shape_id, relation, last_column, fingerprint) VALUES (%s, %s, %s, %s, %s)
ON CONFLICT (table_id) DO UPDATE
SET shape_id = excluded.shape_id, relation = excluded.relation, last_column = excluded.last_column,
    fingerprint = excluded.fingerprint
"""


@dataclass(frozen=True, slots=True)
class Installed:
    """What capture was installed for."""

    relation: int
    last_column: int
    """The number of the table's newest column then."""
    meta: TableMeta
    fingerprint: str


class Registry:
    """Reads and writes the registry within the caller's transaction.

    Before the first `migrate` the tables are not there: then it knows of nothing, and numbers are made up (a plan)."""

    def __init__(self, raw: Raw) -> None:
        self._raw = raw
        self._missing = self._number("SELECT 1 WHERE to_regclass('rf_capture') IS NULL") is not None
        self._invented = 0

    def captures(self) -> dict[str, Installed]:
        """Return what capture was installed for, by the table's name."""
        if self._missing:
            return {}
        return {
            name: Installed(relation, last_column, TableMeta.model_validate_json(meta), fingerprint)
            for name, relation, last_column, meta, fingerprint in self._raw.execute(_CAPTURES)
        }

    def was_made_since(self, name: str, oid: int) -> bool:
        """Tell whether a table is younger than the capture that was last installed under its name.

        Of a whole database that came out of a dump no table is: its rows come after all tables."""
        return not self._missing and self._number(_MADE_SINCE, (oid, name)) is not None

    def add_table(self, name: str) -> int:
        """Return the table's number, given now if it has none."""
        json_name = msgspec.json.encode(name).decode()
        return self._upsert(_ADD_TABLE, (name, json_name), "SELECT table_id FROM rf_table WHERE name = %s", (name,))

    def add_shape(self, table_id: int, meta: TableMeta) -> int:
        """Return the number of this shape, given now if it has none."""
        values = (table_id, encode_meta(meta))
        known = "SELECT shape_id FROM rf_shape WHERE table_id = %s AND meta = %s"
        return self._upsert(_ADD_SHAPE, values, known, values)

    def shapes(self, table_id: int) -> dict[int, TableMeta]:
        """Return the shapes that a table has had, by number."""
        found = self._raw.execute("SELECT shape_id, meta FROM rf_shape WHERE table_id = %s", (table_id,)).fetchall()
        return {number: TableMeta.model_validate_json(meta) for number, meta in found}

    def paused(self) -> set[str]:
        """Return the names of the tables that are paused."""
        if self._missing:
            return set()
        return {name for (name,) in self._raw.execute("SELECT table_name FROM rf_paused")}

    def add_paused(self, name: str, at_us: int, by: str) -> None:
        """Note that a table is paused."""
        values = (name, at_us, by)
        self._raw.execute("INSERT INTO rf_paused (table_name, since_us, paused_by) VALUES (%s, %s, %s)", values)

    def end_paused(self, names: Iterable[str]) -> set[str]:
        """Note that tables are no longer paused; return those that were."""
        gone = "DELETE FROM rf_paused WHERE table_name = ANY(%s) RETURNING table_name"
        return {name for (name,) in self._raw.execute(gone, (list(names),))}

    def forget_paused_rows(self, names: Iterable[str]) -> None:
        """Forget how the rows of these tables were when they were paused."""
        self._raw.execute(
            "DELETE FROM rf_paused_row p USING rf_table t WHERE t.table_id = p.table_id AND t.name = ANY(%s)",
            (list(names),),
        )

    def add_capture(self, table_id: int, shape_id: int, found: Installed) -> None:
        """Note what capture stands for now."""
        if not self._missing:
            given = (table_id, shape_id, found.relation, found.last_column, found.fingerprint)
            self._raw.execute(_ADD_CAPTURE, given)

    def forget_captures(self, names: Iterable[str] | None = None) -> None:
        """Note that capture was taken off these tables, or off all."""
        if self._missing:
            return
        if names is None:
            self._raw.execute("DELETE FROM rf_capture")
            return
        self._raw.execute(
            "DELETE FROM rf_capture USING rf_table t WHERE t.table_id = rf_capture.table_id AND t.name = ANY(%s)",
            (list(names),),
        )

    def _upsert(self, insert: str, values: tuple[Any, ...], select: str, key: tuple[Any, ...]) -> int:
        if self._missing:
            self._invented += 1
            return self._invented
        number = self._number(select, key)
        if number is None:
            self._raw.execute(_ONE_AT_A_TIME)
            number = self._number(select, key) or self._number(insert, values)
        if number is None:
            raise LookupError(f"{key!r} could not be registered")
        return number

    def _number(self, query: str, values: tuple[Any, ...] = ()) -> int | None:
        row = self._raw.execute(query.encode(), values).fetchone()
        return None if row is None else int(row[0])


def encode_meta(meta: TableMeta) -> str:
    """Return the shape as `rf_shape` and `rf_tx.tables` hold it; the order of keys and columns is kept."""
    return json.dumps({"pk": list(meta.pk), "columns": dict(meta.columns)}, ensure_ascii=False, separators=(",", ":"))
