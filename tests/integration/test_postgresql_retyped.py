"""A column that got another type before capture was installed anew: its changes say what they hold."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest

from common.wire.kinds import fits
from tests.support.postgresql_node import PostgresNode

pytestmark = pytest.mark.containers

VALUES = {
    "int": "7",
    "smallint": "-7",
    "bigint": "9223372036854775807",
    "numeric": "1.500",
    "real": "'-0'",
    "double precision": "'NaN'",
    "boolean": "true",
    "text": """'a"b\\7'""",
    "varchar(9)": "'v'",
    "char(5)": "'c'",
    "bytea": "'\\x00ff'",
    "date": "'2026-02-03'",
    "time": "'01:02:03.4'",
    "timestamp": "'2026-02-03 01:02:03'",
    "timestamptz": "'2026-02-03 01:02:03+05'",
    "interval": "'1 day 2:03'",
    "uuid": "'0192e4a0-0000-7000-8000-000000000001'",
    "json": """'{"a": 1}'""",
    "jsonb": """'{"a":  1}'""",
    "int4range": "'[1,5)'",
    "inet": "'10.0.0.1/8'",
    "int[]": "'{1,NULL}'",
    "mood": "'sad'",
    "mood[]": "'{sad}'",
    "small": "3",
    "smaller": "3",
    "apart.pair": "'(1,)'",
}
"""A value of each type."""
TYPES = (
    "CREATE TYPE mood AS ENUM ('sad', 'ok')",
    "CREATE DOMAIN small AS numeric CHECK (VALUE < 10)",
    "CREATE DOMAIN smaller AS small",
    "CREATE SCHEMA apart",
    "CREATE TYPE apart.pair AS (a int, b text)",
)
BEFORE = ("int", "text", "bytea", "mood", "numeric")
NO_KEYS = {"json"}


def written_before_and_after(node: PostgresNode, table: str, write: str) -> None:
    """The same row, captured by what was installed for the type before, and by what is installed for that of now."""
    node.run(write)
    known = node.log.head().lsn
    node.seal_all()
    node.install()
    node.run(f"DELETE FROM {table}", write)
    node.seal_all()
    (early, *_, late), metas = node.changes(known), [part.header.tables[table] for part in node.parts(known)]
    assert metas[0] == metas[-1]
    assert bytes(early.pk) == bytes(late.pk)
    assert json.loads(bytes(early.after)) == json.loads(bytes(late.after))
    for name, value in json.loads(bytes(early.after)).items():
        assert fits(metas[0].columns[name], json.dumps(value).encode()), (name, value, metas[0].columns[name])


@pytest.mark.parametrize("before", BEFORE)
def test_a_change_of_a_retyped_column_says_what_it_holds(pg_database: str, before: str) -> None:
    with PostgresNode(pg_database, "a") as node:
        node.run(*TYPES)
        for place, (kind, value) in enumerate(VALUES.items()):
            node.run(f'CREATE TABLE t{place} (id int PRIMARY KEY, "v %s" {before}, w text)')
            node.install()
            node.run(f"""ALTER TABLE t{place} ALTER "v %s" TYPE {kind} USING NULL""")
            written_before_and_after(node, f"t{place}", f"INSERT INTO t{place} VALUES (1, {value}, NULL)")


@pytest.mark.parametrize("before", BEFORE)
def test_a_change_under_a_retyped_key_says_what_it_holds(pg_database: str, before: str) -> None:
    with PostgresNode(pg_database, "a") as node:
        node.run(*TYPES)
        for place, (kind, value) in enumerate(VALUES.items()):
            if kind in NO_KEYS:
                continue
            node.run(f'CREATE TABLE t{place} (k int, "v ""%s" {before}, PRIMARY KEY (k, "v ""%s"))')
            node.install()
            node.run(f"""ALTER TABLE t{place} ALTER "v ""%s" TYPE {kind} USING {value}::{kind}""")
            written_before_and_after(node, f"t{place}", f"INSERT INTO t{place} VALUES (1, {value})")


@pytest.mark.parametrize(
    ("before", "value", "alters", "after"),
    [
        pytest.param("int", "7", ["text"], {1: "7", 2: "8"}, id="number to text"),
        pytest.param("text", "'7'", ["int USING v::int"], {1: 7, 2: 8}, id="text to number"),
        pytest.param("text", "'1.50'", ["numeric USING v::numeric"], {1: "1.50", 2: "8"}, id="text to decimal"),
        pytest.param("numeric", "1.50", ["double precision"], {1: 1.5, 2: 8.0}, id="decimal to float"),
        pytest.param("int", "7", ["text", "int USING v::int"], {1: 7, 2: 8}, id="there and back"),
        pytest.param(
            "text", "'true'", ["boolean USING v::boolean", "text"], {1: "true", 2: "8"}, id="by way of another"
        ),
    ],
)
def test_a_tx_that_retypes_a_column_between_its_writes(
    pg_database: str, before: str, value: str, alters: Sequence[str], after: dict[int, object]
) -> None:
    """One header stands for all its images: those from before are written as the type that it left writes them."""
    ddl = f"CREATE TABLE t (id {before} PRIMARY KEY, v {before}, n int)"
    with PostgresNode(pg_database, "a", ddl) as node:
        changed = [f"ALTER TABLE t ALTER v TYPE {kind}" for kind in alters]
        changed += [one.replace("ALTER v", "ALTER id").replace("v::", "id::") for one in changed]
        writes = f"INSERT INTO t VALUES ({value}, {value}, 1)", "INSERT INTO t VALUES ('8', '8', 2)"
        node.run(f"BEGIN; {writes[0]}; {'; '.join(changed)}; {writes[1]}; COMMIT")
        changes = node.changes()
        (part,) = node.parts()
        columns = part.header.tables["t"].columns
        images = [json.loads(bytes(change.after)) for change in changes]
        assert {image["n"]: image["v"] for image in images} == after
        assert [json.loads(bytes(change.pk)) for change in changes] == [{"id": image["id"]} for image in images]
        for image in images:
            for name in ("id", "v"):
                assert fits(columns[name], json.dumps(image[name]).encode())
