"""Policy `manual`: a change that met another waits for a choice; the choice is a write that settles it everywhere."""

from __future__ import annotations

import json
import threading
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from common.clock import SystemClock
from common.dialects.postgresql.applying import PostgresApplySession
from common.errors import PoisonError, UsageError
from common.ops.migration import migrate
from common.versions import Version
from common.wire.encode import encode_tx
from common.wire.records import TableMeta
from consumer.audit import APPLIER
from consumer.conflict.given import in_wire_form, read_take
from consumer.conflict.reading import read
from consumer.conflict.record import Winner, read_version
from consumer.met import UnseenError
from consumer.settling import Settling
from consumer.statements import reading
from tests.support.applying import (
    DATABASES,
    TABLES,
    Origin,
    World,
    Write,
    close_world,
    open_world,
    resealed,
    sqlite_url,
    world_on,
)

MANUAL = {"policy": {"item": "manual"}}


@pytest.fixture(params=DATABASES)
def desk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    """A node on which conflicts of `item` wait."""
    with world_on(request, tmp_path, tables=MANUAL) as made:
        yield made


@pytest.fixture
def pg_world(pg_database: str) -> Iterator[World]:
    """The same on PostgreSQL alone."""
    made = open_world(pg_database, tables=MANUAL)
    try:
        yield made
    finally:
        close_world(made)


def names(world: World) -> list[str]:
    return [row[1] for row in world.rows()]


def conflicts(world: World) -> list[tuple[Any, ...]]:
    return world.query("SELECT state, winner FROM rf_conflict ORDER BY id")


def numbers(world: World, state: str = "waiting") -> list[int]:
    return [row[0] for row in world.query(f"SELECT id FROM rf_conflict WHERE state = '{state}' ORDER BY id")]


def sent(world: World, after: int = 0) -> list[dict[str, Any]]:
    """The change lines of the node's own log."""
    log = world.node.database.log(world.node.facts)
    return [json.loads(line) for tx in log.read(after, 10**9) for line in tx.lines()]


def bodies(world: World) -> list[bytes]:
    log = world.node.database.log(world.node.facts)
    return [part.body for tx in log.read(0, 10**9) for part in encode_tx(tx)]


def meet(world: World) -> None:
    """A write of b that did not know of a's."""
    world.receive(Origin("a").put(1, "of a", 10).body)
    world.receive(Origin("b").put(1, "of b", 20).body)


def test_the_row_stays_and_the_change_waits(desk: World) -> None:
    meet(desk)
    assert names(desk) == ["of a"]
    assert conflicts(desk) == [("waiting", "neither")]
    assert desk.letters() == []
    assert desk.watermark("b") == 1, "a watermark never waits for a person"


def test_what_was_written_while_it_waited_is_on_record_and_comes_back(desk: World) -> None:
    """The choice is made against the row as it is, not as it was when the two met."""
    meet(desk)
    (number,) = numbers(desk)
    desk.execute("UPDATE item SET name = 'later' WHERE id = 1")
    settling = Settling(desk.node, "anna")
    desk.node.database.sealer(desk.node.facts).seal()
    settling.resolve(number, read_take("theirs"))
    assert names(desk) == ["of b"]
    ((ours,),) = desk.query(f"SELECT our_image FROM rf_conflict WHERE id = {number}")
    assert json.loads(ours)["name"] == "later"
    settling.undo(number, None, force=False)
    assert names(desk) == ["later"]
    settling.undo(number, None, force=False)
    assert names(desk) == ["of b"]


