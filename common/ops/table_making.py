"""Tables that this database lacks, made from descriptions of another node's: `snapshot import --create-tables`.

Carried: columns with type, NULL, constant default and counting; primary key, unique keys, foreign keys among the tables
described. Not carried, and named in `TablePlan.left_out`: other indexes, unique indexes with an expression or a
condition, CHECK and EXCLUDE constraints, triggers, defaults that are expressions, partitions, references to other
tables; not named: comments, owners, rights, storage, PostgreSQL's collations, deferrable unique keys, MATCH FULL.
Which type becomes which: docs/reference/snapshot-tables.md.

Descriptions are not trusted: each is checked here, rendered by the dialect, and what it led to is compared with it
before the commit."""

from collections.abc import Iterator, Mapping, Sequence

from common.errors import ContentionError, PreflightError
from common.ports.dialect import Catalog, Database, TableShape
from common.ports.table_making import ColumnPlan, MakingHere, ReferencePlan, TableMaking, TablePlan

__all__ = ["ColumnPlan", "TablePlan", "describe", "make", "statements"]

_DIALECTS = frozenset({"postgresql", "sqlite"})
_LOGICAL = frozenset(
    {"int", "decimal", "float", "bool", "text", "bytes", "uuid", "json"}
    | {"date", "time", "timestamp", "timestamptz", "interval"}
)
_RESERVED = ("rf_", "sqlite_")

Script = list[tuple[str, str]]
"""Table and statement."""


def describe(database: Database, shapes: Sequence[TableShape]) -> dict[str, TablePlan]:
    """Return a plan of each of these tables of `database`, by name. References to other tables are left out.

    Raises ContentionError where one was altered since its shape was read."""
    try:
        return database.table_making().describe(shapes)
    except KeyError as error:
        raise ContentionError(f"{error.args[0]} was altered a moment ago") from error


def statements(database: Database, plans: Mapping[str, TablePlan]) -> list[str]:
    """Return the SQL that `make` would run now: of tables that stand already, whatever their shape, none.

    Raises PreflightError for a plan that can't be carried out here, with table, column and remedy."""
    making, catalog = database.table_making(), database.catalog()
    missing = _missing(making, catalog, plans)
    _check_references(missing, catalog)
    return [sql for _, sql in _script(making.prepare(missing), missing)]


def make(database: Database, plans: Mapping[str, TablePlan]) -> list[str]:
    """Make the tables of `plans` that are missing, all in one transaction or none; return the SQL that ran.

    Raises PreflightError as `statements` does, and where a table would not have become what its plan says."""
    making, catalog = database.table_making(), database.catalog()
    missing = _missing(making, catalog, plans)
    if not missing:
        return []
    _check_references(missing, catalog)
    here = making.prepare(missing)
    script = _script(here, missing)
    making.run(script, lambda made: _compare(here, missing, made))
    return [sql for _, sql in script]


def _missing(making: TableMaking, catalog: Catalog, plans: Mapping[str, TablePlan]) -> dict[str, TablePlan]:
    """Leave out the tables that stand."""
    standing = {making.same_table(name) for name in catalog.tables}
    taken = {making.same_table(name): "it has no primary key" for name in catalog.keyless}
    taken |= {making.same_table(name): why for name, why in catalog.left_out.items()}
    missing: dict[str, TablePlan] = {}
    for name, plan in plans.items():
        same = making.same_table(name)
        if name != plan.name:
            raise PreflightError(f"table {name}: its description is that of {plan.name}")
        if same in taken:
            raise PreflightError(f"table {name}: one of that name is here and can't be synchronised: {taken[same]}")
        if same not in standing:
            _check_plan(plan)
            # A second one in other letters, where the database takes both for one.
            taken[same] = f"the snapshot has {name} beside it"
            missing[name] = plan
    return missing


