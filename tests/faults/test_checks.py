"""The checker of the fault runs sees a wrong world, each wrong in one way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass

import pytest

from tests.faults.checks import Found, violations
from tests.faults.ledger import Journal

ENTRIES = [("a-1-0", "a", 1, 2, 5), ("a-1-1", "a", 1, 2, -5), ("a-2-0", "a", 2, 1, 0), ("b-1-0", "b", 1, 1, 0)]
ACCOUNTS = [("a-0", "a", 7), ("a-1", "a", -7)]


@dataclass
class Small:
    """Two nodes at rest."""

    journals: dict[str, Journal]
    found: dict[str, Found]

    def wrong(self, *letters: str) -> list[str]:
        return violations(self.journals, self.found, letters)

    def drop(self, node: str, *ids: str) -> None:
        rows = self.found[node].tables["entry"]
        self.found[node].tables["entry"] = [row for row in rows if row[0] not in ids]


def right() -> Small:
    """Return a world in which all is as it should be."""
    tables = {"entry": ENTRIES, "account": ACCOUNTS, "shared": [(1, "b", 1)]}
    a = Found("a", {"t1": ["a-1-0", "a-1-1"], "t2": ["a-2-0"]}, deepcopy(tables), Counter({("b", "u1"): 1}))
    b = Found("b", {"u1": ["b-1-0"]}, deepcopy(tables), Counter({("a", "t1"): 1, ("a", "t2"): 1}))
    b.witnessed = Counter(row[0] for row in ENTRIES)
    journals = {"a": Journal("a", {1: 2, 2: 1, 3: 2}, {1, 2}, {3}), "b": Journal("b", {1: 1}, {1})}
    return Small(journals, {"a": a, "b": b})


def test_a_right_world_is_right() -> None:
    assert right().wrong() == []


def test_what_nobody_knows_may_be_there_or_not_but_whole() -> None:
    world = right()
    world.journals["a"].tried[4] = 2
    assert world.journals["a"].unsure == {4}
    assert world.wrong() == []
    world.found["a"].log["t2"] += ["a-4-0"]
    assert any("tx 4 is [1, 0] times" in one for one in world.wrong())


def test_what_is_set_aside_is_not_lost_where_it_may_be() -> None:
    world = right()
    world.found["b"].letters["a", "t2"] = "checksum"
    del world.found["b"].applied["a", "t2"]
    world.drop("b", "a-2-0")
    assert world.wrong("checksum") == []
    assert world.wrong() == ["b: a's tx t2 was set aside (checksum)"]


def lose_from_the_log(world: Small) -> None:
    del world.found["a"].log["t2"]


def seal_twice(world: Small) -> None:
    world.found["a"].log["t3"] = ["a-2-0"]
    world.found["b"].applied["a", "t3"] = 1


def tear_in_the_log(world: Small) -> None:
    world.found["a"].log = {"t1": ["a-1-0"], "t2": ["a-2-0", "a-1-1"]}


def seal_what_was_rolled_back(world: Small) -> None:
    world.found["a"].log["t2"] += ["a-3-0", "a-3-1"]


def seal_what_nobody_wrote(world: Small) -> None:
    world.found["a"].log["t2"] += ["a-9-0"]


def lose_on_the_way(world: Small) -> None:
    del world.found["b"].applied["a", "t2"]
    for node in world.found:
        world.drop(node, "a-2-0")


def apply_and_lose_the_rows(world: Small) -> None:
    world.drop("b", "a-2-0")


def apply_twice(world: Small) -> None:
    world.found["b"].applied["a", "t2"] = 2


def apply_what_is_in_no_log(world: Small) -> None:
    world.found["b"].applied["a", "t9"] = 1


def write_twice(world: Small) -> None:
    assert world.found["b"].witnessed is not None
    world.found["b"].witnessed["a-2-0"] += 1


def leave_a_part(world: Small) -> None:
    for node in world.found:
        world.drop(node, "a-1-1")


def show_a_part(world: Small) -> None:
    world.found["b"].halves = ["b showed a part"]


def leave_an_account_apart(world: Small) -> None:
    for one in world.found.values():
        one.tables["account"] = [("a-0", "a", 7), ("a-1", "a", -6)]


def differ(world: Small) -> None:
    world.found["b"].tables["shared"] = [(1, "a", 2)]


def set_aside(world: Small) -> None:
    world.found["b"].letters["a", "t2"] = "crash"


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lose_from_the_log, "a: committed tx 2 is [0] times in the log"),
        (seal_twice, "a: committed tx 2 is [2] times in the log"),
        (tear_in_the_log, "torn over several txs"),
        (seal_what_was_rolled_back, "never committed, and is in the log"),
        (seal_what_nobody_wrote, "which nobody wrote"),
        (lose_on_the_way, "b: a's tx t2 was applied 0 times"),
        (apply_and_lose_the_rows, "b: a's committed tx 2 is lost"),
        (apply_twice, "b: a's tx t2 was applied 2 times"),
        (apply_what_is_in_no_log, "is not in its log"),
        (write_twice, "b: a-2-0 was written 2 times"),
        (leave_a_part, "a's tx 1 is there in part"),
        (show_a_part, "b showed a part"),
        (leave_an_account_apart, "the accounts of a come to 1"),
        (differ, "shared: a and b differ in 2 rows"),
        (set_aside, "was set aside (crash)"),
    ],
)
def test_each_wrong_is_seen(spoil: Callable[[Small], None], words: str) -> None:
    world = right()
    spoil(world)
    assert any(words in one for one in world.wrong()), world.wrong()
