"""What the writer's search_path finds first never runs in the functions of capture, which have Rowferry's rights."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tests.support.postgresql_node import PostgresNode

pytestmark = pytest.mark.containers

TABLES = (
    """CREATE TABLE wide (id bigint, n numeric, f float8, t text, name text, amount int, price numeric(10,2),
    data bytea, at timestamptz, day date, doc jsonb, tag uuid, weight real, flag boolean, address inet,
    PRIMARY KEY (id, n, f, t))""",
    "CREATE TABLE many (id int PRIMARY KEY, {})".format(", ".join(f"c{number} int" for number in range(110))),
)
WRITES = (
    """INSERT INTO wide SELECT *, 'it''s', 7, 1.50, '\\x00ff', '2026-11-27 09:00+05:45', '2026-11-27', '{"a": 1.50}',
    '00000000-0000-4000-8000-000000000001', 0.1, true, '10.0.0.1/8'
    FROM (VALUES (1, 1.50, 0.1, 'key'), (2, 2.00, -0.0, 'key'), (3, 3, 1e300, 'key')) q""",
    "UPDATE wide SET name = 'changed' WHERE id OPERATOR(pg_catalog.=) 1",
    "UPDATE wide SET t = 'other key' WHERE id OPERATOR(pg_catalog.=) 2",
    "UPDATE wide SET name = name",
    "UPDATE wide SET name = 'CHANGED' WHERE id OPERATOR(pg_catalog.=) 1",
    "UPDATE wide SET t = 'OTHER key' WHERE id OPERATOR(pg_catalog.=) 2",
    "DELETE FROM wide WHERE id OPERATOR(pg_catalog.=) 3",
    "INSERT INTO many (id, c1, c109) VALUES (1, 1, 1)",
)
OPERATORS = {
    "=": ["text, text", "anyarray, anyarray", "int, int"],
    "<>": ["text, text"],
    ">": ["int, int"],
    "+": ["float8, float8", "float8, int"],
    "||": ["text, text"],
}
BENT = {
    "json_build_object": 'VARIADIC "any") RETURNS json',
    "concat": 'VARIADIC "any") RETURNS text',
    "concat_ws": 'text, VARIADIC "any") RETURNS text',
    "format": 'text, VARIADIC "any") RETURNS text',
}
"""Only functions of the server's own may take any number of any values: json_build_array stands in for these."""
INTERNAL = "'internal'::regtype"
TYPES = ("text", "int4", "xid", "float8")
SESSIONS = {
    "as usual": (),
    "written under settings of its own": ("SET timezone = 'Asia/Kathmandu'", "SET extra_float_digits = 0"),
}


@pytest.fixture
def node(pg_database: str) -> Iterator[PostgresNode]:
    with PostgresNode(pg_database, ddl=";".join(TABLES)) as made:
        # Its search_path is pinned: with it there, an error within capture would be healed, and not be seen.
        made.run('DROP FUNCTION "rowferry reshaped wide"', 'DROP FUNCTION "rowferry reshaped many"')
        yield made


def called(node: PostgresNode) -> set[str]:
    """The names of functions that stand in the bodies of capture."""
    bodies = node.rows(
        "SELECT prosrc FROM pg_proc WHERE proname LIKE 'rowferry capture %' OR proname LIKE 'rowferry pin%'"
    )
    return {name for (body,) in bodies for name in re.findall(r"\b([a-z_]+)\(", re.sub(r"--.*", "", body))}


def shadow(node: PostgresNode) -> int:
    """Put something in the way of every function and operator that capture uses; how many are of functions."""
    raising = "LANGUAGE plpgsql AS $$ BEGIN RAISE 'shadowed'; END $$"
    node.run("CREATE SCHEMA evil")
    shadowed = len(BENT)
    for name, rest in BENT.items():
        node.run(f"CREATE FUNCTION evil.{name}({rest} LANGUAGE internal AS 'json_build_array'")
    names = ",".join(called(node) - BENT.keys())
    for (signature,) in node.rows(f"""
        SELECT DISTINCT format('%I(%s) RETURNS %s', proname,
            pg_get_function_identity_arguments(oid), pg_get_function_result(oid))
        FROM pg_proc
        WHERE pronamespace = 'pg_catalog'::regnamespace AND proname = ANY('{{{names}}}') AND prorettype <> {INTERNAL}
          AND NOT {INTERNAL} = ANY(proargtypes) AND provariadic = 0"""):
        node.run(f"CREATE OR REPLACE FUNCTION evil.{signature} {raising}")
        shadowed += 1
    node.run("CREATE COLLATION evil.\"C\" (provider = icu, locale = 'und-u-ks-level2', deterministic = false)")
    for operator, sides in OPERATORS.items():
        for number, side in enumerate(sides):
            left, right = side.split(", ")
            returns = "boolean" if operator in "=<>" else left
            node.run(
                f'CREATE FUNCTION evil."op {operator} {number}"({side}) RETURNS {returns} {raising}',
                f"CREATE OPERATOR evil.{operator} (LEFTARG = {left}, RIGHTARG = {right},"
                f' FUNCTION = evil."op {operator} {number}")',
            )
    return shadowed


def write(connection: psycopg.Connection[tuple[Any, ...]]) -> None:
    for statement in WRITES:
        connection.execute(statement.encode())
        connection.commit()


def logged(node: PostgresNode) -> list[tuple[Any, ...]]:
    return node.rows("SELECT shape_id, op, pk, before, after FROM rf_change_log ORDER BY seq")


@pytest.mark.parametrize("settings", SESSIONS.values(), ids=SESSIONS)
def test_nothing_of_the_writers_own_runs_in_capture(node: PostgresNode, settings: tuple[str, ...]) -> None:
    with node.connect() as connection:
        write(connection)
    expected = logged(node)
    assert len(expected) == 3 + 1 + 2 + 1 + 2 + 1 + 1, expected
    node.run("TRUNCATE rf_change_log", "SET session_replication_role = replica; TRUNCATE wide, many")
    assert shadow(node) > 8
    with node.connect() as connection:
        for kind in TYPES:
            connection.execute(f"CREATE DOMAIN pg_temp.{kind} AS pg_catalog.bool CHECK (VALUE IS NULL)".encode())
        for setting in settings:
            connection.execute(setting.encode())
        connection.execute("SET search_path = evil, pg_temp, pg_catalog, public")
        assert connection.execute("SELECT concat(1, 2)").fetchone() == ("[1, 2]",)
        for probe in ("SELECT to_json(1)", "SELECT 'a'::pg_catalog.text = 'b'::pg_catalog.text"):
            with pytest.raises(psycopg.errors.RaiseException, match="shadowed"), connection.transaction():
                connection.execute(probe.encode())
        with pytest.raises(psycopg.errors.CannotCoerce), connection.transaction():
            connection.execute("SELECT (now() IS NOT NULL)::text, 7.5::text")
        write(connection)
    assert logged(node) == expected
