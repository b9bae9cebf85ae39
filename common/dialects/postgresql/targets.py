"""Tables as they stand, beside what capture was made for on them."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeAlias

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
FROM unnest(%s::text[]) WITH ORDINALITY AS wanted (name, place) LEFT JOIN pg_class c ON c.oid = wanted.name::regclass
ORDER BY wanted.place
"""

_LIVE_TRIGGERS = """
SELECT wanted.name, p.proname::text
FROM unnest(%s::text[]) AS wanted (name)
JOIN pg_trigger t ON t.tgrelid = wanted.name::regclass
JOIN pg_proc p ON p.oid = t.tgfoid
WHERE t.tgenabled = 'O' AND p.pronamespace = current_schema()::regnamespace
"""

_Place: TypeAlias = tuple[str, str]
"""Schema and name of a table or a partition."""
_Triggers: TypeAlias = Mapping[str, Counter[str]]
"""By the qualified name of a table or a partition, how many triggers stand there of each function."""


class _Relation(NamedTuple):
    """What the catalog has of a table."""

    oid: int
    partitioned: bool
    last_column: int
    leaves: tuple[_Place, ...]
    owner: str


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
    # All at once: this is asked every few seconds, and there may be hundreds.
    standing = _standing(raw, tables)
    triggers = _live_triggers(raw, [place for shape, one in standing for place in _places(shape, one.leaves)])
    found = [_target(raw, shape, one, home, registered.get(shape.name), rules, triggers) for shape, one in standing]
    return [
        replace(target, known_as=old, before=registered[old], blind=_blind(target.shape, target.leaves, triggers, old))
        if (old := renamed.get(target.shape.name)) is not None
        else replace(target, made_anew=_is_made_anew(registry, target))
        for target in found
    ]


def _standing(raw: Raw, tables: Sequence[TableShape]) -> list[tuple[TableShape, _Relation]]:
    rows = raw.execute(_TARGETS.encode(), ([relation(shape) for shape in tables],)).fetchall()
    found = []
    for shape, (oid, partitioned, last_column, leaves, owner) in zip(tables, rows, strict=True):
        if oid is None:
            raise ConfigError(f"table {shape.name!r} is gone")
        places = tuple((schema, name) for schema, name in leaves)
        found.append((shape, _Relation(oid, partitioned, last_column, places, owner)))
    return found


def _is_made_anew(registry: Registry, target: Target) -> bool:
    before, oid = target.before, target.installed.relation
    return before is not None and before.relation != oid and registry.was_made_since(target.shape.name, oid)


def _target(
    raw: Raw,
    shape: TableShape,
    now: _Relation,
    home: str,
    before: Installed | None,
    rules: Rules,
    triggers: _Triggers,
) -> Target:
    append_only = shape.name in rules.append_only
    sequences = tuple(sequences_of(raw, shape)) if shape.name in rules.no_own_keys else ()
    made = CapturedTable(shape, home, 0, 0, now.partitioned, now.leaves, now.owner, append_only, named(sequences))
    installed = Installed(now.oid, now.last_column, shape.meta, _fingerprint(made))
    free = bool(sequences) and not triggers[relation(shape)][made.keys_function_name]
    blind = _blind(shape, now.leaves, triggers)
    return Target(shape, installed, now.partitioned, now.leaves, now.owner, append_only, sequences, before, blind, free)


def named(sequences: Sequence[KeySequence]) -> tuple[tuple[str, str], ...]:
    """Return columns and sequences as capture is made for them."""
    return tuple((one.column, one.name) for one in sequences)


def _fingerprint(table: CapturedTable) -> str:
    """A digest of what capture would be made of here, whatever its numbers are. An expression alone does not show
    that a number became a text."""
    parts = [encode_meta(table.shape.meta), *capture_sql(table)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _places(shape: TableShape, leaves: Sequence[_Place]) -> list[_Place]:
    return [(shape.schema or "", shape.bare), *leaves]


def _live_triggers(raw: Raw, places: Sequence[_Place]) -> _Triggers:
    # A partition may be captured by itself too.
    found = {qualified(*place): Counter[str]() for place in places}
    for name, function in raw.execute(_LIVE_TRIGGERS, (list(found),)):
        found[name][function] += 1
    return found


def _blind(
    shape: TableShape, leaves: Sequence[_Place], triggers: _Triggers, known_as: str | None = None
) -> tuple[_Place, ...]:
    made = CapturedTable(shape if known_as is None else replace(shape, name=known_as), "", 0, 0)

    def is_seen(place: _Place) -> bool:
        there = triggers[qualified(*place)]
        return sum(there[name] for name in made.function_names) == TRIGGERS_OF_A_TABLE

    return tuple(place for place in _places(shape, leaves) if not is_seen(place))


def home_schema(raw: Raw) -> str:
    """Return the schema of the `rf_*` tables."""
    row = raw.execute("SELECT current_schema()").fetchone()
    if row is None or row[0] is None:
        raise ConfigError("node.database: the account's search_path names no schema that exists")
    return str(row[0])