@pytest.mark.parametrize(
    ("take", "name", "winner"),
    [("ours", "of a", "ours"), ("theirs", "of b", "theirs"), ('{"name": "both"}', "both", "neither")],
)
def test_a_choice_is_a_write_that_names_what_it_settles(desk: World, take: str, name: str, winner: str) -> None:
    meet(desk)
    (number,) = numbers(desk)
    settled = Settling(desk.node, "anna").resolve(number, read_take(take))
    assert names(desk) == [name]
    assert conflicts(desk) == [("settled", winner)]
    assert settled.closed == (number,)
    (change,) = sent(desk)
    assert (change["op"], change["after"]["name"], change["before"]["name"]) == ("U", name, "of a")
    assert change["resolves"] == [[0, 10, "a"], [0, 20, "b"]]
    assert change["base"] == [0, 20, "b"]
    assert change["version"][1] > 20
    ((action, actor),) = desk.query("SELECT action, actor FROM rf_audit WHERE action = 'resolved'")
    assert (action, actor) == ("resolved", "anna")
    with pytest.raises(UsageError, match=r"settled.*undo"):
        Settling(desk.node, "anna").resolve(number, Winner.OURS)


def rename(world: World) -> None:
    world.execute("ALTER TABLE item RENAME TO thing")
    world.node.database.capture().install(list(world.node.captured_tables().values()))


def test_a_conflict_that_waits_goes_along_when_its_table_is_renamed(desk: World) -> None:
    meet(desk)
    (number,) = numbers(desk)
    rename(desk)
    assert Settling(desk.node, "anna").resolve(number, Winner.THEIRS).closed == (number,)
    assert desk.query("SELECT name FROM thing") == [("of b",)]


def test_what_was_chosen_goes_along_when_its_table_is_renamed(desk: World) -> None:
    meet(desk)
    (number,) = numbers(desk)
    Settling(desk.node, "anna").resolve(number, Winner.OURS)
    rename(desk)
    for kept in ("rf_conflict", "rf_choice"):
        assert desk.query(f"SELECT DISTINCT table_name FROM {kept}") == [("thing",)]


def test_a_row_is_chosen_away_and_one_that_is_away_stays_so(desk: World) -> None:
    a, b = Origin("a"), Origin("b")
    desk.receive(a.put(1, "of a", 10).body, a.put(2, "of a", 10).body)
    desk.receive(b.put(1, "of b", 20, None, "D").body)
    desk.receive(a.put(2, "of a", 15, Version(0, 10, "a"), "D").body, b.put(2, "of b", 20).body)
    first, second = numbers(desk)
    Settling(desk.node, "anna").resolve(first, Winner.THEIRS)
    Settling(desk.node, "anna").resolve(second, Winner.OURS)
    assert desk.rows() == []
    assert [(one["op"], one["after"]) for one in sent(desk)] == [("D", None), ("D", None)]
    Settling(desk.node, "anna").undo(second, None, force=False)
    assert [(one["op"], one["after"]["name"]) for one in sent(desk)[2:]] == [("I", "of b")]
    assert names(desk) == ["of b"]


def test_what_is_given_must_be_a_row(desk: World) -> None:
    meet(desk)
    (number,) = numbers(desk)
    settling = Settling(desk.node, "anna")
    for wrong, told in (
        ('{"nme": 1}', "no column"),
        ('{"id": 2}', "key"),
        ("[1]", "object"),
        ("thiers", "ours, theirs"),
    ):
        with pytest.raises(UsageError, match=told):
            settling.resolve(number, read_take(wrong))
    with pytest.raises(UsageError, match="conflicts list"):
        settling.resolve(99, Winner.OURS)
    assert conflicts(desk) == [("waiting", "neither")]
    assert sent(desk) == []


