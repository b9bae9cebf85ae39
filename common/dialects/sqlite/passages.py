"""What rows that nobody wrote to have under another shape: renamed columns, defaults of new ones."""

import sqlite3
from contextlib import closing

from common.dialects.sqlite.digests import Passage, came_from, number_of
from common.dialects.sqlite.names import literal
from common.dialects.sqlite.shapes import StoredShape, TouchLog, read_shape
from common.dialects.sqlite.values import Value, read_text


def passage_to(connection: sqlite3.Connection, made_under: int, shape_id: int, shape: StoredShape) -> Passage | None:
    """Return the way from digests of the shape `made_under` to another's; None where the first is not known."""
    found = connection.execute("SELECT shape FROM main.rf_shape WHERE shape_id = ?", (made_under,)).fetchone()
    if found is None:
        return None
    old = read_shape(found[0])
    places = came_from(old, shape)
    defaults = column_defaults(connection, shape)
    fresh = tuple(number_of(defaults[column.name]) for column in shape.columns)
    kept = tuple(
        now
        for now, (before, column) in enumerate(zip(places, shape.columns, strict=True))
        if before is not None and old.columns[before].declared == column.declared
    )
    return Passage(shape_id, places, fresh, kept, _loses_names(old, shape))


def lost_names(connection: sqlite3.Connection, log: TouchLog) -> bool:
    """Tell whether a name of the shape before this one is gone."""
    query = "SELECT shape FROM main.rf_shape WHERE table_id = ? AND shape_id < ? ORDER BY shape_id DESC LIMIT 1"
    found = connection.execute(query, (log.table_id, log.shape_id)).fetchone()
    return found is not None and _loses_names(read_shape(found[0]), log.shape)


def _loses_names(old: StoredShape, new: StoredShape) -> bool:
    there = {column.name for column in new.columns}
    return old.table != new.table or any(column.name not in there for column in old.columns)


def column_defaults(connection: sqlite3.Connection, shape: StoredShape) -> dict[str, Value]:
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
