"""Set-based writes of rows."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

from common.dialects.postgresql.prepared import Prepared
from common.dialects.postgresql.queries import column, recordset, same_key, target, target_rows
from common.dialects.postgresql.rows import ColumnSet, Rows
from common.dialects.postgresql.types import PgTable
from common.ports.dialect import TableShape


def delete_rows(prepared: Prepared, rows: Rows, pks: Sequence[bytes]) -> None:
    """Delete the rows with these keys."""
    (statement,) = rows.once("delete", lambda: [_delete(rows)])
    prepared.execute(statement, {"pks": rows.keys(pks)})


def insert_rows(prepared: Prepared, rows: Rows, images: Sequence[tuple[bytes, bytes | None]]) -> None:
    """Insert the rows, or set in those that are there the columns that the images name.

    An image comes with the row that was deleted to make room for it, or None."""
    set_rows(prepared, rows, rows.by_columns(images))


def set_rows(prepared: Prepared, rows: Rows, images: Mapping[ColumnSet, str]) -> None:
    """The same for images as `Rows.by_columns` gives them."""
    for columns, json in images.items():
        for statement in rows.once(("insert", columns), partial(_inserting, rows, columns)):
            prepared.execute(statement, {"images": json})


def make_rows(prepared: Prepared, rows: Rows, images: Mapping[ColumnSet, str]) -> None:
    """Insert rows, which must not be there: quicker by a quarter. The server's error where one is."""
    if isinstance(rows.table, PgTable) and rows.table.no_upsert:
        # Whether a row is there may show no earlier than at the commit.
        set_rows(prepared, rows, images)
        return
    for columns, json in images.items():
        for statement in rows.once(("make", columns), partial(_making, rows, columns)):
            prepared.execute(statement, {"images": json})


def _delete(rows: Rows) -> str:
    source = recordset(rows.key_readings(), "pks")
    return f"DELETE FROM {target_rows(rows.table)} t USING {source} WHERE {same_key(rows.table, 't', 'r')}"


def _making(rows: Rows, columns: ColumnSet) -> list[str]:
    return [_insert(rows.table, recordset(rows.column_readings(columns), "images"), columns.names)]


def _inserting(rows: Rows, columns: ColumnSet) -> Iterator[str]:
    source = recordset(rows.column_readings(columns), "images")
    for name in _fixed_columns(rows.table, columns.names):
        yield _delete_changed(rows.table, source, name)
    yield from _written(rows.table, source, columns.names)


def _written(table: TableShape, source: str, names: Sequence[str]) -> list[str]:
    if not (isinstance(table, PgTable) and table.no_upsert):
        is_whole = all(column.name in names for column in table.columns if not column.generated)
        if is_whole or not set(table.pk) <= set(names):
            return [_upsert(table, source, names)]
        # PostgreSQL asks whether a column may be empty before it sees that the row stands and keeps what it has there.
        return [*_update(table, source, names), _upsert(table, source, names, only_missing=True)]
    return [
        # A local writer of the same key must not come between the two.
        f"LOCK TABLE {target(table)} IN SHARE ROW EXCLUSIVE MODE",
        *_update(table, source, names),
        _insert_missing(table, source, names),
    ]


def _upsert(table: TableShape, source: str, names: Sequence[str], *, only_missing: bool = False) -> str:
    key = ", ".join(column(name) for name in table.pk)
    changes = _changes(table, names, "excluded")
    action = f"UPDATE SET {changes}" if changes else "NOTHING"
    insert = _insert_missing(table, source, names) if only_missing else _insert(table, source, names)
    return f"{insert} ON CONFLICT ({key}) DO {action}"


def _update(table: TableShape, source: str, names: Sequence[str]) -> list[str]:
    changes = _changes(table, names, "r")
    statement = f"UPDATE {target_rows(table)} t SET {changes} FROM {source} WHERE {same_key(table, 't', 'r')}"
    return [statement] if changes else []


def _insert_missing(table: TableShape, source: str, names: Sequence[str]) -> str:
    there = f"SELECT FROM {target_rows(table)} t WHERE {same_key(table, 't', 'r')}"
    return f"{_insert(table, source, names)} WHERE NOT EXISTS ({there})"


def _insert(table: TableShape, source: str, names: Sequence[str]) -> str:
    columns = ", ".join(column(name) for name in names)
    values = ", ".join(f"r.{column(name)}" for name in names)
    # The alias, since the table may be called `excluded`.
    return f"INSERT INTO {target(table)} AS t ({columns}) OVERRIDING SYSTEM VALUE SELECT {values} FROM {source}"


def _changes(table: TableShape, names: Sequence[str], row: str) -> str:
    fixed = {*table.pk, *_fixed_columns(table, names)}
    return ", ".join(f"{column(name)} = {row}.{column(name)}" for name in names if name not in fixed)


def _fixed_columns(table: TableShape, names: Sequence[str]) -> list[str]:
    """The columns outside the key that PostgreSQL sets at an insert and never lets an update change."""
    always = {column.name for column in table.columns if column.identity_always}
    return [name for name in names if name in always and name not in table.pk]


def _delete_changed(table: TableShape, source: str, name: str) -> str:
    """The row is made anew where such a column differs: an update can't change it."""
    return (
        f"DELETE FROM {target_rows(table)} t USING {source}"
        f" WHERE {same_key(table, 't', 'r')} AND t.{column(name)} IS DISTINCT FROM r.{column(name)}"
    )