def test_a_later_write_of_the_same_author_waits_in_the_place_of_the_first(desk: World) -> None:
    meet(desk)
    desk.receive(Origin("b", lsn=1, made=1).put(1, "of b again", 30, Version(0, 20, "b"), "U").body)
    assert conflicts(desk) == [("settled", "neither"), ("waiting", "neither")]
    ((told,),) = desk.query("SELECT detail FROM rf_audit WHERE action = 'resolved'")
    detail = json.loads(told)
    assert (detail["winner"], detail["resolves"]) == ("neither", []), "a later write is no choice"
    desk.receive(Origin("b", lsn=1, made=1).put(1, "of b again", 30, Version(0, 20, "b"), "U").body)
    assert len(conflicts(desk)) == 2
    # One that comes after what overtook it has nothing to wait for.
    other = open_world(**_beside(desk)) if desk.node.database.engine.dialect.name == "sqlite" else None
    if other is not None:
        again = Origin("b")
        first, second = again.put(1, "of b", 20), again.put(1, "of b again", 30, Version(0, 20, "b"), "U")
        other.receive(Origin("a").put(1, "of a", 10).body)
        other.receive(second.body, first.body)
        assert conflicts(other) == [("waiting", "neither")]
        close_world(other)


def _beside(world: World) -> dict[str, Any]:
    return {"url": f"{world.node.database.engine.url}.beside", "tables": MANUAL}


def test_a_choice_that_comes_in_settles_silently_and_closes_what_waits(desk: World) -> None:
    meet(desk)
    c = Origin("c")
    choice = Write("U", "item", {"id": 1, "name": "of b", "price": "1.50"}, 40, Version(0, 20, "b"))
    desk.receive(_choice(c, choice, [[0, 10, "a"], [0, 20, "b"]]))
    assert names(desk) == ["of b"]
    assert conflicts(desk) == [("settled", "theirs")]
    ((actor, source, told),) = desk.query("SELECT actor, source_node, detail FROM rf_audit WHERE action = 'resolved'")
    detail = json.loads(told)
    assert (actor, source, detail["table"], detail["pk"], detail["winner"]) == (
        APPLIER,
        "c",
        "item",
        {"id": 1},
        "theirs",
    )
    assert detail["resolves"] == [[0, 10, "a"], [0, 20, "b"]]
    # Whoever made it had seen what comes late.
    desk.receive(Origin("d").put(2, "first", 5).body)
    late = Origin("e")
    desk.receive(
        _choice(
            c,
            Write("I", "item", {"id": 2, "name": "chosen", "price": "1"}, 50, Version(0, 30, "e")),
            [[0, 5, "d"], [0, 30, "e"]],
        )
    )
    desk.receive(late.put(2, "of e", 30).body)
    assert names(desk) == ["of b", "chosen"]
    assert len(conflicts(desk)) == 1


def test_a_choice_is_a_conflict_where_the_row_is_another(desk: World) -> None:
    desk.receive(Origin("x").put(1, "of x", 15).body)
    choice = Write("U", "item", {"id": 1, "name": "chosen", "price": "1"}, 40, Version(0, 20, "b"))
    desk.receive(_choice(Origin("c"), choice, [[0, 10, "a"], [0, 20, "b"]]))
    assert names(desk) == ["of x"]
    assert conflicts(desk) == [("waiting", "neither")]
    # Both of its sides are in it.
    desk.receive(Origin("a").put(1, "of a", 10).body)
    assert conflicts(desk) == [("waiting", "neither")]


def test_of_two_choices_made_apart_the_higher_stands_in_every_order(tmp_path: Path) -> None:
    sides = [[0, 10, "a"], [0, 20, "b"]]
    low = _choice(
        Origin("c"), Write("U", "item", {"id": 1, "name": "low", "price": "1"}, 40, Version(0, 20, "b")), sides
    )
    high = _choice(
        Origin("d"), Write("U", "item", {"id": 1, "name": "high", "price": "1"}, 50, Version(0, 20, "b")), sides
    )
    ours = Origin("a").put(1, "of a", 10).body
    theirs = Origin("b").put(1, "of b", 20).body
    for place, order in enumerate(([ours, theirs, low, high], [ours, high, low, theirs], [theirs, low, ours, high])):
        world = open_world(sqlite_url(tmp_path, f"{place}.db"), tables=MANUAL)
        for body in order:
            world.receive(body)
        assert names(world) == ["high"]
        assert ("settled", "theirs" if order.index(low) < order.index(high) else "ours") in conflicts(world)
        assert numbers(world) == []
        close_world(world)


