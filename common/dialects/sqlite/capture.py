"""Puts capture on tables and takes it off; says what that would run, and which tables have drifted."""

import sqlite3
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import sqlalchemy as sa

from common.dialects.sqlite.catalog import SchemaCache, SqliteTable
from common.dialects.sqlite.connection import borrowed, transaction
from common.dialects.sqlite.digests import same_key
from common.dialects.sqlite.guards import DISPLACING, DISPLACING_DDL, has_table
from common.dialects.sqlite.key_ranges import KEY_RANGE, KEY_RANGE_DDL, going_along, putting_back, read_ranges, steering
from common.dialects.sqlite.missed import Comparison
from common.dialects.sqlite.names import literal, log_table, quote
from common.dialects.sqlite.paused import note_paused, note_resumed, paused_names
from common.dialects.sqlite.renamed import renamed_tables, taken_along_sql
from common.dialects.sqlite.shapes import StoredShape, TouchLog, last_shapes, stored_shape, touch_logs
from common.dialects.sqlite.triggers import (
    MARK_TRIGGER,
    guard_triggers,
    guards_by_table,
    is_steered,
    log_ddl,
    mark_trigger,
    table_of_trigger,
    table_triggers,
    trigger_prefix,
)
from common.errors import ConfigError
from common.ports.dialect import TableShape
from common.ports.rules import NO_RULES, Rules


@dataclass(slots=True)
class _Plan:
    """Statements in the order they must run, and the tables they are for."""

    sql: list[str] = field(default_factory=list)
    tables: list[str] = field(default_factory=list)


class SqliteCapture:
    """Capture of one database. Each call is one transaction, under the write lock; `install` compares rows after it."""

    def __init__(self, engine: sa.Engine, schemas: SchemaCache, rules: Rules = NO_RULES) -> None:
        self._engine = engine
        self._schemas = schemas
        self._rules = rules

    def plan(self, tables: Sequence[TableShape]) -> list[str]:
        """Return the SQL that `install` would run now; empty when all stands already."""
        with borrowed(self._engine) as connection, transaction(connection, "BEGIN"):
            return self._plan(connection, tables).sql

    def install(self, tables: Sequence[TableShape], *, briefly: bool = False) -> list[str]:
        """Install capture on exactly these tables, take it off others; safe to repeat. Returns the SQL that it ran.

        `briefly` is all one here: everybody waits for the one write lock.

        Takes digests of rows that have none. Where capture did not fit, the sealer compares the rows with theirs."""
        del briefly
        with borrowed(self._engine) as connection:
            with transaction(connection):
                ran = self._install(connection, tables)
            self._take_first_digests(connection)
        return ran

    def pause(self, tables: Sequence[TableShape], at_us: int, by: str) -> list[str]:
        """Take capture off these tables until `resume`; returns those that were not paused already."""
        with borrowed(self._engine) as connection:
            # What has no digest yet would pass for unchanged.
            self._take_first_digests(connection)
            with transaction(connection):
                paused = paused_names(connection)
                fresh = [shape.name for shape in tables if shape.name not in paused]
                for name in fresh:
                    note_paused(connection, name, at_us, by)
                    for trigger in _triggers_of(connection, name):
                        connection.execute(f"DROP TRIGGER {quote(trigger)}")
        return fresh

    def resume(self, names: Sequence[str], tables: Sequence[TableShape]) -> list[str]:
        """End the pause of these tables and install capture on `tables`. Sealing then compares their rows."""
        with borrowed(self._engine) as connection:
            with transaction(connection):
                note_resumed(connection, names)
                ran = self._install(connection, tables)
            self._take_first_digests(connection)
        return ran

    def uninstall(self) -> list[str]:
        """Take off every trigger that `install` made. The touch logs stay: what is in them can still be sealed."""
        with borrowed(self._engine) as connection, transaction(connection):
            triggers = [*_triggers(connection), *_nameless_triggers(connection)]
            statements = [f"DROP TRIGGER {quote(name)}" for name in triggers]
            statements.extend(putting_back(connection, ()))
            statements.append("UPDATE rf_table SET shape_id = NULL WHERE shape_id IS NOT NULL")
            for statement in statements:
                connection.execute(statement)
        return statements

    def uninstall_orphans(self) -> list[str]:
        """The same where the `rf_*` tables are gone, as in a copy that was made without them."""
        with borrowed(self._engine) as connection, transaction(connection):
            rows = connection.execute("SELECT name FROM main.sqlite_master WHERE type = 'trigger'").fetchall()
            ours = [name for (name,) in rows if name == MARK_TRIGGER or table_of_trigger(name) is not None]
            statements = [f"DROP TRIGGER {quote(name)}" for name in ours]
            for statement in statements:
                connection.execute(statement)
        return statements

    def drifted(self, tables: Sequence[TableShape]) -> list[str]:
        """Name the tables whose shape is not the one that capture was installed for, or whose triggers are gone."""
        with borrowed(self._engine) as connection, transaction(connection, "BEGIN"):
            wanted = {shape.name for shape in tables}
            return [name for name in self._plan(connection, tables).tables if name in wanted]

    def _install(self, connection: sqlite3.Connection, tables: Sequence[TableShape]) -> list[str]:
        plan = self._plan(connection, tables)
        for statement in plan.sql:
            connection.execute(statement)
        return plan.sql

    def _take_first_digests(self, connection: sqlite3.Connection) -> None:
        comparison = Comparison(self._schemas, first_only=True)
        while comparison.step(connection):
            pass

    def _plan(self, connection: sqlite3.Connection, tables: Sequence[TableShape]) -> _Plan:
        known, paused = self._schemas.read(connection).tables, paused_names(connection)
        wanted = [shape.name for shape in tables if shape.name not in paused]
        missing = [name for name in wanted if name not in known]
        if missing:
            raise ConfigError(f"tables.include: {missing[0]!r} is not a table with a primary key in this database")
        return _Planner(connection, known, wanted, paused, self._rules).plan()


