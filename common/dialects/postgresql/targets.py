"""Tables as they stand, beside what capture was made for on them."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import psycopg

from common.dialects.postgresql.captured import CapturedTable
from common.dialects.postgresql.key_sequences import KeySequence, sequences_of
from common.dialects.postgresql.naming import qualified
from common.dialects.postgresql.queries import partition_tree
from common.dialects.postgresql.registry import Installed, Registry, encode_meta
from common.dialects.postgresql.renamed import renamed_tables
from common.dialects.postgresql.shapes import relation
from common.dialects.postgresql.standing_triggers import TRIGGERS_OF_A_TABLE
from common.dialects.postgresql.triggers import capture_sql
from common.errors import ConfigError
from common.ports.dialect import TableShape
from common.ports.rules import Rules

Raw = psycopg.Connection[tuple[Any, ...]]

_TARGETS = f"""
SELECT c.oid, c.relkind = 'p', c.relnatts,
       array({partition_tree("c.oid")}
             SELECT ARRAY[n.nspname::text, l.relname::text] FROM tree
             JOIN pg_class l ON l.oid = tree.relid JOIN pg_namespace n ON n.oid = l.relnamespace
             WHERE l.relkind <> 'p' AND l.oid <> c.oid ORDER BY 1),
       pg_get_userbyid(c.relowner)
FROM pg_class c WHERE c.oid = %s::regclass
"""

_LIVE_TRIGGERS = """
SELECT t.tgrelid, count(*) FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid
WHERE t.tgrelid = ANY(%s::oid[]) AND p.proname = ANY(%s::name[]) AND t.tgenabled = 'O'
  AND p.pronamespace = current_schema()::regnamespace
GROUP BY t.tgrelid
"""


@dataclass(frozen=True, slots=True)
class Target:
    """A table as it stands, beside what capture was made for."""

    shape: TableShape
    installed: Installed
    """As it is to be noted."""
    partitioned: bool
    leaves: tuple[tuple[str, str], ...]
    owner: str
    append_only: bool
    sequences: tuple[KeySequence, ...]
    """Of a table whose keys another node gives: what they would be counted by here."""
    before: Installed | None = None
    blind: tuple[tuple[str, str], ...] = ()
    """Where the triggers do not stand: the table itself or some of its partitions."""
    free: bool = False
    """The guard of its keys does not stand."""
    made_anew: bool = False
    """It is another table than capture was installed on; it may have got triggers of that name with its rows."""
    known_as: str | None = None
    """The name that capture was installed for, where the table was renamed since."""

    @property
    def stands(self) -> bool:
        return not self.blind and not self.free and self.before == self.installed


def targets_of(raw: Raw, tables: Sequence[TableShape], rules: Rules) -> list[Target]:
    """Return the tables as they stand. Raises ConfigError for one that is gone."""
    registry = Registry(raw)
    registered, home = registry.captures(), home_schema(raw)
    renamed = renamed_tables(raw, tables, registered, registry.paused())
    found = [_target(raw, shape, home, registered.get(shape.name), rules) for shape in tables]
    return [
        replace(target, known_as=old, before=registered[old], blind=_blind(raw, target.shape, target.leaves, old))
        if (old := renamed.get(target.shape.name)) is not None
        else replace(target, made_anew=_is_made_anew(registry, target))
        for target in found
    ]


def _is_made_anew(registry: Registry, target: Target) -> bool:
    before, oid = target.before, target.installed.relation
    return before is not None and before.relation != oid and registry.was_made_since(target.shape.name, oid)


def _target(raw: Raw, shape: TableShape, home: str, before: Installed | None, rules: Rules) -> Target:
    row = raw.execute(_TARGETS.encode(), (relation(shape),)).fetchone()
    if row is None:
        raise ConfigError(f"table {shape.name!r} is gone")
    oid, partitioned, last_column, found, owner = row
    leaves = tuple((schema, name) for schema, name in found)
    append_only = shape.name in rules.append_only
    sequences = tuple(sequences_of(raw, shape)) if shape.name in rules.no_own_keys else ()
    made = CapturedTable(shape, home, 0, 0, partitioned, leaves, owner, append_only, named(sequences))
    installed = Installed(oid, last_column, shape.meta, _fingerprint(made))
    blind, free = _blind(raw, shape, leaves), bool(sequences) and not _is_guarded(raw, oid, made)
    return Target(shape, installed, partitioned, leaves, owner, append_only, sequences, before, blind, free)


def named(sequences: Sequence[KeySequence]) -> tuple[tuple[str, str], ...]:
    """Return columns and sequences as capture is made for them."""
    return tuple((one.column, one.name) for one in sequences)


def _fingerprint(table: CapturedTable) -> str:
    """A digest of what capture would be made of here, whatever its numbers are. An expression alone does not show
    that a number became a text."""
    parts = [encode_meta(table.shape.meta), *capture_sql(table)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _blind(
    raw: Raw, shape: TableShape, leaves: tuple[tuple[str, str], ...], known_as: str | None = None
) -> tuple[tuple[str, str], ...]:
    places = ((shape.schema or "", shape.bare), *leaves)
    names = [qualified(*place) for place in places]
    oids = [row[0] for row in raw.execute("SELECT x::regclass::oid FROM unnest(%s::text[]) x", (names,))]
    made = CapturedTable(shape if known_as is None else replace(shape, name=known_as), "", 0, 0)
    live = raw.execute(_LIVE_TRIGGERS, (oids, list(made.function_names)))
    found: Mapping[int, int] = dict(live.fetchall())
    return tuple(place for place, oid in zip(places, oids, strict=True) if found.get(oid) != TRIGGERS_OF_A_TABLE)


def _is_guarded(raw: Raw, oid: int, made: CapturedTable) -> bool:
    return raw.execute(_LIVE_TRIGGERS, ([oid], [made.keys_function_name])).fetchone() is not None


def home_schema(raw: Raw) -> str:
    """Return the schema of the `rf_*` tables."""
    row = raw.execute("SELECT current_schema()").fetchone()
    if row is None or row[0] is None:
        raise ConfigError("node.database: the account's search_path names no schema that exists")
    return str(row[0])
