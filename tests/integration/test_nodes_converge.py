"""Real nodes of both kinds, written to at random under wrong clocks, reached in any order: equal in the end."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.support.applying import World, close_world, sqlite_url
from tests.support.writers import KEYS, Network, Writer, nodes_of_both_kinds, row_states, writer_node

pytestmark = pytest.mark.containers
SKEWS = {"a": -3_600.0, "b": 0.0, "c": 7_200.0}


@pytest.fixture
def worlds(tmp_path: Path, pg_database: str) -> Iterator[list[World]]:
    """Two nodes on SQLite, one on PostgreSQL."""
    with nodes_of_both_kinds(tmp_path, pg_database) as made:
        yield made


def writers_of(worlds: list[World], seed: int) -> list[Writer]:
    dice = random.Random(seed)
    skews = dice.sample(list(SKEWS.values()), len(SKEWS))
    return [Writer(world, random.Random(dice.random()), skew) for world, skew in zip(worlds, skews, strict=True)]


def run(writers: list[Writer], statements: Any, seed: int, rounds: int) -> None:
    """Rounds of writes and partial deliveries, then everything that is left."""
    network = Network(writers, random.Random(seed))
    for _ in range(rounds):
        for writer in writers:
            for _ in range(writer.dice.randint(0, 3)):
                writer.write(statements)
        network.send()
        network.deliver(network.dice.choice([0.0, 0.3, 0.7]))
    network.send()
    network.deliver(1)
    for writer in writers:
        assert network.waiting[writer.node_id] == []
        assert writer.new_bodies() == [], "what was applied is not a node's own change"


def item_statements(dice: random.Random, name: str) -> list[str]:
    """A few writes of a few rows, key changes and rows put back among them."""
    found = []
    for _ in range(dice.randint(1, 3)):
        key, other = dice.choice(KEYS), dice.choice(KEYS)
        price = f"{dice.randint(0, 9)}.{dice.choice(['5', '50', '25', '00'])}"
        values = f"({key}, '{name}', {price})"
        found += dice.choice(
            [
                [f"INSERT INTO item VALUES {values} ON CONFLICT (id) DO UPDATE SET name = excluded.name"],
                [f"UPDATE item SET name = '{name}', price = {price} WHERE id = {key}"],
                [f"UPDATE item SET name = '{name}' WHERE id <= {key}"],
                [f"DELETE FROM item WHERE id = {key}"],
                [f"DELETE FROM item WHERE id = {key}", f"INSERT INTO item VALUES {values}"],
                [f"DELETE FROM item WHERE id = {other}", f"UPDATE item SET id = {other} WHERE id = {key}"],
            ]
        )
    return found


def items(world: World) -> list[tuple[Any, ...]]:
    return [(key, name, Decimal(str(price))) for key, name, price in world.rows()]


@pytest.mark.parametrize("seed", range(4))
def test_nodes_of_both_kinds_end_equal(worlds: list[World], seed: int) -> None:
    writers = writers_of(worlds, seed)
    run(writers, item_statements, seed, rounds=12)
    first, *others = worlds
    for world in worlds:
        assert world.letters() == []
        assert world.one("SELECT count(*) FROM rf_sync_state WHERE last_lsn < highest_lsn") == 0
    for other in others:
        assert items(other) == items(first), f"seed {seed}"
        assert row_states(other, "item") == row_states(first, "item"), f"seed {seed}"
    # A test in which nobody's write ever beats anybody's proves nothing.
    wins = [world.one("SELECT count(*) FROM rf_conflict WHERE winner = 'theirs'") for world in worlds]
    losses = [world.one("SELECT count(*) FROM rf_conflict WHERE winner = 'ours'") for world in worlds]
    assert sum(wins) > 5, wins
    assert sum(losses) > 5, losses


@pytest.fixture(params=["a", "c"], ids=["main on SQLite", "main on PostgreSQL"])
def main_and_branches(request: pytest.FixtureRequest, tmp_path: Path, pg_database: str) -> Iterator[list[World]]:
    """Two branches, then the main node; the table `item` is main's."""
    main: str = request.param
    urls = {"a": sqlite_url(tmp_path, "a.db"), "b": sqlite_url(tmp_path, "b.db"), "c": pg_database}
    tables = {"policy": {"item": "main-wins"}}
    roles = {name: "main" if name == main else "branch" for name in urls}
    made = [writer_node(url, name, roles[name], tables=tables) for name, url in urls.items()]
    yield sorted(made, key=lambda world: world.node.facts.role == "main")
    for world in made:
        close_world(world)


