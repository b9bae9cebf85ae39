"""Installs, checks and takes off the triggers of capture."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
import sqlalchemy as sa

from common.dialects.postgresql.connection import driver
from common.dialects.postgresql.errors import translated
from common.dialects.postgresql.naming import qualified
from common.dialects.postgresql.registry import Registry, encode_meta
from common.dialects.postgresql.shapes import relation
from common.dialects.postgresql.triggers import (
    FUNCTION_PREFIXES,
    TRIGGER_NAME,
    TRUNCATE_TRIGGER_NAME,
    CapturedTable,
    capture_sql,
    drop_sql,
)
from common.errors import ConfigError
from common.ports.dialect import TableShape

Raw = psycopg.Connection[tuple[Any, ...]]

_LOCK_TIMEOUT = "3s"
"""CREATE TRIGGER waits for open transactions on its table, and new ones wait behind it."""

_TARGETS = """
SELECT c.oid, c.relkind = 'p',
       array(SELECT ARRAY[n.nspname::text, l.relname::text] FROM pg_partition_tree(c.oid) p
             JOIN pg_class l ON l.oid = p.relid JOIN pg_namespace n ON n.oid = l.relnamespace
             WHERE p.isleaf AND p.relid <> c.oid ORDER BY 1)
FROM pg_class c WHERE c.oid = %s::regclass
"""

_FUNCTIONS = """
SELECT n.nspname, p.proname, pg_get_function_identity_arguments(p.oid)
FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
WHERE n.nspname = current_schema() AND starts_with(p.proname, %s)
ORDER BY p.proname, 3
"""

_LIVE_TRIGGERS = """
SELECT t.tgrelid, count(*) FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid
WHERE t.tgrelid = ANY(%s::oid[]) AND t.tgname = ANY(%s::name[]) AND t.tgenabled = 'O'
  AND p.pronamespace = current_schema()::regnamespace
GROUP BY t.tgrelid
"""
_TRIGGERS_OF_A_TABLE = 2


@dataclass(frozen=True, slots=True)
class _Target:
    """A table as it stands, beside what capture was made for."""

    shape: TableShape
    relation: int
    partitioned: bool
    leaves: tuple[tuple[str, str], ...]
    stands: bool


class PostgresCapture:
    """Capture by row triggers that write one row to `rf_change_log` and do nothing else."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def plan(self, tables: Sequence[TableShape]) -> list[str]:
        """Return the SQL that `install` would run now; empty when all stands already."""
        with translated(), self._engine.connect() as connection:
            statements = self._statements(driver(connection), tables)
            connection.rollback()
        return statements

    def install(self, tables: Sequence[TableShape]) -> list[str]:
        """Install capture on exactly these tables, take it off others; safe to repeat. Returns the SQL that it ran."""
        with translated(), self._engine.begin() as connection:
            raw = driver(connection)
            raw.execute("SELECT set_config('lock_timeout', %s, true)", (_LOCK_TIMEOUT,))
            statements = self._statements(raw, tables)
            for statement in statements:
                raw.execute(statement.encode())
        return statements

    def uninstall(self) -> list[str]:
        """Take off every trigger and function that `install` made. The log stays."""
        with translated(), self._engine.begin() as connection:
            raw = driver(connection)
            raw.execute("SELECT set_config('lock_timeout', %s, true)", (_LOCK_TIMEOUT,))
            statements = [drop for prefix in FUNCTION_PREFIXES for drop in _drops(raw, prefix)]
            for statement in statements:
                raw.execute(statement.encode())
            Registry(raw).forget_captures()
        return statements

    def drifted(self, tables: Sequence[TableShape]) -> list[str]:
        """Name the tables whose shape is not the one that capture was installed for, or whose triggers are gone."""
        with translated(), self._engine.connect() as connection:
            targets = _targets(driver(connection), tables)
        return [target.shape.name for target in targets if not target.stands]

    def _statements(self, raw: Raw, tables: Sequence[TableShape]) -> list[str]:
        registry = Registry(raw)
        home = _home(raw)
        targets = _targets(raw, tables)
        wanted = {target.shape.name for target in targets}
        dropped = [name for name in registry.captures() if name not in wanted]
        statements = [drop for name in dropped for drop in _drops_of(raw, name)]
        registry.forget_captures(dropped)
        for target in targets:
            if not target.stands:
                statements += _lock(target.shape)
                statements += _drops_of(raw, target.shape.name)
                statements += capture_sql(_registered(registry, target, home))
        return statements


def _registered(registry: Registry, target: _Target, home: str) -> CapturedTable:
    table_id = registry.add_table(target.shape.name)
    shape_id = registry.add_shape(table_id, target.shape.meta)
    registry.add_capture(table_id, shape_id, target.relation, _fingerprint(target, home))
    return CapturedTable(target.shape, home, table_id, shape_id, target.partitioned, target.leaves)


def _targets(raw: Raw, tables: Sequence[TableShape]) -> list[_Target]:
    registered = Registry(raw).captures()
    home = _home(raw)
    targets = []
    for shape in tables:
        row = raw.execute(_TARGETS, (relation(shape),)).fetchone()
        if row is None:
            raise ConfigError(f"table {shape.name!r} is gone")
        oid, partitioned, leaves = row
        target = _Target(shape, oid, partitioned, tuple((schema, name) for schema, name in leaves), stands=False)
        expected = (oid, _fingerprint(target, home))
        stands = registered.get(shape.name) == expected and _triggers_stand(raw, target)
        targets.append(_Target(shape, oid, partitioned, target.leaves, stands))
    return targets


def _fingerprint(target: _Target, home: str) -> str:
    """A digest of what capture would be made of here, whatever its numbers are. An expression alone does not show
    that a number became a text."""
    made = CapturedTable(target.shape, home, 0, 0, target.partitioned, target.leaves)
    parts = [encode_meta(target.shape.meta), *capture_sql(made)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _triggers_stand(raw: Raw, target: _Target) -> bool:
    names = [relation(target.shape), *(qualified(*leaf) for leaf in target.leaves)]
    oids = [row[0] for row in raw.execute("SELECT x::regclass::oid FROM unnest(%s::text[]) x", (names,))]
    live = raw.execute(_LIVE_TRIGGERS, (oids, [TRIGGER_NAME, TRUNCATE_TRIGGER_NAME]))
    found: Mapping[int, int] = dict(live.fetchall())
    return all(found.get(oid) == _TRIGGERS_OF_A_TABLE for oid in oids)


def _drops_of(raw: Raw, name: str) -> list[str]:
    made = CapturedTable(TableShape(name, None, name, (), ()), "", 0, 0)
    wanted = {made.capture, made.truncate}
    return [drop for prefix in FUNCTION_PREFIXES for drop in _drops(raw, prefix, wanted)]


def _drops(raw: Raw, prefix: str, only: Iterable[str] | None = None) -> list[str]:
    """The statements that drop our functions of one kind, with the triggers that call them."""
    found = raw.execute(_FUNCTIONS, (prefix,)).fetchall()
    return [
        drop_sql(schema, function, arguments)
        for schema, function, arguments in found
        if only is None or qualified("", function) in only
    ]


def _lock(shape: TableShape) -> list[str]:
    # An open transaction that wrote the table must end first, or it would be captured under two shapes.
    return [f"LOCK TABLE {relation(shape)} IN SHARE ROW EXCLUSIVE MODE"]


def _home(raw: Raw) -> str:
    row = raw.execute("SELECT current_schema()").fetchone()
    if row is None or row[0] is None:
        raise ConfigError("node.database: the account's search_path names no schema that exists")
    return str(row[0])
