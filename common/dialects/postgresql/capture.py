"""Installs, checks and takes off the triggers of capture."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg
import sqlalchemy as sa

from common.dialects.postgresql.captured import FUNCTION_PREFIXES, CapturedTable
from common.dialects.postgresql.connection import driver, pin_settings
from common.dialects.postgresql.errors import translated
from common.dialects.postgresql.key_shares import KeyShares, unreadable
from common.dialects.postgresql.missed import (
    Missing,
    are_needed,
    columns_since,
    missed_sql,
    partitions_left,
    renamed_or_added,
)
from common.dialects.postgresql.naming import ident, qualified
from common.dialects.postgresql.paused import remember_sql, written_meanwhile_sql
from common.dialects.postgresql.registry import Registry
from common.dialects.postgresql.renamed import taken_along_sql
from common.dialects.postgresql.shapes import relation
from common.dialects.postgresql.targets import Target, home_schema, named, targets_of
from common.dialects.postgresql.triggers import capture_sql, drop_sql
from common.errors import ConfigError, ContentionError
from common.ports.dialect import TableShape
from common.ports.rules import NO_RULES, Rules
from common.wire.records import TableMeta

Raw = psycopg.Connection[tuple[Any, ...]]

_LOCK_TIMEOUT = "500ms"
"""CREATE TRIGGER waits for open transactions on its table, and new ones wait behind it. Callers try again."""
_TURN_TIMEOUT = "10s"
"""Another process that installs capture; no writer waits for this. For those who have the time."""
_SHORT_LOCK_TIMEOUT = "50ms"
"""After the first table that is held; and after the first that is done, for who has no time."""

_FUNCTIONS = """
SELECT n.nspname, p.proname, pg_get_function_identity_arguments(p.oid)
FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
WHERE n.nspname = current_schema() AND starts_with(p.proname, %s)
ORDER BY p.proname, 3
"""


class PostgresCapture:
    """Capture by row triggers that write one row to `rf_change_log` and do nothing else."""

    def __init__(self, engine: sa.Engine, rules: Rules = NO_RULES) -> None:
        self._engine = engine
        self._rules = rules

    def plan(self, tables: Sequence[TableShape]) -> list[str]:
        """Return the SQL that `install` would run now; empty when all stands already."""
        with translated(), self._engine.connect() as connection:
            raw = driver(connection)
            registry = Registry(raw)
            paused = registry.paused()
            targets = targets_of(raw, _without(tables, paused), self._rules)
            statements = _taken_off(raw, registry, targets, paused)
            for target in targets:
                statements += _made_anew(raw, registry, target)
            statements += KeyShares(raw, self._rules).plan(tables, paused)
            connection.rollback()
        return statements

    def install(self, tables: Sequence[TableShape], *, briefly: bool = False) -> list[str]:
        """Install capture on exactly these tables, take it off others; safe to repeat. Returns the SQL that it ran.

        `briefly`: wait no longer for another process that installs than for one that holds a table.

        Raises ConfigError where the account lacks a right on some of the tables, and ContentionError where open
        transactions hold some; the others have capture then."""
        with self._changing(_LOCK_TIMEOUT if briefly else _TURN_TIMEOUT) as raw:
            statements, failed = _install(raw, tables, self._rules, briefly=briefly)
        failed.tell()
        return statements

    def pause(self, tables: Sequence[TableShape], at_us: int, by: str) -> list[str]:
        """Take capture off these tables until `resume`; returns those that were not paused already."""
        with self._changing() as raw:
            registry = Registry(raw)
            paused = registry.paused()
            fresh = _without(tables, paused)
            for target in targets_of(raw, fresh, self._rules):
                _pause(raw, registry, target)
                registry.add_paused(target.shape.name, at_us, by)
        return [shape.name for shape in fresh]

    def resume(self, names: Sequence[str], tables: Sequence[TableShape]) -> list[str]:
        """End the pause of these tables and install capture on `tables`; what was written meanwhile is logged."""
        with self._changing() as raw:
            registry = Registry(raw)
            resumed = registry.end_paused(names)
            statements, failed = _install(raw, tables, self._rules, resumed)
            if resumed & failed.names:
                # Taken back: they stay paused, and their digests.
                failed.tell()
            registry.forget_paused_rows(resumed)
        failed.tell()
        return statements

    def uninstall(self) -> list[str]:
        """Take off every trigger and function that `install` made. The log stays."""
        with translated(), self._engine.begin() as connection:
            raw = driver(connection)
            statements = _all_dropped(raw)
            statements += KeyShares(raw, NO_RULES).install((), ())[0]
            Registry(raw).forget_captures()
        return statements

    def uninstall_orphans(self) -> list[str]:
        """The same where the `rf_*` tables are gone, as in a copy that was made without them."""
        with translated(), self._engine.begin() as connection:
            return _all_dropped(driver(connection))

    def drifted(self, tables: Sequence[TableShape]) -> list[str]:
        """Name the tables whose shape is not the one that capture was installed for, or whose triggers are gone."""
        with translated(), self._engine.connect() as connection:
            raw = driver(connection)
            paused = Registry(raw).paused()
            targets = targets_of(raw, _without(tables, paused), self._rules)
            found = dict.fromkeys(target.shape.name for target in targets if not target.stands)
            stray = KeyShares(raw, self._rules).stray(tables, paused)
        return list(found | dict.fromkeys(stray))

    @contextmanager
    def _changing(self, turn_timeout: str = _TURN_TIMEOUT) -> Iterator[Raw]:
        with translated(), self._engine.begin() as connection:
            raw = driver(connection)
            pin_settings(raw, lock_timeout=turn_timeout)
            # One at a time: two that find the same table without its triggers would both log what went by.
            _run(raw, ["LOCK TABLE rf_capture IN SHARE ROW EXCLUSIVE MODE"])
            pin_settings(raw, lock_timeout=_LOCK_TIMEOUT)
            yield raw


def _install(
    raw: Raw, tables: Sequence[TableShape], rules: Rules, resumed: Collection[str] = (), *, briefly: bool = False
) -> "tuple[list[str], _Failed]":
    """Install capture on tables; return what ran, and where it could not.

    `briefly`: wait half a second in all. Who reads one table and then writes another one, which is done and locked by
    then, would be the one that the server's search for deadlocks kills; the rest has its turn at the next look."""
    failed = _Failed()
    registry = Registry(raw)
    paused = registry.paused()
    targets = targets_of(raw, _without(tables, paused), rules)
    statements = _taken_off(raw, registry, targets, paused)
    _run(raw, statements)
    for target in targets:
        try:
            with raw.transaction():
                made = _made_anew(raw, registry, target, resumed=target.shape.name in resumed)
                _run(raw, made)
        except psycopg.errors.InsufficientPrivilege as error:
            failed.refused[target.shape.name] = _grant(raw, target.shape, error)
        except ContentionError as error:
            failed.held[target.shape.name] = error
            # Writers of the tables that are done wait meanwhile.
            pin_settings(raw, lock_timeout=_SHORT_LOCK_TIMEOUT)
        else:
            statements += made
            if made and briefly:
                pin_settings(raw, lock_timeout=_SHORT_LOCK_TIMEOUT)
            if not all(one.readable for one in target.sequences):
                failed.refused[target.shape.name] = unreadable(target.sequences, raw.info.user)
    ran, refused = KeyShares(raw, rules).install(tables, paused)
    failed.refused.update(refused)
    return [*statements, *ran], failed