def test_a_higher_choice_that_waited_stands_once_the_lower_one_settles_the_row(desk: World) -> None:
    """`high` settles a and b, `low` settles b and x; the row is x's."""
    desk.receive(Origin("x").put(1, "of x", 15).body)
    high = Write("U", "item", {"id": 1, "name": "high", "price": "1"}, 60, Version(0, 20, "b"))
    desk.receive(_choice(Origin("d"), high, [[0, 10, "a"], [0, 20, "b"]]))
    assert names(desk) == ["of x"]
    low = Write("U", "item", {"id": 1, "name": "low", "price": "1"}, 50, Version(0, 20, "b"))
    desk.receive(_choice(Origin("c"), low, [[0, 15, "x"], [0, 20, "b"]]))
    assert names(desk) == ["high"]
    assert numbers(desk) == []


def test_a_choice_above_itself_is_refused(desk: World) -> None:
    tx = Write("U", "item", {"id": 1, "name": "x", "price": "1"}, 40, Version(0, 20, "b"))
    desk.receive(_choice(Origin("c"), tx, [[0, 99, "z"]]))
    assert [letter[1:] for letter in desk.letters()] == [("version", "dead")]


def test_a_decision_is_flipped_under_any_policy(world: World) -> None:
    meet(world)
    assert names(world) == ["of b"]
    (number,) = numbers(world, "settled")
    settling = Settling(world.node, "anna")
    assert settling.undo(number, None, force=False).winner is Winner.OURS
    assert names(world) == ["of a"]
    assert conflicts(world) == [("settled", "ours")]
    assert sent(world)[0]["resolves"] == [[0, 10, "a"], [0, 20, "b"]]
    assert settling.undo(number, None, force=False).winner is Winner.THEIRS
    assert names(world) == ["of b"]
    world.execute("UPDATE item SET name = 'later' WHERE id = 1")
    with pytest.raises(UsageError, match="written again since"):
        settling.undo(number, None, force=False)
    settling.undo(number, None, force=True)
    assert names(world) == ["of a"]
    assert world.query("SELECT action FROM rf_audit WHERE action = 'undone'") == [("undone",)] * 3


def test_nothing_is_flipped_where_rows_never_change(tmp_path: Path) -> None:
    world = open_world(sqlite_url(tmp_path), tables={"policy": {"item": "append-only"}})
    meet(world)
    with pytest.raises(UsageError, match="append-only"):
        Settling(world.node, "anna").undo(numbers(world, "settled")[0], None, force=True)
    assert names(world) == ["of b"]
    close_world(world)


def test_a_choice_that_can_t_stand_changes_nothing(tmp_path: Path) -> None:
    world = open_world(sqlite_url(tmp_path), tables={"policy": {"code": "manual"}})
    a, b = Origin("a"), Origin("b")
    world.receive(a.tx(Write("I", "code", {"id": 1, "code": "one"}, 10)).body)
    world.receive(a.tx(Write("I", "code", {"id": 2, "code": "two"}, 10)).body)
    world.receive(b.tx(Write("I", "code", {"id": 1, "code": "two"}, 20)).body)
    (number,) = numbers(world)
    with pytest.raises(PoisonError, match=r"conflict 1: code .*can't be written here.*UNIQUE.*in its way"):
        Settling(world.node, "anna").resolve(number, Winner.THEIRS)
    assert [row[1] for row in world.rows("code")] == ["one", "two"]
    assert numbers(world) == [number]
    assert sent(world) == []
    close_world(world)


def test_own_writes_are_sealed_before_a_choice_and_go_out_before_it(desk: World) -> None:
    meet(desk)
    desk.execute("UPDATE item SET name = 'mine' WHERE id = 1")
    (number,) = numbers(desk)
    Settling(desk.node, "anna").resolve(number, Winner.OURS)
    mine, choice = sent(desk)
    assert (mine["after"]["name"], mine.get("resolves")) == ("mine", None)
    assert choice["after"]["name"] == "mine"
    assert mine["version"] in choice["resolves"]