class _Planner:
    """Compares what stands with what should stand. Of paused tables the touch log stays, and no trigger."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        known_tables: Mapping[str, SqliteTable],
        wanted: Sequence[str],
        paused: Collection[str],
        rules: Rules,
    ) -> None:
        self._tables = [known_tables[name] for name in wanted]
        self._paused = paused
        self._connection = connection
        self._can_note_displacing = has_table(connection, DISPLACING)
        self._can_steer = has_table(connection, KEY_RANGE)
        self._standing = _triggers(connection)
        self._standing_guards = guards_by_table(self._standing)
        self._logs = touch_logs(connection)
        known = connection.execute("SELECT name, table_id, compared FROM rf_table").fetchall()
        self._ids: dict[str, int] = {name: table_id for name, table_id, _ in known}
        self._renamed = renamed_tables(connection)
        names = {table_id: name for name, table_id in self._ids.items()}
        self._ranges = read_ranges(connection)
        self._share_known_as = going_along(
            self._ranges.values(),
            rules.stride,
            known_tables,
            {names[table_id]: now for now, table_id in self._renamed.items()},
        )
        self._rules = replace(rules, stride=rules.stride | self._share_known_as.keys())
        self._compared = {table_id for _, table_id, compared in known if compared == "done"}
        self._last_shapes = last_shapes(connection)
        self._next_table = _next(connection, "SELECT max(table_id) FROM rf_table")
        self._next_shape = _next(connection, "SELECT seq FROM sqlite_sequence WHERE name = 'rf_shape'")
        self._newest = {log.table_id: log for log in self._logs}
        self._empty = {log.shape_id for log in self._logs if _is_empty(connection, log)}

    def plan(self) -> _Plan:
        plan = _Plan()
        wanted = {MARK_TRIGGER}
        shape_ids = [log.shape_id for log in self._logs if log.current and log.shape.table in self._paused]
        for table in self._tables:
            before = len(plan.sql)
            table_id = self._table_id(table.shape.name, plan)
            shape_id = self._shape_id(table_id, stored_shape(table.shape), plan)
            triggers = table_triggers(table_id, shape_id, table)
            self._stand(triggers, plan)
            wanted.update(triggers)
            shape_ids.append(shape_id)
            if len(plan.sql) > before:
                plan.sql.extend(self._compare(table_id, table))
            wanted.update(self._guard(table_id, table, plan))
            self._steer(table, plan)
            if len(plan.sql) > before:
                plan.tables.append(table.shape.name)
        self._take_off(wanted, plan)
        self._put_back(plan)
        self._stand({MARK_TRIGGER: mark_trigger(shape_ids)}, plan)
        self._drop_logs(set(shape_ids), plan)
        return plan

    def _guard(self, table_id: int, table: SqliteTable, plan: _Plan) -> Iterable[str]:
        """Have just the guards stand that the rules ask for; return their names."""
        guards = guard_triggers(table_id, table, self._rules)
        if any(DISPLACING in sql for sql in guards.values()) and not self._can_note_displacing:
            plan.sql.extend(DISPLACING_DDL)
            self._can_note_displacing = True
        for name in [name for name in self._standing_guards.get(table_id, ()) if name not in guards]:
            plan.sql.append(f"DROP TRIGGER {quote(name)}")
            del self._standing[name]
        before = len(plan.sql)
        self._stand(guards, plan)
        if len(plan.sql) > before and self._can_note_displacing:
            # Rows may have gone since: what was noted of them would be held against new ones.
            plan.sql.append(f"DELETE FROM {DISPLACING} WHERE table_id = {table_id}")
        return guards

    def _steer(self, table: SqliteTable, plan: _Plan) -> None:
        if self._rules.share is None or not is_steered(table, self._rules):
            return
        if not self._can_steer:
            plan.sql.append(KEY_RANGE_DDL)
            self._can_steer = True
        known_as = self._share_known_as.get(table.shape.name)
        plan.sql.extend(steering(self._connection, table, self._rules.share, known_as))

    def _put_back(self, plan: _Plan) -> None:
        """Tables of which nothing is captured for now keep their share of keys."""
        steered = {table.shape.name for table in self._tables if is_steered(table, self._rules)} | {*self._paused}
        before = len(plan.sql)
        keep = {self._share_known_as.get(name, name) for name in steered} | {*self._paused}
        plan.sql.extend(putting_back(self._connection, keep))
        if len(plan.sql) > before:
            plan.tables.extend(name for name in self._ranges if name not in {*keep, *plan.tables})

    def _compare(self, table_id: int, table: SqliteTable) -> list[str]:
        """Capture was off, or did not fit: have the rows compared with what is known of them."""
        old = self._last_shapes.get(table_id)
        if old is not None and not same_key(old, stored_shape(table.shape)):
            # What is known goes by the old key, and says nothing of rows that are named by another.
            forget = f"UPDATE rf_row_version SET digest = NULL WHERE table_id = {table_id}"
            return [forget, f"UPDATE rf_table SET compared = 'first' WHERE table_id = {table_id}"]
        if table_id in self._compared:
            return [f"UPDATE rf_table SET compared = 'again' WHERE table_id = {table_id}"]
        return []

    def _table_id(self, name: str, plan: _Plan) -> int:
        if name in self._renamed:
            # Its rows keep their versions, and what is known of them tells what went by.
            self._ids[name] = self._renamed[name]
            plan.sql.extend(taken_along_sql(self._connection, self._ids[name], name))
        elif name not in self._ids:
            self._ids[name] = self._next_table
            self._next_table += 1
            plan.sql.append(f"INSERT INTO rf_table (table_id, name) VALUES ({self._ids[name]}, {literal(name)})")
        return self._ids[name]

    def _shape_id(self, table_id: int, shape: StoredShape, plan: _Plan) -> int:
        """Return the shape's number; a changed shape gets a touch log of its own, the old one is sealed as it is."""
        newest = self._newest.get(table_id)
        if newest is not None and newest.shape == shape:
            if not newest.current:
                plan.sql.append(_point(table_id, newest.shape_id))
            return newest.shape_id
        shape_id = self._next_shape
        self._next_shape += 1
        row = f"{shape_id}, {table_id}, {literal(shape.text())}"
        plan.sql.append(f"INSERT INTO rf_shape (shape_id, table_id, shape) VALUES ({row})")
        plan.sql.append(log_ddl(shape_id, len(shape.columns)))
        plan.sql.append(_point(table_id, shape_id))
        return shape_id

    def _stand(self, triggers: dict[str, str], plan: _Plan) -> None:
        for name, sql in triggers.items():
            if name in self._standing and self._standing[name] == sql:
                continue
            if name in self._standing:
                plan.sql.append(f"DROP TRIGGER {quote(name)}")
            plan.sql.append(sql)

    def _take_off(self, wanted: set[str], plan: _Plan) -> None:
        plan.sql.extend(f"DROP TRIGGER {quote(name)}" for name in self._standing if name not in wanted)
        kept = {self._ids[table.shape.name] for table in self._tables}
        for log in self._logs:
            if log.current and log.table_id not in kept and log.shape.table not in self._paused:
                plan.sql.append(f"UPDATE rf_table SET shape_id = NULL WHERE table_id = {log.table_id}")

    def _drop_logs(self, used: set[int], plan: _Plan) -> None:
        """Take away the touch logs that nobody writes any more, once they are sealed. Digests need the shapes."""
        for log in self._logs:
            if log.shape_id in self._empty - used:
                plan.sql.append(f"DROP TABLE {log_table(log.shape_id)}")