@dataclass(slots=True)
class _Failed:
    """Tables on which capture could not be installed."""

    refused: dict[str, str] = field(default_factory=dict)
    """What would help, for each on which the account lacks a right."""
    held: dict[str, ContentionError] = field(default_factory=dict)
    """By an open transaction."""

    @property
    def names(self) -> set[str]:
        return {*self.refused, *self.held}

    def tell(self) -> None:
        """Raise what there is to tell, if anything."""
        for error in self.held.values():
            raise error
        if self.refused:
            raise ConfigError(f"capture can't be installed everywhere: {'; '.join(self.refused.values())}")


def _pause(raw: Raw, registry: Registry, target: Target) -> None:
    table = _registered(registry, target, home_schema(raw))
    # EXCLUSIVE: an applier that has locked rows without knowing of the pause must end first.
    statements = [f"LOCK TABLE {relation(target.shape)} IN EXCLUSIVE MODE"]
    if not target.stands:
        statements += missed_sql(table, _missing(raw, target))
    _run(raw, [*statements, *remember_sql(table), *_drops_of(raw, target.shape.name)])


def _taken_off(raw: Raw, registry: Registry, targets: Sequence[Target], paused: Collection[str]) -> list[str]:
    """The statements that take capture off what is no target. Of paused tables nothing stands, and all is kept."""
    wanted = {*paused, *(name for target in targets for name in (target.shape.name, target.known_as))}
    dropped = [name for name in registry.captures() if name not in wanted]
    registry.forget_captures(dropped)
    return [drop for name in dropped for drop in _drops_of(raw, name)]