def _choice(origin: Origin, write: Write, resolves: list[list[Any]]) -> bytes:
    """A tx whose one change is a choice, as its node would have sealed it."""
    body = origin.tx(write).body
    text = json.dumps(resolves, separators=(",", ":")).encode()
    return resealed(body, b'"captured_at"', b'"resolves":' + text + b',"captured_at"')


def test_a_column_that_came_since_stays_as_it_stands(desk: World) -> None:
    """The images on record are from before it, and say nothing of it."""
    meet(desk)
    _alter(desk, "ALTER TABLE item ADD COLUMN extra TEXT DEFAULT 'kept'")
    (number,) = numbers(desk)
    settling = Settling(desk.node, "anna")
    settling.resolve(number, Winner.THEIRS)
    assert [row[1:4:2] for row in desk.rows()] == [("of b", "kept")]
    settling.undo(number, None, force=False)
    assert [row[1:4:2] for row in desk.rows()] == [("of a", "kept")]
    assert [one["after"]["extra"] for one in sent(desk)] == ["kept", "kept"]


def test_a_choice_that_waited_leaves_a_column_that_came_since(desk: World) -> None:
    desk.receive(Origin("x").put(1, "of x", 15).body)
    high = Write("U", "item", {"id": 1, "name": "high", "price": "1"}, 60, Version(0, 20, "b"))
    desk.receive(_choice(Origin("d"), high, [[0, 10, "a"], [0, 20, "b"]]))
    _alter(desk, "ALTER TABLE item ADD COLUMN extra TEXT DEFAULT 'kept'")
    columns = {**TABLES["item"].columns, "extra": "text"}
    knows = Origin("c", tables={"item": TableMeta(pk=("id",), columns=columns)})
    low = Write("U", "item", {"id": 1, "name": "low", "price": "1", "extra": "kept"}, 50, Version(0, 20, "b"))
    desk.receive(_choice(knows, low, [[0, 15, "x"], [0, 20, "b"]]))
    assert [row[1:4:2] for row in desk.rows()] == [("high", "kept")]
    assert numbers(desk) == []


def test_an_image_with_a_column_that_is_gone_is_not_taken_in_part(desk: World) -> None:
    meet(desk)
    _alter(desk, "ALTER TABLE item RENAME COLUMN price TO cost")
    (number,) = numbers(desk)
    settling = Settling(desk.node, "anna")
    with pytest.raises(UsageError, match=r"'price'.*no such column.*JSON"):
        settling.resolve(number, Winner.THEIRS)
    settling.resolve(number, read_take('{"name": "both"}'))
    assert names(desk) == ["both"]
    assert numbers(desk) == []


def _alter(world: World, statement: str) -> None:
    """Alter `item` as its owner does, and install the capture that fits."""
    world.execute(statement)
    migrate(world.node.database, world.node.config, SystemClock())


@pytest.mark.parametrize(
    "wrong",
    [
        '{"price": NaN}',
        '{"price": Infinity}',
        '{"price": true}',
        '{"price": [1]}',
        '{"name": 5}',
        '{"name": {"x": 1}}',
        '{"name": "\\ud800"}',
        '{"id": true}',
        '{"id": 1.5}',
        '{"id": 18446744073709551616}',
        "[" * 100_000,
    ],
)
def test_a_value_that_the_column_can_t_have_is_refused_by_name(desk: World, wrong: str) -> None:
    meet(desk)
    (number,) = numbers(desk)
    with pytest.raises(UsageError, match="take"):
        Settling(desk.node, "anna").resolve(number, read_take(wrong))
    assert sent(desk) == []
    assert numbers(desk) == [number]


