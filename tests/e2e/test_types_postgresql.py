"""Every type of PostgreSQL to another PostgreSQL and back, through the real command: bit for bit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.exact import connected, postgres_exact
from tests.support.nodes import CliNode, MakeNode, letters, sync
from tests.support.postgresql_values import HOSTILE, OWN_TYPES, PG_TABLES, PG_VALUES

# A number of a type that was made in this database stands inside: two databases number theirs differently.
NO_BINARY = ("mood[]", '"Pair of"[]', "nested")
PG_KEYS = (
    *("bigint", "numeric", "numeric(20,4)", "real", "double precision", "boolean", "text", "varchar(5)", "char(6)"),
    *("bytea", "date", "time", "timetz", "timestamp", "timestamptz", "uuid", "jsonb", "int[]", "text[]", "bytea[]"),
    *("mood", '"Pair of"', "int4range", "span", "tstzrange", "nummultirange", "money", "inet", "cidr"),
    *("macaddr", "bit(5)", "varbit", "oid", "pg_lsn", "name", '"char"', "xid8", "tsvector"),
)
KEY_TABLES = {f"k{number}": kind for number, kind in enumerate(PG_KEYS)}


def pg_schema() -> Iterator[str]:
    yield from OWN_TYPES
    for name, kind in PG_TABLES.items():
        yield f"CREATE TABLE {name} (id int PRIMARY KEY, v {kind}, turn int)"
    for name, kind in KEY_TABLES.items():
        yield f"CREATE TABLE {name} (k {kind} PRIMARY KEY, turn int)"


def write_everything(node: CliNode) -> None:
    """Insert every value, and NULL, from a session whose settings bend all that settings can bend."""
    with connected(node.database) as connection:
        for name, kind in {**PG_TABLES, **KEY_TABLES}.items():
            # Made under plain settings, so that the literal means what stands above; written under hostile ones.
            for number, value in enumerate((*PG_VALUES[kind], "NULL")):
                made = f"CREATE TEMP TABLE made_{name}_{number} AS SELECT CAST({value} AS {kind}) AS v"
                connection.execute(made.encode())
        for setting in HOSTILE:
            connection.execute(setting.encode())
        for name, kind in PG_TABLES.items():
            for number in range(len(PG_VALUES[kind]) + 1):
                connection.execute(
                    f"INSERT INTO public.{name} SELECT {number}, v, 0 FROM made_{name}_{number}".encode()
                )
        for name, kind in KEY_TABLES.items():
            for number in range(len(PG_VALUES[kind])):
                statement = f"INSERT INTO public.{name} SELECT v, {number} FROM made_{name}_{number}"
                connection.execute(f"{statement} ON CONFLICT DO NOTHING".encode())


def pg_contents(node: CliNode) -> dict[str, list[tuple[object, ...]]]:
    """Every value's text and binary form."""
    texts = {name: f"SELECT id, v::text, turn FROM {name} ORDER BY id" for name in PG_TABLES}
    whole = {
        f"{name} itself": f"SELECT id, v FROM {name} ORDER BY id"
        for name, kind in PG_TABLES.items()
        if kind not in NO_BINARY
    }
    keys = {name: f"SELECT * FROM {name} ORDER BY k::text" for name, kind in KEY_TABLES.items()}
    return postgres_exact(node.database, {**texts, **whole, **keys})


def same(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    kinds = {**PG_TABLES, **KEY_TABLES}
    different = {f"{kinds.get(name.split()[0], '')} ({name})" for name in wanted if found[name] != wanted[name]}
    assert not different, "\n".join(
        f"{name}: {kinds[name.split()[0]]}\n  is {found[name]}\n  not {wanted[name]}"
        for name in wanted
        if found[name] != wanted[name]
    )[:8000]


def there_and_back(a: CliNode, b: CliNode) -> None:
    """A's values go to B, B's programs touch each row, and all comes back to A unbent."""
    write_everything(a)
    original = pg_contents(a)
    sync(a, b)
    same(pg_contents(b), original)
    tables = {**PG_TABLES, **KEY_TABLES}
    with connected(b.database) as connection:
        for setting in HOSTILE:
            connection.execute(setting.encode())
        for name in tables:
            connection.execute(f"UPDATE public.{name} SET turn = turn + 100".encode())
    touched = pg_contents(b)
    sync(b, a)
    same(pg_contents(a), touched)
    shown = {name: f"SELECT v::text FROM {name} ORDER BY id" for name in PG_TABLES}
    a_now = postgres_exact(a.database, shown)
    assert a_now == {name: [(row[1], row[4]) for row in original[name]] for name in PG_TABLES}

    # Rows are found by their keys: half of them go, the rest move to NULL.
    with connected(a.database) as connection:
        for setting in HOSTILE:
            connection.execute(setting.encode())
        for name in KEY_TABLES:
            connection.execute(f"DELETE FROM public.{name} WHERE turn % 2 = 0".encode())
            connection.execute(f"UPDATE public.{name} SET turn = NULL".encode())
    sync(a, b)
    same(pg_contents(b), pg_contents(a))
    assert letters(a) == letters(b) == []
    assert b.query("SELECT count(*) FROM rf_conflict") == a.query("SELECT count(*) FROM rf_conflict") == [(0,)]


def pg_pair(nodes: MakeNode, databases: Any, *options: str) -> tuple[CliNode, CliNode]:
    a, b = nodes("a", databases(), *options), nodes("b", databases(), *options)
    for node in (a, b):
        node.execute(*(statement.replace("%", "%%") for statement in pg_schema()))
        node.ok("migrate")
    return a, b


@pytest.mark.heavy
def test_every_postgresql_type_there_and_back(nodes: MakeNode, pg_database_factory: Any, tmp_path: Path) -> None:
    a, b = pg_pair(nodes, pg_database_factory, "--directory", str(tmp_path / "exchange"))
    there_and_back(a, b)


@pytest.mark.heavy
def test_every_postgresql_type_through_rabbitmq(nodes: MakeNode, pg_database_factory: Any, rabbitmq_url: str) -> None:
    a, b = pg_pair(nodes, pg_database_factory, "--broker", rabbitmq_url)
    write_everything(a)
    sync(a, b)
    same(pg_contents(b), pg_contents(a))
