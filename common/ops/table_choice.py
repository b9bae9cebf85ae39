"""Which tables the configuration asks for, checked against what the database holds."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from common.config.model import KeyRule, TablesSection
from common.config.schema_histories import why_left_out
from common.errors import ConfigError
from common.ports.dialect import Catalog, TableShape

EVERYTHING = "*"


@dataclass(frozen=True, slots=True)
class TableChoice:
    """The tables that travel, and what a person should know about them and the others."""

    captured: tuple[TableShape, ...]
    left_out: tuple[tuple[str, str], ...]
    """(name, why) of what `*` does not take in."""
    own_keys: tuple[str, ...]
    """Captured tables that number their own keys, and no setting says whose: two nodes would give the same one."""
    loose_keys: tuple[str, ...] = ()
    """What a person should know of each captured table whose database takes keys for one that Rowferry does not."""
    rounded: tuple[str, ...] = ()
    """What a person should know of captured tables with values that have no text without losses."""
    fed: tuple[str, ...] = ()
    """What a person should know of captured tables that the database's own replication writes."""
    key_notes: tuple[str, ...] = ()
    """What a person should know about `tables.keys`."""
    kept_off_in_vain: tuple[str, ...] = ()
    """The names in `tables.exclude` that keep no table off: they may be misspelt."""


def choose_tables(catalog: Catalog, tables: TablesSection) -> TableChoice:
    """Return the choice. Raises ConfigError that names every table that can't be kept in sync, and the remedy."""
    _refuse_unknown(catalog, tables)
    _refuse_keyless(catalog, tables)
    _refuse_stride(catalog, tables)
    captured = tuple(shape for name, shape in sorted(catalog.tables.items()) if tables.wants(name))
    everything = EVERYTHING in tables.include
    left_out = {**catalog.left_out, **_of_frameworks(catalog, tables)} if everything else {}
    return TableChoice(
        captured,
        tuple(sorted(left_out.items())),
        own_keys(captured, tables),
        tuple(_of_loose_key(shape.name, shape.loose_key) for shape in captured if shape.loose_key),
        tuple(_of_rounded(shape.name, shape.rounded) for shape in captured if shape.rounded),
        tuple(_of_fed(shape.name, shape.fed_by) for shape in captured if shape.fed_by),
        tuple(_key_notes({shape.name: shape for shape in captured}, tables)),
        tuple(_kept_off_in_vain(catalog, tables)),
    )


def vain_names(tables: TablesSection, choice: TableChoice) -> Iterator[tuple[str, str]]:
    """Yield of each name in `tables.policy` and `tables.exclude` that does nothing what it is, and what mends it."""
    captured = {shape.name for shape in choice.captured}
    for name in tables.policy:
        if name not in captured:
            yield f"tables.policy names {name!r}, which is not a captured table", "correct the name, or create it"
    for name in choice.kept_off_in_vain:
        yield f"tables.exclude names {name!r}, which is not a table of this database", "correct the name, or remove it"


def gone_tables(catalog: Catalog, tables: TablesSection) -> Iterator[str]:
    """Say what `tables.include` names and the database has no more: else `migrate` would have refused it."""
    there = _all_names(catalog)
    for name in tables.include:
        if name != EVERYTHING and name not in there:
            yield (
                f"tables.include names {name!r}, which is no longer a table of this database, and nothing of it is "
                "sent: if it was renamed, correct the name there and wherever else it is used (tables.policy, "
                "tables.keys), then run rowferry migrate; otherwise remove it"
            )


def own_keys(captured: Iterable[TableShape], tables: TablesSection) -> tuple[str, ...]:
    """Name the tables that number their own keys while no setting says whose numbers are whose."""
    return tuple(shape.name for shape in captured if shape.numbers_itself and shape.name not in tables.keys)


def _of_loose_key(name: str, what: str) -> str:
    return (
        f"the key of {name} has {what}: two ways to write it are one row to the database and two to Rowferry, and nodes"
        " where both are written stay different"
    )


def _of_rounded(name: str, columns: tuple[str, ...]) -> str:
    return (
        f"{name} has values that the database can't write as text without losing digits, and other nodes get them"
        f" rounded: {', '.join(columns)}"
    )


def _of_fed(name: str, subscriptions: tuple[str, ...]) -> str:
    return (
        f"{name} is written by logical replication (subscription {', '.join(subscriptions)}), for which triggers stay"
        " quiet: what comes that way is not captured and does not reach other nodes"
    )


def _key_notes(captured: Mapping[str, TableShape], tables: TablesSection) -> Iterator[str]:
    for name, rule in tables.keys.items():
        shape = captured.get(name)
        if shape is None:
            yield f"tables.keys names {name!r}, which is not a captured table: correct the name, or create it"
        elif rule is not KeyRule.SHARED and not shape.numbers_itself:
            yield f"tables.keys: the database generates no keys for {name} here, so {rule} does nothing"
        elif rule is KeyRule.STRIDE and shape.key_bits < tables.key_bits:
            yield (
                f"tables.keys: the key of {name} holds numbers of {shape.key_bits} bits: those from a node on SQLite "
                f"do not fit (tables.key_bits is {tables.key_bits}). If such a node takes part, make it a bigint"
            )


def _kept_off_in_vain(catalog: Catalog, tables: TablesSection) -> list[str]:
    known = _all_names(catalog)
    return [name for name in dict.fromkeys(tables.exclude) if name not in known]


def _all_names(catalog: Catalog) -> set[str]:
    return {*catalog.tables, *catalog.keyless, *catalog.left_out}


def _refuse_stride(catalog: Catalog, tables: TablesSection) -> None:
    faults = [
        f"{name}: {shape.no_stride}"
        for name in sorted(tables.with_keys(KeyRule.STRIDE))
        if (shape := catalog.tables.get(name)) and tables.wants(name) and shape.numbers_itself and shape.no_stride
    ]
    if faults:
        raise ConfigError(f"tables.keys: stride is not possible: {'; '.join(faults)}")


def _of_frameworks(catalog: Catalog, tables: TablesSection) -> dict[str, str]:
    names = (name for name in (*catalog.tables, *catalog.keyless) if name not in tables.exclude)
    return {name: why for name in names if (why := why_left_out(name)) and not tables.wants(name)}


def _refuse_unknown(catalog: Catalog, tables: TablesSection) -> None:
    """Refuse names that no table has, and those of views and the like, asked for by name."""
    known = {*catalog.tables, *catalog.keyless}
    faults = []
    for name in tables.include:
        if name == EVERYTHING or name in known:
            continue
        why = catalog.left_out.get(name)
        faults.append(f"{name!r} can't be kept in sync: {why}" if why else f"{name!r} is not a table of this database")
    if faults:
        raise ConfigError(
            f"tables.include: {'; '.join(faults)}. Correct the names (a table outside the default schema is written "
            "schema.name) or remove them"
        )


def _refuse_keyless(catalog: Catalog, tables: TablesSection) -> None:
    keyless = [name for name in catalog.keyless if tables.wants(name)]
    if keyless:
        names = ", ".join(keyless)
        raise ConfigError(
            f"tables.include: no primary key: {names}. A row without a key can't be identified on another node: add a "
            "primary key, or list the table in tables.exclude"
        )
