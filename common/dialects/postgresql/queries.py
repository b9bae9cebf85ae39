"""Pieces of statements that take parameters: there a percent sign in a name must be doubled."""

from collections.abc import Mapping, Sequence

from common.dialects.postgresql.naming import ident, literal
from common.dialects.postgresql.reading import Reading
from common.dialects.postgresql.shapes import key_columns, relation, rows_of
from common.dialects.postgresql.types import pg_column
from common.ports.dialect import TableShape


def escaped(sql: str) -> str:
    """Return `sql`, which has no parameters of its own, for use in a statement that has."""
    return sql.replace("%", "%%")


def column(name: str) -> str:
    """Return a column's quoted name."""
    return escaped(ident(name))


def text(value: str) -> str:
    """Return a string constant."""
    return escaped(literal(value))


def target(table: TableShape) -> str:
    """Return a table's qualified name."""
    return escaped(relation(table))


def target_rows(table: TableShape) -> str:
    """Return the table as a statement names it that reads, changes or deletes its rows."""
    return escaped(rows_of(table))


def same_key(table: TableShape, left: str, right: str) -> str:
    """Return the condition that two rows have the same primary key."""
    columns = [pg_column(one) for one in key_columns(table)]
    return " AND ".join(
        f"{left}.{column(one.name)} {escaped(one.equals)} {right}.{column(one.name)}" for one in columns
    )


def recordset(
    readings: Sequence[Reading], parameter: str, *, numbered: bool = False, beside: Mapping[str, str] | None = None
) -> str:
    """Return a FROM item `r` with the columns as they are to be written; `numbered` adds their place in `rf_place`.

    `beside`: further columns by name, each a parameter that is an array of this type, as long as there are rows."""
    names = [column(one.name) for one in readings]
    typed = ", ".join(f"{name} {escaped(one.declared)}" for one, name in zip(readings, names, strict=True))
    values = ", ".join(f"{escaped(one.value)} AS {name}" for one, name in zip(readings, names, strict=True))
    given = f"json_to_recordset(%({parameter})s::json)"
    if beside:
        listed = ", ".join([*names, *beside])
        arrays = ", ".join(f"unnest(%({name})s::{kind}[])" for name, kind in beside.items())
        return (
            f"(SELECT {values}, {', '.join(beside)}"
            f" FROM ROWS FROM ({given} AS ({typed}), {arrays}) AS r({listed})) AS r"
        )
    if not numbered:
        return f"(SELECT {values} FROM {given} AS r({typed})) AS r"
    listed = ", ".join([*names, "rf_place"])
    return f"(SELECT {values}, rf_place FROM ROWS FROM ({given} AS ({typed})) WITH ORDINALITY AS r({listed})) AS r"


def lock_sql(table: TableShape, source: str) -> str:
    """Return the statement that locks the rows of `table` that `source` names, in the order of their keys."""
    # NO KEY: a transaction that only points to the row with a foreign key is no reason to wait.
    columns = ", ".join(f"t.{column(name)}" for name in table.pk)
    return (
        f"SELECT 1 FROM {source} JOIN {target_rows(table)} t ON {same_key(table, 't', 'r')}"
        f" ORDER BY {columns} FOR NO KEY UPDATE OF t"
    )


def partition_tree(root: str) -> str:
    """The CTE `tree (relid)`: a table, given by an expression, and all its partitions.

    pg_partition_tree would say the same, and wait for every transaction that holds one of them."""
    return f"""WITH RECURSIVE tree (relid) AS (
    SELECT {root}::oid
    UNION ALL
    SELECT i.inhrelid FROM tree JOIN pg_inherits i ON i.inhparent = tree.relid AND NOT i.inhdetachpending
    JOIN pg_class k ON k.oid = i.inhrelid AND k.relispartition)"""