@pytest.mark.parametrize("seed", range(2))
def test_where_main_wins_no_write_that_has_not_seen_its_latest_stands(
    main_and_branches: list[World], seed: int
) -> None:
    worlds = main_and_branches
    writers = writers_of(worlds, seed)
    run(writers, item_statements, seed, rounds=12)
    *branches, main = worlds
    highest: dict[int, int] = {}
    for tx in main.node.database.log(main.node.facts).read(0, 2**40):
        for line in tx.lines():
            change = json.loads(line)
            key = change["pk"]["id"]
            highest[key] = max(highest.get(key, 0), change["version"][0])
    assert max(highest.values()) > 3, "a test in which main writes no row twice proves nothing"
    for world in worlds:
        assert world.letters() == []
        versions = dict(zip(KEYS, (version for version, _ in row_states(world, "item")), strict=True))
        assert {key: versions[key].main_epoch for key in highest} == highest
    for branch in branches:
        assert items(branch) == items(main), f"seed {seed}"
        assert row_states(branch, "item") == row_states(main, "item"), f"seed {seed}"
    beaten = [branch.one("SELECT count(*) FROM rf_conflict WHERE rule = 'main-wins'") for branch in branches]
    assert sum(beaten) > 5, beaten


def linked_statements(dice: random.Random, name: str) -> list[str]:
    """Parents with children, and codes that are unique: what one node allows another may have to refuse."""
    found = []
    for _ in range(dice.randint(1, 2)):
        key, other = dice.choice(KEYS), dice.choice(KEYS)
        found += dice.choice(
            [
                [f"INSERT INTO parent VALUES ({key}, '{name}') ON CONFLICT (id) DO UPDATE SET name = excluded.name"],
                [f"INSERT INTO child VALUES ({other}, {key})"],
                [f"UPDATE child SET parent_id = {key} WHERE id = {other}"],
                [f"DELETE FROM child WHERE parent_id = {key}", f"DELETE FROM parent WHERE id = {key}"],
                [f"DELETE FROM child WHERE id = {other}"],
                [f"INSERT INTO code VALUES ({key}, 'c{other}')"],
                [f"UPDATE code SET code = 'c{other}' WHERE id = {key}"],
                [f"DELETE FROM code WHERE id = {key}"],
            ]
        )
    return found


def linked_rows(world: World) -> set[tuple[Any, ...]]:
    return {(table, *row) for table in ("parent", "child", "code") for row in world.rows(table)}


@pytest.mark.parametrize("seed", range(4))
def test_where_rows_may_not_be_so_they_step_back_everywhere(worlds: list[World], seed: int) -> None:
    """Foreign keys and unique keys between nodes: never an orphan, never two with one value, never a dead letter."""
    writers = writers_of(worlds, seed)
    run(writers, linked_statements, seed, rounds=30)
    for world in worlds:
        world.refresh.catch_up()
    assert [writer.new_bodies() for writer in writers] == [[], [], []]
    aside = [set(world.query("SELECT table_name, version FROM rf_stepped_back")) for world in worlds]
    for world in worlds:
        assert linked_rows(world) == linked_rows(worlds[0]), f"seed {seed}"
        assert world.letters_open() == []
        assert world.one("SELECT count(*) FROM child WHERE parent_id NOT IN (SELECT id FROM parent)") == 0
        assert world.one("SELECT count(*) FROM rf_sync_state WHERE last_lsn < highest_lsn") == 0
    assert aside[1:] == [aside[0]] * 2
    stepped = [
        world.one("SELECT count(*) FROM rf_conflict WHERE kind IN ('unique', 'foreign-key')") for world in worlds
    ]
    assert sum(stepped) > 2, "a test in which nothing steps back proves nothing"
