"""Unique values under `manual`: random writes that clash, operators who choose and undo by what they saw a while ago.

Once nobody waits, all nodes are equal."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from common.errors import PoisonError, UsageError
from common.versions import Version
from consumer.conflict.given import read_take
from consumer.conflict.record import Winner, read_version
from consumer.settling import Settling
from tests.integration.test_nodes_converge import SKEWS, writers_of
from tests.support.applying import World
from tests.support.writers import KEYS, Network, Writer, nodes_of_both_kinds, row_states

pytestmark = pytest.mark.containers
_CODES = "XYZ"
_ROUNDS_TO_AN_END = 30


@pytest.fixture
def worlds(tmp_path: Path, pg_database: str) -> Iterator[list[World]]:
    """Two nodes on SQLite, one on PostgreSQL; clashes of `code` wait."""
    with nodes_of_both_kinds(tmp_path, pg_database, tables={"policy": {"code": "manual"}}) as made:
        assert [world.node.facts.node_id for world in made] == list(SKEWS)
        yield made


@dataclass
class Operator:
    """Somebody at one node, who acts on what he saw when he looked last."""

    writer: Writer
    seen: list[tuple[int, str, Version]] = field(default_factory=list)
    """Number, state, and the version of the row that was shown with it."""
    acts: int = 0

    @property
    def world(self) -> World:
        return self.writer.world

    def look(self) -> None:
        """Remember the conflicts as they are shown now."""
        found = self.world.query("SELECT id, state, our_version FROM rf_conflict ORDER BY id")
        self.seen = [(number, state, read_version(version)) for number, state, version in found]

    def act(self) -> None:
        """Choose one that waited when he looked, or undo one that was settled."""
        if not self.seen:
            return
        number, state, version = self.writer.dice.choice(self.seen)
        says = version if self.writer.dice.random() < 0.7 else None
        try:
            if state == "waiting":
                self._settle(number, says)
            elif self.writer.dice.random() < 0.3:
                side = self.writer.dice.choice([Winner.OURS, Winner.THEIRS])
                Settling(self.world.node, "operator").undo(number, side, force=False)
                self.acts += 1
        except (UsageError, PoisonError):
            # It is settled meanwhile, the row is not what he saw, or what is chosen can't stand: nothing was done.
            pass

    def _settle(self, number: int, seen: Version | None) -> None:
        take = read_take(self.writer.dice.choice(["ours", "ours", "theirs", "theirs", "null"]))
        displace = self.writer.dice.random() < 0.5
        Settling(self.world.node, "operator").resolve(number, take, displace=displace, seen=seen)
        self.acts += 1

    def end(self) -> None:
        """Settle all that waits, as it is now, in any way that can stand."""
        settling = Settling(self.world.node, "operator")
        for number in waiting(self.world):
            if number in waiting(self.world):
                try:
                    settling.resolve(number, self.writer.dice.choice([Winner.OURS, Winner.THEIRS]), displace=True)
                except UsageError:
                    # The row that had the value is gone.
                    settling.resolve(number, Winner.THEIRS, displace=True)


def waiting(world: World) -> list[int]:
    return [number for (number,) in world.query("SELECT id FROM rf_conflict WHERE state = 'waiting' ORDER BY id")]


def code_statements(dice: random.Random, _: str) -> list[str]:
    """A write of one row: so few values that they clash as soon as two nodes have not heard of each other."""
    key, code = dice.choice(KEYS), dice.choice(_CODES)
    return dice.choice(
        [
            [f"INSERT INTO code VALUES ({key}, '{code}') ON CONFLICT (id) DO UPDATE SET code = excluded.code"],
            [f"UPDATE code SET code = '{code}' WHERE id = {key}"],
            [f"DELETE FROM code WHERE id = {key}"],
        ]
    )


def follow_up(worlds: list[World]) -> None:
    """Let come back what may stand again, as each node does by itself."""
    for world in worlds:
        world.refresh.catch_up()


def states(world: World) -> tuple[Any, Any]:
    return sorted(world.rows("code")), row_states(world, "code")


@pytest.mark.parametrize("seed", range(6))
def test_whoever_chose_on_what_he_saw_all_end_equal(worlds: list[World], seed: int) -> None:
    writers = writers_of(worlds, seed)
    operators = [Operator(writer) for writer in writers]
    network = Network(writers, random.Random(seed))
    for _ in range(12):
        for operator in operators:
            operator.look()
        for operator in operators:
            for _ in range(operator.writer.dice.randint(1, 2)):
                operator.writer.write(code_statements)
            if operator.writer.dice.random() < 0.9:
                operator.act()
        network.send()
        network.deliver(network.dice.choice([0.0, 0.3, 0.7]))
        follow_up(network.dice.sample(worlds, 2))
    assert sum(operator.acts for operator in operators) > 0
    for _ in range(_ROUNDS_TO_AN_END):
        network.send()
        network.deliver(1)
        follow_up(worlds)
        left = [operator for operator in operators if waiting(operator.world)]
        if not left and not any(network.waiting.values()):
            break
        for operator in network.dice.sample(left, min(len(left), 1)):
            operator.end()
    assert [waiting(world) for world in worlds] == [[], [], []], f"seed {seed}"
    first, *others = worlds
    for world in worlds:
        assert world.letters() == []
    for other in others:
        assert states(other) == states(first), f"seed {seed}"