def test_a_decimal_that_is_given_as_a_number_keeps_its_digits(desk: World) -> None:
    meet(desk)
    (number,) = numbers(desk)
    Settling(desk.node, "anna").resolve(number, read_take('{"price": 1234567890.10}'))
    assert Decimal(sent(desk)[0]["after"]["price"]) == Decimal("1234567890.10")


@pytest.mark.parametrize(
    "wrong",
    [
        '{"price": 1e100000000}',
        '{"price": -1e999999999}',
        '{"price": 1e-100000000}',
        '{"price": 0e-100000000}',
        '{"price": 1e131072}',
        '{"price": 1e9999999999999999999}',
        '{"price": "1e100000000"}',
        '{"price": %s}' % ("9" * 132_000),
        '{"id": %s}' % ("9" * 5_000),
    ],
)
def test_a_number_that_is_short_only_as_it_is_spelled_is_refused_before_it_is_written_out(
    desk: World, wrong: str
) -> None:
    """Written out it would be a hundred megabytes, and a larger exponent is one that nobody counts to."""
    meet(desk)
    (number,) = numbers(desk)
    tracemalloc.start()
    try:
        with pytest.raises(UsageError, match=r"take|can't be written here"):
            Settling(desk.node, "anna").resolve(number, read_take(wrong))
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()
    assert (sent(desk), numbers(desk)) == ([], [number])


@pytest.mark.parametrize(
    "spelled",
    [
        "1e131071",
        "-9.5e131071",
        "1e-16383",
        "0e5",
        "0.50",
        "7",
        "-12345678901234567890123",
        "7" * 131_072,
        "1" * 4_000 + ".5",
    ],
)
def test_a_number_that_postgresql_can_hold_is_taken_with_all_its_digits(spelled: str) -> None:
    (row,) = read_take(f'{{"price": {spelled}}}')
    assert isinstance(row, dict)
    written = in_wire_form(row, {"price": "decimal"})["price"]
    assert ("e" in written.lower(), Decimal(written)) == (False, Decimal(spelled))


@pytest.mark.parametrize("spelled", ["9.5e131071", "7" * 131_072, "1e-16383"])
def test_the_longest_numbers_of_postgresql_are_chosen(pg_world: World, spelled: str) -> None:
    meet(pg_world)
    _alter(pg_world, "ALTER TABLE item ALTER COLUMN price TYPE numeric")
    (number,) = numbers(pg_world)
    Settling(pg_world.node, "anna").resolve(number, read_take(f'{{"price": {spelled}}}'))
    assert Decimal(sent(pg_world)[0]["after"]["price"]) == Decimal(spelled)


def test_a_whole_number_too_large_for_a_float_is_refused() -> None:
    (row,) = read_take('{"x": %s}' % ("9" * 400))
    assert isinstance(row, dict)
    with pytest.raises(UsageError, match="'x' is a number"):
        in_wire_form(row, {"x": "float"})


def test_a_decision_that_another_node_flipped_is_flipped_back(world: World) -> None:
    meet(world)
    (number,) = numbers(world, "settled")
    flip = Write("U", "item", {"id": 1, "name": "of a", "price": "1.50"}, 40, Version(0, 20, "b"))
    world.receive(_choice(Origin("c"), flip, [[0, 10, "a"], [0, 20, "b"]]))
    assert names(world) == ["of a"]
    assert conflicts(world) == [("settled", "ours")]
    assert world.query("SELECT settled_by FROM rf_conflict") == [("c",)]
    assert Settling(world.node, "anna").undo(number, None, force=False).winner is Winner.THEIRS
    assert names(world) == ["of b"]
    assert conflicts(world) == [("settled", "theirs")]