def _point(table_id: int, shape_id: int) -> str:
    return f"UPDATE rf_table SET shape_id = {shape_id} WHERE table_id = {table_id}"


def _next(connection: sqlite3.Connection, query: str) -> int:
    found = connection.execute(query).fetchone()
    return int(found[0] or 0) + 1 if found else 1


def _is_empty(connection: sqlite3.Connection, log: TouchLog) -> bool:
    return connection.execute(f"SELECT 1 FROM {log_table(log.shape_id)} LIMIT 1").fetchone() is None


def _triggers_of(connection: sqlite3.Connection, table: str) -> list[str]:
    known = connection.execute("SELECT table_id FROM rf_table WHERE name = ?", (table,)).fetchone()
    return (
        [] if known is None else [name for name in _triggers(connection) if name.startswith(trigger_prefix(known[0]))]
    )


def _triggers(connection: sqlite3.Connection) -> dict[str, str]:
    """Return the triggers that capture made, name to SQL."""
    rows: Iterable[tuple[str, str]] = connection.execute(
        "SELECT name, sql FROM main.sqlite_master WHERE type = 'trigger' AND name GLOB 'rf_*'"
    ).fetchall()
    table_ids = [table_id for (table_id,) in connection.execute("SELECT table_id FROM rf_table").fetchall()]
    ours = (MARK_TRIGGER, *(trigger_prefix(table_id) for table_id in table_ids))
    return {name: sql for name, sql in rows if name.startswith(ours)}


def _nameless_triggers(connection: sqlite3.Connection) -> list[str]:
    """Return the triggers of a copy of the schema alone, where nothing is known of their tables."""
    if connection.execute("SELECT EXISTS (SELECT 1 FROM rf_table)").fetchone()[0]:
        return []
    rows = connection.execute("SELECT name FROM main.sqlite_master WHERE type = 'trigger'").fetchall()
    return [name for (name,) in rows if table_of_trigger(name) is not None]
