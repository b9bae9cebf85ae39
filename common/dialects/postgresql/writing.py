"""Set-based writes of rows."""

from collections.abc import Sequence
from typing import Any

import psycopg

from common.dialects.postgresql.queries import column, recordset, same_key, target
from common.dialects.postgresql.rows import Rows
from common.ports.dialect import TableShape

Raw = psycopg.Connection[tuple[Any, ...]]


def delete_rows(raw: Raw, rows: Rows, pks: Sequence[bytes]) -> None:
    """Delete the rows with these keys."""
    source = recordset(rows.key_readings(), "pks")
    statement = f"DELETE FROM {target(rows.table)} t USING {source} WHERE {same_key(rows.table, 't', 'r')}"
    raw.execute(statement.encode(), {"pks": rows.keys(pks)})


def insert_rows(raw: Raw, rows: Rows, images: Sequence[tuple[bytes, bytes | None]]) -> None:
    """Insert the rows, or set in those that are there the columns that the images name.

    An image comes with the row that was deleted to make room for it, or None."""
    for columns, json in rows.by_columns(images).items():
        names = columns.names
        source = recordset(rows.column_readings(columns), "images")
        given = {"images": json}
        for name in _fixed_columns(rows.table, names):
            raw.execute(_delete_changed(rows.table, source, name).encode(), given)
        raw.execute(_upsert(rows.table, source, names).encode(), given)


def _upsert(table: TableShape, source: str, names: Sequence[str]) -> str:
    fixed = {*table.pk, *_fixed_columns(table, names)}
    columns = ", ".join(column(name) for name in names)
    values = ", ".join(f"r.{column(name)}" for name in names)
    key = ", ".join(column(name) for name in table.pk)
    changes = ", ".join(f"{column(name)} = excluded.{column(name)}" for name in names if name not in fixed)
    action = f"UPDATE SET {changes}" if changes else "NOTHING"
    return (
        f"INSERT INTO {target(table)} ({columns}) OVERRIDING SYSTEM VALUE SELECT {values} FROM {source}"
        f" ON CONFLICT ({key}) DO {action}"
    )


def _fixed_columns(table: TableShape, names: Sequence[str]) -> list[str]:
    """The columns outside the key that PostgreSQL sets at an insert and never lets an update change."""
    always = {column.name for column in table.columns if column.identity_always}
    return [name for name in names if name in always and name not in table.pk]


def _delete_changed(table: TableShape, source: str, name: str) -> str:
    """The row is made anew where such a column differs: an update can't change it."""
    return (
        f"DELETE FROM {target(table)} t USING {source}"
        f" WHERE {same_key(table, 't', 'r')} AND t.{column(name)} IS DISTINCT FROM r.{column(name)}"
    )
