"""Parents, children and unique values written at random on three nodes that run: the same rows stand everywhere."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from time import sleep

import pytest
import sqlalchemy as sa

from tests.support.nodes import CliNode, MakeNode, sqlite_database
from tests.support.waiting import wait_for

pytestmark = pytest.mark.containers

TABLES = ("item", "sale")
SCHEMA = (
    "CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT NOT NULL, amount INTEGER, code TEXT UNIQUE)",
    "CREATE TABLE sale (shop TEXT, no INTEGER, item_id INTEGER REFERENCES item (id) ON DELETE CASCADE,"
    " quantity INTEGER, PRIMARY KEY (shop, no))",
)
_POLL = {"ROWFERRY_DIRECTORY_POLL_SECONDS": "0.1"}
_ITEMS, _SALES, _CODES = 12, 20, 4


def statement(dice: random.Random, node_id: str) -> str:
    """One write of a row that the other nodes write to as well."""
    item, sale, number = dice.randrange(_ITEMS), dice.randrange(_SALES), dice.randrange(1_000)
    code = f"'c{dice.randrange(_CODES)}'" if dice.random() < 0.6 else "NULL"
    shop = dice.choice(("all", node_id))
    put = f"INSERT INTO item VALUES ({item}, '{node_id} {number}', {number}, {code}) ON CONFLICT (id) DO UPDATE"
    return dice.choices(
        [
            f"{put} SET name = excluded.name, amount = excluded.amount",
            f"UPDATE item SET amount = amount + 1, code = {code} WHERE id = {item}",
            f"DELETE FROM item WHERE id = {item}",
            f"INSERT INTO sale SELECT '{shop}', {sale}, id, {number} FROM item WHERE id = {item}"
            " ON CONFLICT (shop, no) DO UPDATE SET quantity = excluded.quantity, item_id = excluded.item_id",
            f"DELETE FROM sale WHERE no = {sale}",
        ],
        (35, 20, 15, 25, 5),
    )[0]


def write(node: CliNode, dice: random.Random, transactions: int) -> None:
    """Let the node's application write; what its own database refuses is not written."""
    with node.engine() as engine:
        for _ in range(transactions):
            try:
                with engine.begin() as connection:
                    if engine.dialect.name == "sqlite":
                        raw = connection.connection.driver_connection
                        raw.execute("PRAGMA foreign_keys = ON")
                        raw.execute("PRAGMA busy_timeout = 30000")
                    for _ in range(dice.choice((1, 1, 2, 6))):
                        connection.exec_driver_sql(statement(dice, node.node_id))
            except sa.exc.IntegrityError:
                # A code that another row has: the application's own rule.
                continue
            # An application that takes its time: so the nodes' work falls between its writes.
            sleep(dice.random() * 0.01)


def wait_until_equal(made: Sequence[CliNode]) -> None:
    """Wait until all hold the same rows; else tell what each knows of those that differ."""

    def are_equal() -> bool:
        first, *others = (node.rows(TABLES) for node in made)
        return all(other == first for other in others)

    try:
        wait_for(are_equal, 90, "the nodes to hold the same rows", longest_pause_seconds=0.5)
    except TimeoutError as error:
        rows = [node.rows(TABLES) for node in made]
        for table in TABLES:
            everywhere = set.intersection(*(set(one[table]) for one in rows))
            for node, one in zip(made, rows, strict=True):
                error.add_note(
                    f"{node.node_id} alone or not all: {table} {sorted(set(one[table]) - everywhere, key=repr)}"
                )
        raise


@pytest.mark.parametrize("seed", range(2))
def test_three_nodes_that_run_end_equal(nodes: MakeNode, tmp_path: Path, pg_database: str, seed: int) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    options = ("--directory", str(shared), "--tables", "item,sale")
    office = nodes("office", pg_database, *options, "--role", "main")
    office.execute(*SCHEMA)
    made = [office]
    for shop in ("north", "south"):
        made.append(nodes(shop, sqlite_database(tmp_path, f"{shop}.db", SCHEMA), *options))
    for node in made:
        node.ok("migrate")
    for node in made:
        node.start(**_POLL)
    dice = random.Random(seed)
    for _ in range(3):
        for _ in range(3):
            for node in made:
                write(node, dice, 12)
        wait_until_equal(made)
    kinds = {kind for node in made for (kind,) in node.query("SELECT DISTINCT kind FROM rf_conflict")}
    assert {"foreign-key", "unique", "update"} <= kinds, f"a test without clashes proves nothing: {kinds}"
    for node in made:
        assert node.query("SELECT count(*) FROM rf_dead_letter") == [(0,)]
        assert node.query("SELECT count(*) FROM sale WHERE item_id NOT IN (SELECT id FROM item)") == [(0,)]
        assert node.runs[-1].stop() == 0
