"""Under `manual`: nodes of both kinds, random writes under wrong clocks, and operators who choose at random, apart from
each other. Every row that differs is named by a conflict that waits; once nobody waits, all nodes are equal."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from consumer.conflict.given import read_take
from consumer.settling import Settling
from tests.integration.test_nodes_converge import SKEWS, item_statements, items, writers_of
from tests.support.applying import World
from tests.support.writers import KEYS, Network, Writer, nodes_of_both_kinds, row_states

pytestmark = pytest.mark.containers
_TAKES = ("ours", "theirs", '{"name": "given"}')


@pytest.fixture
def worlds(tmp_path: Path, pg_database: str) -> Iterator[list[World]]:
    """Two nodes on SQLite, one on PostgreSQL; conflicts of `item` wait."""
    with nodes_of_both_kinds(tmp_path, pg_database, tables={"policy": {"item": "manual"}}) as made:
        assert [world.node.facts.node_id for world in made] == list(SKEWS)
        yield made


def waiting(world: World) -> list[tuple[int, int]]:
    """Number and key of each conflict that waits."""
    found = world.query("SELECT id, pk FROM rf_conflict WHERE state = 'waiting' ORDER BY id")
    return [(number, json.loads(pk)["id"]) for number, pk in found]


def choose(writer: Writer, most: int) -> int:
    """Let the node's operator settle some of its conflicts; return how many."""
    settling = Settling(writer.world.node, "operator")
    chosen = 0
    for number, _ in writer.dice.sample(waiting(writer.world), min(most, len(waiting(writer.world)))):
        if number in [one for one, _ in waiting(writer.world)]:
            take = writer.dice.choice(_TAKES)
            if take.startswith("{") and not writer.world.query(f"SELECT 1 FROM item WHERE id = {_key(writer, number)}"):
                take = "theirs"
            settling.resolve(number, read_take(take))
            chosen += 1
    return chosen


def _key(writer: Writer, number: int) -> int:
    return int(json.loads(writer.world.one(f"SELECT pk FROM rf_conflict WHERE id = {number}"))["id"])


def differing(worlds: list[World]) -> set[int]:
    """The keys of which not all nodes hold the same row."""
    held = [{row[0]: row for row in items(world)} for world in worlds]
    return {key for key in KEYS if len({rows.get(key) for rows in held}) > 1}


@pytest.mark.parametrize("seed", range(6))
def test_what_differs_waits_and_once_nobody_waits_all_are_equal(worlds: list[World], seed: int) -> None:
    writers = writers_of(worlds, seed)
    network = Network(writers, random.Random(seed))
    chosen = 0
    for _ in range(12):
        for writer in writers:
            for _ in range(writer.dice.randint(0, 2)):
                writer.write(item_statements)
            if writer.dice.random() < 0.4:
                chosen += choose(writer, 2)
        network.send()
        network.deliver(network.dice.choice([0.0, 0.3, 0.7]))
    network.send()
    network.deliver(1)
    named = {key for world in worlds for _, key in waiting(world)}
    assert differing(worlds) <= named, f"seed {seed}"
    assert chosen > 0
    assert named, "a test in which nothing waits at the end proves nothing"
    for _ in range(20):
        left = [writer for writer in writers if waiting(writer.world)]
        if not left:
            break
        # Sometimes two operators choose at once, without knowing of each other.
        for writer in network.dice.sample(left, network.dice.randint(1, len(left))):
            choose(writer, 9)
        network.send()
        network.deliver(1)
    assert [waiting(world) for world in worlds] == [[], [], []], f"seed {seed}"
    first, *others = worlds
    for world in worlds:
        assert world.letters() == []
    for other in others:
        assert items(other) == items(first), f"seed {seed}"
        assert states(other) == states(first), f"seed {seed}"
    assert [writer.new_bodies() for writer in writers] == [[], [], []], "what was applied is not a node's own change"


def states(world: World) -> list[Any]:
    return row_states(world, "item")