def _check_plan(plan: TablePlan) -> None:
    """Raise PreflightError for a description that no database has given."""
    if plan.dialect not in _DIALECTS:
        raise _refused(plan, f"tables of {plan.dialect!r} are not known")
    if any(part.lower().startswith(_RESERVED) for part in (plan.name, plan.name.rpartition(".")[2])):
        raise _refused(plan, "names like this are Rowferry's or SQLite's own")
    names = [column.name for column in plan.columns]
    if any(not name or "\0" in name for name in (plan.name, *names)):
        raise _refused(plan, "a name is empty or has a NUL in it")
    if len(set(names)) < len(names):
        raise _refused(plan, "a column is there twice")
    for column in plan.columns:
        if column.generated:
            raise _refused(
                plan,
                f"column {column.name} is generated, and its expression is not carried: create the table first",
            )
        if column.logical not in _LOGICAL and not column.logical.startswith("pg:"):
            raise _refused(plan, f"column {column.name} has the unknown type {column.logical!r}")
    for key in (plan.pk, *(one.columns for one in plan.unique_keys), *(one.columns for one in plan.foreign_keys)):
        if not key or len(set(key)) < len(key) or not set(key) <= set(names):
            raise _refused(plan, f"({', '.join(key)}) is no key of its columns")


def _refused(plan: TablePlan, why: str) -> PreflightError:
    return PreflightError(f"table {plan.name} can't be made: {why}")


def _check_references(plans: Mapping[str, TablePlan], catalog: Catalog) -> None:
    for plan in plans.values():
        for reference in plan.foreign_keys:
            _check_reference(plan, reference, plans, catalog)


def _script(here: MakingHere, plans: Mapping[str, TablePlan]) -> Script:
    script: Script = []
    later: Script = []
    made: set[str] = set()
    for plan in _in_order(plans):
        made.add(plan.name)
        inline = []
        for reference in plan.foreign_keys:
            early = reference.parent in plans and reference.parent not in made
            sql = here.add_reference(plan, reference) if early else None
            if sql is None:
                inline.append(reference)
            else:
                later.append((plan.name, sql))
        script.append((plan.name, here.create(plan, inline)))
    return script + later


def _check_reference(
    plan: TablePlan, reference: ReferencePlan, plans: Mapping[str, TablePlan], catalog: Catalog
) -> None:
    """Its parent is there or comes, and is referred to by a key: SQLite would find that out at the first write."""
    parent, standing = plans.get(reference.parent), catalog.tables.get(reference.parent)
    if parent is not None:
        keys = [parent.pk, *(key.columns for key in parent.unique_keys)]
    elif standing is not None:
        keys = [standing.pk, *standing.unique_keys]
    else:
        raise _refused(plan, f"it refers to {reference.parent}, which is neither here nor in the snapshot: create both")
    columns = reference.parent_columns
    if len(columns) != len(reference.columns) or sorted(columns) not in [sorted(key) for key in keys]:
        raise _refused(plan, f"({', '.join(columns)}) is no key of {reference.parent}, to which it refers")


def _in_order(plans: Mapping[str, TablePlan]) -> Iterator[TablePlan]:
    """Yield parents before children, else in the given order; in a circle somebody is first."""
    begun: set[str] = set()
    for first in plans:
        stack = [] if first in begun else [(first, _parents(plans, first))]
        begun.add(first)
        while stack:
            name, parents = stack[-1]
            parent = next((one for one in parents if one not in begun), None)
            if parent is None:
                yield plans[name]
                stack.pop()
            else:
                begun.add(parent)
                stack.append((parent, _parents(plans, parent)))


def _parents(plans: Mapping[str, TablePlan], name: str) -> Iterator[str]:
    return (key.parent for key in plans[name].foreign_keys if key.parent in plans)


def _compare(here: MakingHere, plans: Mapping[str, TablePlan], made: Catalog) -> None:
    """Raise PreflightError where a table has not become what its plan says."""
    for plan in plans.values():
        found = made.tables.get(plan.name)
        why = "it is not there" if found is None else _difference(plan, found) or here.differs(plan, found)
        if why:
            raise PreflightError(
                f"table {plan.name} would not be as the snapshot describes it: {why}; nothing was made: create it first"
            )


def _difference(plan: TablePlan, made: TableShape) -> str | None:
    """Tell what of names and keys is not as wanted."""
    wanted = tuple(column.name for column in plan.columns)
    if tuple(column.name for column in made.columns) != wanted or any(column.generated for column in made.columns):
        return "its columns are others"
    if made.pk != plan.pk:
        return f"its primary key is ({', '.join(made.pk)})"
    if {*made.unique_keys, plan.pk} != {*(key.columns for key in plan.unique_keys), plan.pk}:
        return "its unique keys are others"
    references = {(key.columns, key.parent, key.parent_columns) for key in plan.foreign_keys}
    if {(key.columns, key.parent, key.parent_columns) for key in made.foreign_keys} != references:
        return "its foreign keys are others"
    return None
