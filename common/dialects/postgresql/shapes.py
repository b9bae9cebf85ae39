"""Expressions over a whole row: its image and its key."""

from common.dialects.postgresql.naming import qualified
from common.dialects.postgresql.types import PgTable, compact_object, image_value, json_object, key_value
from common.ports.dialect import ColumnShape, TableShape


def relation(table: TableShape) -> str:
    """Return the table's qualified name."""
    return qualified(table.schema, table.bare)


def rows_of(table: TableShape) -> str:
    """Return the table as a statement must name it that means its rows: never those of tables that inherit from it.

    Those are tables of their own, which may have a row with the same key."""
    return relation(table) if isinstance(table, PgTable) and table.partitioned else f"ONLY {relation(table)}"


def key_columns(table: TableShape) -> list[ColumnShape]:
    """Return the columns of the primary key, in its order."""
    by_name = {column.name: column for column in table.columns}
    return [by_name[name] for name in table.pk]


def image_expression(table: TableShape, row: str) -> str:
    """Return the JSON object of all columns that travel."""
    return json_object([(column.name, image_value(column, row)) for column in table.written])


def key_expression(table: TableShape, row: str) -> str:
    """Return the JSON object of the primary key: `pk` on the wire and the row's key text here."""
    return compact_object([(column.name, key_value(column, row)) for column in key_columns(table)])
