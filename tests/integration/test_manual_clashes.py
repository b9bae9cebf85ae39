"""Two rows with one unique value in a `manual` table: the one that comes waits; a choice ends alike everywhere."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import pytest

from common.errors import PoisonError, UsageError
from common.versions import Version
from common.wire.encode import encode_tx
from consumer.conflict.given import Take, read_take
from consumer.conflict.record import Winner, read_version
from consumer.met import UnseenError
from consumer.settling import Settling
from tests.support.applying import DATABASES, Origin, World, Write, close_world, open_world, sqlite_url, world_on

MANUAL = {"policy": {"code": "manual"}}
AHEAD = 3 * 10**15
"""A clock of another node that is ahead of this one's."""


@pytest.fixture(params=DATABASES)
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    with world_on(request, tmp_path, tables=MANUAL) as made:
        yield made


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[dict[str, World]]:
    worlds = {}
    for name in "abc":
        url = sqlite_url(tmp_path, f"{name}.db")
        worlds[name] = open_world(url, node={"id": name, "database": url}, tables=MANUAL)
        worlds[name].clock.us -= 40_000_000_000_000
    yield worlds
    for world in worlds.values():
        close_world(world)


def code(key: int, text: str, hlc: int, base: Version | None = None, op: str = "I") -> Write:
    return Write(op, "code", {"id": key, "code": text}, hlc, base)


def waiting(world: World) -> list[int]:
    return [number for (number,) in world.query("SELECT id FROM rf_conflict WHERE state = 'waiting' ORDER BY id")]


def log_of(world: World) -> list[bytes]:
    while world.node.database.sealer(world.node.facts).seal().more:
        pass
    return [
        part.body
        for tx in world.node.database.log(world.node.facts).read(0, 2**30)
        for part in encode_tx(tx, 4 * 1024 * 1024)
    ]


def exchange(fleet: dict[str, World], order: str) -> None:
    """Everybody gets everything, from the nodes in this order."""
    logs = {name: log_of(world) for name, world in fleet.items()}
    for name, world in fleet.items():
        for source in order:
            if source != name:
                world.receive(*logs[source])


def test_the_row_that_stands_stays_and_the_change_waits(world: World) -> None:
    a, b = Origin("a"), Origin("b")
    world.receive(a.tx(code(1, "X", 10)).body)
    world.receive(b.tx(code(2, "X", 20)).body)
    assert world.rows("code") == [(1, "X")]
    assert world.query("SELECT kind, state, winner, rule, pk FROM rf_conflict") == [
        ("unique", "waiting", "neither", "manual", '{"id":2}')
    ]
    assert (world.letters(), world.watermark("b"), world.one("SELECT count(*) FROM rf_stepped_back")) == ([], 1, 0)
    # A later write of the row by who knew of it takes its place, and clashes no more.
    world.receive(b.tx(code(2, "Y", 30, Version(0, 20, "b"), "U")).body)
    assert (world.rows("code"), waiting(world)) == ([(1, "X"), (2, "Y")], [])


def test_both_in_one_message(world: World) -> None:
    a, b = Origin("a"), Origin("b")
    world.receive(a.tx(code(1, "X", 10)).body + b.tx(code(2, "X", 20)).body)
    assert world.rows("code") == [(2, "X")]
    assert len(waiting(world)) == 1


def test_values_that_change_places_wait_for_nobody(world: World) -> None:
    a = Origin("a")
    world.receive(a.tx(code(1, "X", 10), code(2, "Y", 11)).body)
    swap = code(1, "Y", 20, Version(0, 10, "a"), "U"), code(2, "X", 21, Version(0, 11, "a"), "U")
    world.receive(a.tx(*swap).body)
    assert (world.rows("code"), waiting(world)) == ([(1, "Y"), (2, "X")], [])