def test_a_choice_that_takes_a_parent_from_its_child_says_so(world: World) -> None:
    a = Origin("a")
    gone = Write("D", "parent", {"id": 1, "name": "p"}, 20, Version(0, 10, "a"))
    world.receive(a.tx(Write("I", "parent", {"id": 1, "name": "p"}, 10)).body)
    world.receive(Origin("b").tx(Write("U", "parent", {"id": 1, "name": "b"}, 30, Version(0, 10, "a"))).body)
    world.receive(a.tx(gone).body, a.tx(Write("I", "child", {"id": 5, "parent_id": 1}, 40)).body)
    (number,) = numbers(world, "settled")
    with pytest.raises(PoisonError, match=r"parent .*can't be written here.*nothing was changed.*child"):
        Settling(world.node, "anna").undo(number, None, force=False)
    assert world.rows("child") == [(5, 1)]
    assert sent(world) == []


def our_version(world: World, number: int) -> Version:
    return read_version(world.one(f"SELECT our_version FROM rf_conflict WHERE id = {number}"))


@pytest.mark.parametrize("take", ["ours", "theirs", '{"name": "given"}', "null"])
@pytest.mark.parametrize("sealed", [True, False])
def test_a_choice_that_says_what_it_saw_is_not_made_over_what_was_written_since(
    desk: World, take: str, sealed: bool
) -> None:
    """It is refused with what has changed; the conflict shows the row as it is, and that can be chosen on."""
    meet(desk)
    (number,) = numbers(desk)
    seen = our_version(desk, number)
    desk.execute("UPDATE item SET name = 'later' WHERE id = 1")
    if sealed:
        desk.node.database.sealer(desk.node.facts).seal()
    settling = Settling(desk.node, "anna")
    changed = r'item {"id":1} was written again by here since conflict 1 was shown \(name: "of a", now "later"\)'
    with pytest.raises(UnseenError, match=changed):
        settling.resolve(number, read_take(take), seen=seen)
    assert (names(desk), numbers(desk), len(sent(desk))) == (["later"], [number], 1)
    assert json.loads(desk.one("SELECT our_image FROM rf_conflict"))["name"] == "later"
    settling.resolve(number, read_take(take), seen=our_version(desk, number))
    assert names(desk) == {"ours": ["later"], "theirs": ["of b"], "null": []}.get(take, ["given"])


def row_version(world: World, number: int) -> Version:
    with reading(world.node.database) as connection:
        shown = read(connection, number)
    assert shown is not None
    return Version(*shown["row_version"])


@pytest.mark.parametrize("force", [False, True])
def test_undoing_says_what_it_saw_and_is_not_done_over_another_nodes_choice(world: World, force: bool) -> None:
    """That one settles the same two writes, so nothing else tells it from what was shown."""
    meet(world)
    (number,) = numbers(world, "settled")
    seen = row_version(world, number)
    assert seen == Version(0, 20, "b")
    later = Write("U", "item", {"id": 1, "name": "of c", "price": "1.50"}, 40, Version(0, 20, "b"))
    world.receive(_choice(Origin("c"), later, [[0, 10, "a"], [0, 20, "b"]]))
    settling = Settling(world.node, "anna")
    changed = r'item {"id":1} was written again by c since conflict 1 was shown \(name: "of a", now "of c"\)'
    with pytest.raises(UnseenError, match=changed):
        settling.undo(number, Winner.OURS, force=force, seen=seen)
    assert (names(world), sent(world)) == (["of c"], [])
    settling.undo(number, Winner.OURS, force=force, seen=row_version(world, number))
    assert names(world) == ["of a"]
    with pytest.raises(UsageError, match="already wins"):
        settling.undo(number, Winner.OURS, force=force, seen=seen)
    world.execute("UPDATE item SET name = 'later' WHERE id = 1")
    with pytest.raises(UnseenError, match='now "later"'):
        settling.undo(number, None, force=True, seen=row_version(world, number))