def _made_anew(raw: Raw, registry: Registry, target: Target, *, resumed: bool = False) -> list[str]:
    """The statements that install capture on a table and log what was missed; none where it stands."""
    if target.stands:
        return []
    table = _registered(registry, target, home_schema(raw))
    missed = _missed(raw, table, target, resumed=resumed)
    drops = _drops_of(raw, target.shape.name)
    if target.known_as is not None:
        drops += _drops_of(raw, target.known_as)
        missed = taken_along_sql(registry, table, target.known_as) + missed
        registry.forget_captures([target.known_as])
    return [*_lock(target.shape), *drops, *capture_sql(table), *missed]


def _missed(raw: Raw, table: CapturedTable, target: Target, *, resumed: bool) -> list[str]:
    if not resumed:
        return missed_sql(table, _missing(raw, target))
    before = target.before
    if before is None or set(before.meta.pk) != set(target.shape.pk):
        return []
    rekeyed = _retyped(before.meta, target.shape.meta, target.shape.pk)
    return written_meanwhile_sql(raw, table, target.installed.relation, rekeyed=rekeyed)


def _run(raw: Raw, statements: Iterable[str]) -> None:
    for statement in statements:
        try:
            raw.execute(statement.encode())
        except psycopg.errors.LockNotAvailable as error:
            raise ContentionError(
                f"a transaction that is still open holds the table (pg_stat_activity, pg_locks): {statement}"
            ) from error


def _grant(raw: Raw, shape: TableShape, error: psycopg.Error) -> str:
    rights = f"GRANT SELECT, INSERT, UPDATE, DELETE, TRIGGER ON {relation(shape)} TO {ident(raw.info.user)}"
    return f"{error.diag.message_primary}: as the owner run {rights}"


def _registered(registry: Registry, target: Target, home: str) -> CapturedTable:
    table_id = registry.add_table(target.shape.name)
    shape_id = registry.add_shape(table_id, target.shape.meta)
    registry.add_capture(table_id, shape_id, target.installed)
    return CapturedTable(
        target.shape,
        home,
        table_id,
        shape_id,
        target.partitioned,
        target.leaves,
        target.owner,
        target.append_only,
        named(target.sequences),
    )


def _missing(raw: Raw, target: Target) -> Missing:
    """What capture missed since it was installed; nothing if it is new here, or if the rows have another key now."""
    before, oid = target.before, target.installed.relation
    if before is None or set(before.meta.pk) != set(target.shape.pk):
        return Missing()
    is_blind = target.made_anew or (target.shape.schema, target.shape.bare) in target.blind
    if is_blind or _retyped(before.meta, target.shape.meta):
        return Missing(whole=True, rekeyed=_retyped(before.meta, target.shape.meta, target.shape.pk))
    if before.relation != oid:
        # It came out of a dump of the whole database, with its triggers: nothing went by.
        return Missing()
    _, truncate = CapturedTable(target.shape, "", 0, 0).function_names
    fresh = [name for name in target.shape.meta.columns if name not in before.meta.columns]
    added = columns_since(raw, oid, before.last_column)
    if any(new.name not in target.shape.meta.columns for new in added):
        raise ContentionError(f"{target.shape.name} was altered while it was looked at")
    return Missing(
        leaves=target.blind,
        left=partitions_left(raw, oid, truncate) if target.partitioned else (),
        shrank=target.partitioned,
        added=added,
        since=renamed_or_added(raw, oid, before.last_column, fresh),
        needed=are_needed(raw, oid, before.last_column, fresh),
    )


def _without(tables: Sequence[TableShape], names: Collection[str]) -> list[TableShape]:
    return [shape for shape in tables if shape.name not in names]


def _retyped(before: TableMeta, now: TableMeta, among: Iterable[str] | None = None) -> bool:
    names = now.columns if among is None else among
    return any(before.columns.get(name, now.columns[name]) != now.columns[name] for name in names)


def _drops_of(raw: Raw, name: str) -> list[str]:
    made = CapturedTable(TableShape(name, None, name, (), ()), "", 0, 0)
    wanted = {made.capture, made.truncate, made.reshaped, made.pinned, made.keys}
    return [drop for prefix in FUNCTION_PREFIXES for drop in _drops(raw, prefix, wanted)]


def _all_dropped(raw: Raw) -> list[str]:
    """Drop all of our functions, with the triggers that call them, and return the statements that did."""
    raw.execute("SELECT set_config('lock_timeout', %s, true)", (_LOCK_TIMEOUT,))
    statements = [drop for prefix in FUNCTION_PREFIXES for drop in _drops(raw, prefix)]
    _run(raw, statements)
    return statements


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