@pytest.mark.parametrize(
    ("take", "rows", "winner"),
    [
        ("ours", [(1, "X")], "ours"),
        ("theirs", [(2, "X")], "theirs"),
        ('{"code": "Z"}', [(1, "X"), (2, "Z")], "neither"),
        ("null", [(1, "X")], "neither"),
    ],
)
def test_somebody_chooses(world: World, take: str, rows: list[tuple[int, str]], winner: str) -> None:
    a, b = Origin("a"), Origin("b")
    world.receive(a.tx(code(1, "X", 10)).body)
    world.receive(b.tx(code(2, "X", 20)).body)
    (number,) = waiting(world)
    settled = Settling(world.node, "anna").resolve(number, read_take(take))
    assert (settled.winner.value, settled.closed) == (winner, (number,))
    assert (world.rows("code"), waiting(world)) == (rows, [])
    (body,) = log_of(world)
    assert b'"resolves":[[0,10,"a"],[0,20,"b"]]' in body


def test_the_audit_names_the_row_of_the_conflict_where_the_choice_is_one_of_the_other_row(world: World) -> None:
    world.receive(Origin("a").tx(code(1, "X", 10)).body)
    world.receive(Origin("b").tx(code(2, "X", 20)).body)
    choice = code(1, "X", 30, Version(0, 10, "a"), "U")
    resolves = Version(0, 10, "a"), Version(0, 20, "b")
    world.receive(Origin("c").tx(replace(choice, resolves=resolves)).body)
    assert (world.rows("code"), waiting(world)) == ([(1, "X")], [])
    ((told,),) = world.query("SELECT detail FROM rf_audit WHERE action = 'resolved'")
    detail = json.loads(told)
    assert (detail["pk"], detail["winner"]) == ({"id": 2}, "ours")
    assert detail["resolves"] == [[0, 10, "a"], [0, 20, "b"]]


@pytest.mark.parametrize("order", ["".join(order) for order in permutations("abc")])
@pytest.mark.parametrize(("who", "take"), [("a", "ours"), ("a", "theirs"), ("b", "ours"), ("c", "theirs")])
def test_all_nodes_end_the_same_once_it_is_chosen(fleet: dict[str, World], order: str, who: str, take: Take) -> None:
    fleet["a"].execute("INSERT INTO code VALUES (1, 'X')")
    fleet["b"].execute("INSERT INTO code VALUES (2, 'X')")
    exchange(fleet, order)
    assert (fleet["a"].rows("code"), fleet["b"].rows("code")) == ([(1, "X")], [(2, "X")])
    assert all(waiting(world) for world in fleet.values())
    number = waiting(fleet[who])[0]
    Settling(fleet[who].node, "anna").resolve(number, read_take(str(take)))
    chosen = fleet[who].rows("code")
    exchange(fleet, order)
    for name, world in fleet.items():
        assert (world.rows("code"), waiting(world), world.letters()) == (chosen, [], []), name
    # Who lost returns where the winner moves away.
    fleet[who].execute(f"UPDATE code SET code = 'moved' WHERE id = {chosen[0][0]}")
    for _ in range(2):
        exchange(fleet, order)
        for world in fleet.values():
            world.refresh.catch_up()
    ends = {name: world.rows("code") for name, world in fleet.items()}
    assert len(ends["a"]) == 2
    assert ends["a"] == ends["b"] == ends["c"]


def test_a_choice_that_comes_before_what_it_settles(world: World) -> None:
    a, b, c = Origin("a"), Origin("b"), Origin("c")
    one, two = a.tx(code(1, "X", 10)).body, b.tx(code(2, "X", 20)).body
    choice = replace(code(1, "X", 40, Version(0, 20, "b"), "U"), resolves=(Version(0, 10, "a"), Version(0, 20, "b")))
    world.receive(c.tx(choice).body)
    world.receive(two)
    world.receive(one)
    assert (world.rows("code"), waiting(world), world.letters()) == ([(1, "X")], [], [])
    assert world.query("SELECT key FROM rf_stepped_back") != []


