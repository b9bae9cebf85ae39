"""Which captured tables have lost their triggers: SQLite drops them with a table, and who makes it anew has none."""

import sqlite3
from collections.abc import Mapping

from common.dialects.sqlite.catalog import Schema, SqliteTable
from common.dialects.sqlite.names import fold
from common.dialects.sqlite.triggers import table_triggers

_CAPTURED = "SELECT name, table_id, shape_id FROM main.rf_table WHERE shape_id IS NOT NULL"
_TRIGGERS = "SELECT name, tbl_name FROM main.sqlite_master WHERE type = 'trigger' AND name GLOB 'rf_*'"


class StandingTriggers:
    """Looks again only when the schema has changed, as `SchemaCache` does: triggers come and go by DDL."""

    def __init__(self) -> None:
        self._known: tuple[Schema, frozenset[str]] | None = None

    def missing(self, connection: sqlite3.Connection, schema: Schema) -> frozenset[str]:
        """Return the tables, by their names on the wire, that capture was installed for and of which a trigger is gone.

        What the triggers say is not looked at: after a change of columns they log on as they are."""
        known = self._known
        if known is None or known[0] is not schema:
            known = self._known = (schema, _missing(connection, schema.tables))
        return known[1]


def _missing(connection: sqlite3.Connection, tables: Mapping[str, SqliteTable]) -> frozenset[str]:
    standing = {(_step(name), fold(table)) for name, table in connection.execute(_TRIGGERS).fetchall()}
    found = []
    for name, table_id, shape_id in connection.execute(_CAPTURED).fetchall():
        table = tables.get(name)
        if table is None:
            continue
        bare = fold(table.shape.bare)
        if not standing.issuperset((_step(trigger), bare) for trigger in table_triggers(table_id, shape_id, table)):
            found.append(name)
    return frozenset(found)


def is_captured(connection: sqlite3.Connection, name: str) -> bool:
    """Tell whether a table still counts as captured: that it does not any more may be noted without a change of the
    schema, where its triggers were gone already."""
    query = "SELECT 1 FROM main.rf_table WHERE name = ? AND shape_id IS NOT NULL"
    return connection.execute(query, (name,)).fetchone() is not None


def _step(trigger: str) -> str:
    """Leave out what names the table: a table that was renamed since is captured on."""
    return trigger.partition(" (")[0]