def test_what_was_deleted_since_it_was_seen_is_told_too(desk: World) -> None:
    meet(desk)
    (number,) = numbers(desk)
    seen = our_version(desk, number)
    desk.execute("DELETE FROM item WHERE id = 1")
    with pytest.raises(UnseenError, match="it is deleted"):
        Settling(desk.node, "anna").resolve(number, Winner.THEIRS, seen=seen)
    Settling(desk.node, "anna").resolve(number, Winner.THEIRS, seen=our_version(desk, number))
    assert names(desk) == ["of b"]


def test_the_row_that_has_the_value_of_another_is_not_put_aside_unseen(tmp_path: Path) -> None:
    """Of a clash it is the row that stands that somebody may have written since."""
    world = open_world(sqlite_url(tmp_path, "codes.db"), tables={"policy": {"code": "manual"}})
    try:
        world.receive(Origin("a").tx(Write("I", "code", {"id": 1, "code": "x"}, 10)).body)
        world.receive(Origin("b").tx(Write("I", "code", {"id": 2, "code": "x"}, 20)).body)
        (number,) = numbers(world)
        seen = our_version(world, number)
        # One who knew of a's row: its key is the same, its value too.
        world.receive(Origin("c").tx(Write("U", "code", {"id": 1, "code": "x"}, 30, Version(0, 10, "a"))).body)
        assert numbers(world) == [number]
        with pytest.raises(UnseenError, match="its values are the same"):
            Settling(world.node, "anna").resolve(number, Winner.THEIRS, seen=seen)
        Settling(world.node, "anna").resolve(number, Winner.THEIRS, seen=our_version(world, number))
        assert world.rows("code") == [(2, "x")]
    finally:
        close_world(world)


def test_who_waited_for_the_row_sees_that_it_is_settled(pg_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both look at the conflict while it waits; one is through, its choice sealed, before the other has the row's lock.

    On SQLite nobody looks before he has the only lock there is."""
    pg_world.receive(Origin("a").put(1, "of a", 10).body)
    pg_world.receive(Origin("b").put(1, "of b", 20).body)
    (number,) = numbers(pg_world)
    lock, quicker = PostgresApplySession.lock, list[Winner]([Winner.THEIRS])

    def lock_behind_another(session: PostgresApplySession, *arguments: Any) -> Any:
        if quicker:
            with ThreadPoolExecutor(1) as other:
                other.submit(Settling(pg_world.node, "anna").resolve, number, quicker.pop()).result()
        return lock(session, *arguments)

    monkeypatch.setattr(PostgresApplySession, "lock", lock_behind_another)
    with pytest.raises(UsageError, match=rf"conflict {number} is settled \(theirs\)"):
        Settling(pg_world.node, "bob").resolve(number, Winner.OURS)
    assert names(pg_world) == ["of b"]
    assert len(sent(pg_world)) == 1


def test_two_people_settle_one_conflict_at_the_same_moment(desk: World) -> None:
    """One of them is told that it is settled; there is one choice, and it is the row."""
    for turn in range(8):
        key = 10 + turn
        desk.receive(Origin(f"a{turn}").put(key, "of a", 10).body)
        desk.receive(Origin(f"b{turn}").put(key, "of b", 20).body)
        (number,) = numbers(desk)
        barrier = threading.Barrier(2)

        def choose(take: Winner, number: int = number, barrier: threading.Barrier = barrier) -> str:
            barrier.wait()
            try:
                return Settling(desk.node, take.value).resolve(number, take).winner.value
            except UsageError as error:
                return str(error)

        with ThreadPoolExecutor(2) as pool:
            told = list(pool.map(choose, (Winner.OURS, Winner.THEIRS)))
        (winner,) = [one for one in told if one in ("ours", "theirs")]
        assert any(f"conflict {number} is settled" in one for one in told), told
        assert desk.query(f"SELECT state, winner, settled_by FROM rf_conflict WHERE id = {number}") == [
            ("settled", winner, winner)
        ]
        assert {row[0]: row[1] for row in desk.rows()}[key] == {"ours": "of a", "theirs": "of b"}[winner]
    assert len(sent(desk)) == 8