def test_a_row_that_stepped_back_is_put_in_the_place_of_its_rival(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    request.param = "sqlite"
    with world_on(request, tmp_path) as world:
        a, b = Origin("a"), Origin("b")
        world.receive(a.tx(code(2, "mine", 10)).body)
        world.receive(b.tx(code(2, "X", 20)).body)
        world.receive(a.tx(code(1, "X", 30)).body)
        assert world.rows("code") == [(1, "X")]
        ((number,),) = world.query("SELECT id FROM rf_conflict WHERE kind = 'insert'")
        settling = Settling(world.node, "anna")
        settling.undo(number, None, force=False)
        assert world.rows("code") == [(1, "X"), (2, "mine")]
        with pytest.raises(PoisonError, match=r"--displace"):
            settling.undo(number, None, force=False)
        assert world.rows("code") == [(1, "X"), (2, "mine")]
        settling.undo(number, None, force=False, displace=True)
        assert world.rows("code") == [(2, "X")]
        assert world.query("SELECT kind FROM rf_stepped_back") == [("unique",)]
        log_of(world)
        world.refresh.catch_up()
        assert world.rows("code") == [(2, "X")]


def test_a_value_that_is_missing_is_nobody_in_the_way(world: World) -> None:
    world.receive(Origin("a").tx(code(1, "X", 10)).body, Origin("b").tx(code(1, "Y", 20)).body)
    (number,) = waiting(world)
    with pytest.raises(UsageError, match="nothing was changed") as told:
        Settling(world.node, "anna").resolve(number, read_take('{"code": null}'))
    assert "--displace" not in str(told.value)
    world.receive(Origin("c").tx(code(2, "X", 30)).body)
    clash = world.one("SELECT id FROM rf_conflict WHERE kind = 'unique'")
    with pytest.raises(UsageError, match="nothing was changed"):
        Settling(world.node, "anna").resolve(clash, read_take('{"code": null}'))
    assert world.rows("code") == [(1, "X")]


def test_of_two_choices_made_apart_the_later_stands(fleet: dict[str, World]) -> None:
    fleet["a"].execute("INSERT INTO code VALUES (1, 'X')")
    fleet["b"].execute("INSERT INTO code VALUES (2, 'X')")
    exchange(fleet, "abc")
    for name in "ab":
        Settling(fleet[name].node, "anna").resolve(waiting(fleet[name])[0], Winner.OURS)
    exchange(fleet, "abc")
    exchange(fleet, "cba")
    ends = [(world.rows("code"), waiting(world)) for world in fleet.values()]
    assert ends == [([(2, "X")], [])] * 3


def test_a_choice_made_without_having_seen_another_one_does_not_replace_it_unseen(fleet: dict[str, World]) -> None:
    """Found by the state machine. What a clash was settled with was on top of the other row's version, and whoever
    made that one counted as seen with all that he had written before it."""
    fleet["a"].execute("INSERT INTO code VALUES (2, 'X')")
    fleet["c"].execute("INSERT INTO code VALUES (2, 'of c')")
    exchange(fleet, "abc")
    for name, wanted in (("a", "X"), ("b", "of c")):
        take = Winner.OURS if fleet[name].rows("code") == [(2, wanted)] else Winner.THEIRS
        Settling(fleet[name].node, "anna").resolve(waiting(fleet[name])[0], take)
    log_of(fleet["b"])
    fleet["b"].execute("INSERT INTO code VALUES (1, 'X')")
    # What b chose is still on its way when its next tx is at a.
    fleet["a"].receive(log_of(fleet["b"])[-1])
    (number,) = waiting(fleet["a"])
    Settling(fleet["a"].node, "anna").resolve(number, Winner.OURS)
    assert fleet["a"].rows("code") == [(2, "X")]
    exchange(fleet, "abc")
    (asked,) = waiting(fleet["b"])
    assert fleet["b"].query(f"SELECT kind, pk, their_image FROM rf_conflict WHERE id = {asked}") == [
        ("update", '{"id":2}', '{"id":2,"code":"X"}')
    ]
    Settling(fleet["b"].node, "anna").resolve(asked, Winner.OURS)
    for _ in range(2):
        exchange(fleet, "abc")
        for world in fleet.values():
            world.refresh.catch_up()
    ends = [(world.rows("code"), waiting(world)) for world in fleet.values()]
    assert ends == [([(1, "X"), (2, "of c")], [])] * 3


@pytest.mark.parametrize("given", ["Z", "Y"])
def test_a_row_that_another_node_gave_closes_the_clash(world: World, given: str) -> None:
    """Found by the state machine: what the row was given was compared with the other row, and no batch came through."""
    a, b, c = Origin("a"), Origin("b"), Origin("c")
    world.receive(a.tx(code(1, "X", 10), code(3, "Y", 11)).body)
    world.receive(b.tx(code(2, "X", 20)).body)
    settles = (Version(0, 10, "a"), Version(0, 20, "b"))
    world.receive(c.tx(replace(code(2, given, 40, Version(0, 20, "b"), "U"), resolves=settles)).body)
    assert (waiting(world), world.letters()) == ([], [])
    assert world.query("SELECT winner FROM rf_conflict WHERE their_version = '[0,20,\"b\"]'") == [("neither",)]
    left = {"Z": [(1, "X"), (2, "Z"), (3, "Y")], "Y": [(1, "X"), (2, "Y")]}
    assert world.rows("code") == left[given]


def clash_and_write(world: World, hlc: int = 20, statement: str = "UPDATE code SET code = 'W' WHERE id = 2") -> int:
    """A change of row 2 waits for row 1, and row 2 is written here meanwhile; return the conflict's number."""
    a, b = Origin("a"), Origin("b")
    world.receive(a.tx(code(1, "X", 10), code(2, "Y", 11)).body)
    world.receive(b.tx(code(2, "X", hlc, Version(0, 11, "a"), "U")).body)
    world.execute(statement)
    (number,) = waiting(world)
    return number


def seen_of(world: World, number: int) -> Version:
    return read_version(world.one(f"SELECT our_version FROM rf_conflict WHERE id = {number}"))


def images_of(world: World, number: int) -> list[str | None]:
    ((*texts,),) = world.query(f"SELECT our_image, their_image FROM rf_conflict WHERE id = {number}")
    return [None if text is None else json.loads(text)["code"] for text in texts]


@pytest.mark.parametrize("hlc", [20, AHEAD])
@pytest.mark.parametrize("take", ["theirs", '{"code": "Z"}', "null"])
def test_what_was_written_into_the_row_that_waits_is_not_overwritten_unseen(world: World, take: str, hlc: int) -> None:
    """Seen was the row that has the value; the one that waits was written here, and no answer had shown that."""
    number = clash_and_write(world, hlc)
    settling = Settling(world.node, "anna")
    with pytest.raises(UnseenError, match=r'code {"id":2} was written again by here .*"X".* now "W"'):
        settling.resolve(number, read_take(take), seen=seen_of(world, number))
    assert (world.rows("code"), waiting(world), len(log_of(world))) == ([(1, "X"), (2, "W")], [number], 1)
    assert images_of(world, number) == ["W", "X"]
    # Shown are the two writes of one row from now on; that the other row has the value is seen when it is chosen.
    if take == "theirs":
        with pytest.raises(PoisonError, match="--displace"):
            settling.resolve(number, Winner.THEIRS, seen=seen_of(world, number))
    settling.resolve(number, read_take(take), displace=take == "theirs", seen=seen_of(world, number))
    assert world.rows("code") == {"theirs": [(2, "X")], "null": [(1, "X")]}.get(take, [(1, "X"), (2, "Z")])
    assert waiting(world) == []


def test_what_was_overwritten_without_a_word_of_what_was_seen_is_on_record_and_comes_back(world: World) -> None:
    number = clash_and_write(world)
    settling = Settling(world.node, "anna")
    settling.resolve(number, Winner.THEIRS)
    assert (world.rows("code"), images_of(world, number)) == ([(2, "X")], ["W", "X"])
    settling.undo(number, None, force=False)
    log_of(world)
    world.refresh.catch_up()
    assert world.rows("code") == [(1, "X"), (2, "W")]


@pytest.mark.parametrize("hlc", [20, AHEAD])
def test_the_row_that_stands_is_kept_and_what_waits_meets_what_was_written(world: World, hlc: int) -> None:
    """As on any other node to which that choice comes."""
    number = clash_and_write(world, hlc)
    Settling(world.node, "anna").resolve(number, Winner.OURS, seen=seen_of(world, number))
    assert world.rows("code") == [(1, "X"), (2, "W")]
    (beside,) = waiting(world)
    assert world.query(f"SELECT kind, pk FROM rf_conflict WHERE id = {beside}") == [("update", '{"id":2}')]
    assert images_of(world, beside) == ["W", "X"]
    Settling(world.node, "anna").resolve(beside, Winner.OURS, seen=seen_of(world, beside))
    assert (world.rows("code"), waiting(world)) == ([(1, "X"), (2, "W")], [])


def test_a_row_that_was_deleted_or_made_meanwhile_counts_as_written(world: World) -> None:
    number = clash_and_write(world, statement="DELETE FROM code WHERE id = 2")
    settling = Settling(world.node, "anna")
    with pytest.raises(UnseenError, match="it is deleted"):
        settling.resolve(number, Winner.THEIRS, seen=seen_of(world, number))
    assert (world.rows("code"), images_of(world, number)) == ([(1, "X")], [None, "X"])
    world.receive(Origin("c").tx(code(3, "X", 25)).body)
    world.execute("INSERT INTO code VALUES (3, 'W')")
    (other,) = set(waiting(world)) - {number}
    with pytest.raises(UnseenError, match='now "W"'):
        settling.resolve(other, Winner.THEIRS, seen=seen_of(world, other))
    assert world.query(f"SELECT kind FROM rf_conflict WHERE id = {other}") == [("insert",)]


def test_a_change_that_follows_one_that_had_waited_is_chosen_as_it_was_shown(world: World) -> None:
    """What its author knew of the row was never here; nobody has written that but he."""
    a, b = Origin("a"), Origin("b")
    world.receive(a.tx(code(1, "X", 10), code(2, "Y", 11), code(3, "Z", 12)).body)
    world.receive(b.tx(code(2, "X", 20, Version(0, 11, "a"), "U")).body)
    world.receive(b.tx(code(2, "Z", 30, Version(0, 20, "b"), "U")).body)
    (number,) = waiting(world)
    Settling(world.node, "anna").resolve(number, Winner.THEIRS, seen=seen_of(world, number))
    assert (world.rows("code"), waiting(world)) == ([(1, "X"), (2, "Z")], [])


@pytest.mark.parametrize("take", ["ours", "theirs", '{"code": "Z"}'])
@pytest.mark.parametrize("order", ["abc", "cba", "bca"])
def test_all_nodes_end_the_same_where_the_row_was_written_meanwhile(
    fleet: dict[str, World], take: str, order: str
) -> None:
    fleet["a"].execute("INSERT INTO code VALUES (1, 'X'), (2, 'Y')")
    exchange(fleet, order)
    fleet["b"].execute("DELETE FROM code WHERE id = 1", "UPDATE code SET code = 'X' WHERE id = 2")
    fleet["a"].execute("UPDATE code SET code = 'X' WHERE id = 1")
    exchange(fleet, order)
    for world in fleet.values():
        for number in waiting(world):
            if world.query(f"SELECT 1 FROM rf_conflict WHERE id = {number} AND kind = 'unique'"):
                world.execute("UPDATE code SET code = 'W' WHERE id = 2 AND code = 'Y'")
                Settling(world.node, "anna").resolve(number, read_take(take))
                break
    for _ in range(3):
        exchange(fleet, order)
        for world in fleet.values():
            for number in waiting(world):
                Settling(world.node, "anna").resolve(number, Winner.OURS)
            world.refresh.catch_up()
    for _ in range(2):
        exchange(fleet, order)
        for world in fleet.values():
            world.refresh.catch_up()
    ends = [(world.rows("code"), waiting(world), world.letters()) for world in fleet.values()]
    assert ends[0] == ends[1] == ends[2]
    assert ends[0][1:] == ([], [])
