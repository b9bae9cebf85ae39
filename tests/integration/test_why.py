"""`rowferry why`: the whole story of a row, from everything that a node keeps."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from common.ops.row_history import RowStory, tell
from common.ops.row_words import document, more
from common.ops.sending import NOBODY
from common.ops.stalls import Seen, write_seen
from common.versions import Version
from consumer.conflict.record import Winner
from consumer.part import ConsumerPart
from consumer.settling import Settling
from producer.part import ProducerPart
from tests.support.applying import DATABASES, Origin, World, Write, world_on
from tests.support.nodes import CliNode, sqlite_database, sync

POLICY = {"parent": "append-only", "code": "manual"}


@pytest.fixture(params=DATABASES)
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    exchange = {"path": str(tmp_path / "exchange")}
    with world_on(request, tmp_path, tables={"policy": POLICY}, directory=exchange) as made:
        yield made


def story(world: World, pk: str, table: str = "item") -> RowStory:
    node = world.node
    tellers = [partial(part.row_events, node) for part in (ProducerPart(), ConsumerPart())]
    return tell(node.database, node.facts, node.captured_tables()[table], pk, tellers)


def events(found: RowStory) -> list[tuple[Any, ...]]:
    return [(one.event, one.node, one.lsn, one.op) for one in found.events]


def seal(world: World) -> None:
    while world.node.database.sealer(world.node.facts).seal().more:
        pass


def test_an_own_change_on_its_way(world: World) -> None:
    world.execute("INSERT INTO item VALUES (1, 'own', 2)")
    found = story(world, "1")
    assert {one[:2] for one in events(found)} == {("captured", "here")}
    assert found.summary[1] == f"a captured insert waits to be sealed: {NOBODY}"

    seal(world)
    found = story(world, "1")
    assert events(found) == [
        ("captured", "here", 1, "I"),
        ("sealed", "here", 1, "I"),
        ("waits", "here", 1, "I"),
    ]
    assert found.summary[0].startswith('item {"id":1} is as it was written by this node at ')
    # A watchdog of a `run` has just looked, and then not any more.
    with world.node.database.engine.begin() as connection:
        write_seen(connection, "sealer", Seen(0, "", None, None, world.clock.us))
    world.clock.pass_seconds(7)
    assert (
        story(world, "1")
        .summary[1]
        .endswith("yet: the running node does it by itself (`rowferry run` was seen here 7 s ago)")
    )
    world.clock.pass_seconds(84)
    assert story(world, "1").summary[1].endswith(f"yet: {NOBODY}")
    assert found.summary[1:] == [f"a change of it was not sent to the shared folder yet: {NOBODY}"]

    cursor = f"'directory', '{world.node.facts.incarnation}', 1, 5"
    world.execute(f"INSERT INTO rf_cursor (sink, incarnation, lsn, updated_us) VALUES ({cursor})")
    found = story(world, "1")
    assert ("published", "here", 1, "I") in events(found)
    assert len(found.summary) == 1


def test_the_first_sentence_knows_of_writes_that_are_not_sealed_yet(world: World) -> None:
    def says(pk: str) -> str:
        return story(world, pk).summary[0]

    world.receive(Origin("a").put(2, "one", 10).body)
    world.execute("INSERT INTO item VALUES (1, 'own', 2)", "UPDATE item SET name = 'mine' WHERE id = 2")
    for pk in ("1", "2"):
        assert says(pk).startswith(f'item {{"id":{pk}}} is as it was written by this node at 20')
        assert says(pk).endswith(", which is not sealed yet")
    world.execute("DELETE FROM item")
    for pk in ("1", "2"):
        assert says(pk).startswith(f'item {{"id":{pk}}} was deleted by this node at 20')
        assert says(pk).endswith(", which is not sealed yet")
    seal(world)
    assert says("2").startswith('item {"id":2} was deleted by this node at 20')
    assert "sealed" not in says("2")


def test_writes_that_met_and_which_rule_decided(world: World) -> None:
    a, b = Origin("a"), Origin("b")
    world.receive(a.put(1, "one", 10).body)
    assert events(story(world, "1")) == [("applied", "a", None, None)]
    world.receive(b.put(1, "uno", 20).body)

    found = story(world, "1")
    (lost,) = [one for one in found.events if one.event == "lost"]
    assert (lost.node, lost.detail["to"], lost.detail["rule"]) == ("a", "b", "lww")
    assert events(found) == [("applied", "b", 1, None), ("lost", "a", None, None)]
    assert "written by b at 1970" in found.summary[0]

    world.clock.pass_seconds(1)
    world.receive(Origin("c").put(1, "eins", 15).body)
    assert events(story(world, "1"))[2:] == [("received", "c", 1, None), ("lost", "c", 1, None)]


def test_a_write_that_waits_for_a_choice_and_what_came_of_it(world: World) -> None:
    world.receive(Origin("a").tx(Write("I", "code", {"id": 1, "code": "x"}, 10)).body)
    world.receive(Origin("b").tx(Write("I", "code", {"id": 1, "code": "y"}, 20)).body)
    found = story(world, "1", "code")
    assert [one.event for one in found.events][-2:] == ["received", "waits"]
    number = found.events[-1].detail["conflict"]
    assert found.summary[1] == f"conflict {number} waits for a choice: rowferry conflicts show {number}"

    Settling(world.node, "me").resolve(number, Winner.THEIRS)
    seal(world)
    found = story(world, "1", "code")
    assert {"waits", "chosen", "resolved", "sealed"} <= {one.event for one in found.events}
    (resolved,) = [one for one in found.events if one.event == "resolved"]
    assert (resolved.detail["by"], resolved.detail["stands"]) == ("me", "theirs")


def test_a_dead_letter_its_cause_and_its_end(world: World) -> None:
    a = Origin("a")
    gone = {"id": 1, "name": "p"}
    world.receive(
        a.tx(Write("I", "parent", gone, 10)).body,
        a.tx(Write("I", "item", {"id": 5, "name": "x", "price": "1"}, 11), Write("D", "parent", gone, 20)).body,
    )
    found = story(world, "1", "parent")
    assert [one[:1] + one[2:] for one in events(found) if one[0] != "applied"] == [
        ("received", 3, "D"),
        ("dead-letter", 3, "D"),
    ]
    (letter,) = [one for one in found.events if one.event == "dead-letter"]
    assert letter.detail["reason"] == "policy"
    # A person is told which way it came, a program where from.
    world.execute("UPDATE rf_dead_letter SET origin = 'http:shop-1'")
    found = story(world, "1", "parent")
    (received,) = [one for one in found.events if one.event == "received"]
    assert (received.detail["origin"], more(received)) == (
        "http:shop-1",
        "came over HTTP from shop-1, which handed it on",
    )
    assert f"rowferry dlq show {letter.tx_id}" in found.summary[1]
    # The other row of the same tx has not come for that reason too.
    assert [one.event for one in story(world, "5").events] == ["received", "dead-letter"]
    assert story(world, "5").summary[0] == 'item {"id":5} is not here and never was'
    assert not story(world, "6").known

    world.execute("UPDATE rf_dead_letter SET state = 'discarded', settled_us = 1900000000000000, settled_by = 'me'")
    found = story(world, "1", "parent")
    assert events(found)[-1] == ("discarded", "a", 3, "D")
    assert len(found.summary) == 1


@pytest.fixture(params=DATABASES)
def later_wins(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    with world_on(request, tmp_path) as made:
        yield made


def test_a_row_that_stepped_back(later_wins: World) -> None:
    world = later_wins
    world.receive(Origin("a").tx(Write("I", "code", {"id": 1, "code": "x"}, 10)).body)
    world.receive(Origin("b").tx(Write("I", "code", {"id": 2, "code": "x"}, 20)).body)
    found = story(world, "1", "code")
    assert found.summary[0].startswith('code {"id":1} was written by a at ')
    assert found.summary[0].endswith("and has stepped back")
    assert any("it has stepped back, because another row has one of its unique values" in one for one in found.summary)
    assert "stepped-back" not in {one.event for one in story(world, "2", "code").events}


def test_a_letter_in_parts_and_one_that_can_not_be_read(world: World) -> None:
    a = Origin("a")
    rows = [Write("I", "item", {"id": n, "name": "x" * 500, "price": "1"}, 100 + n) for n in range(20)]
    gone = Write("U", "parent", {"id": 9, "name": "p"}, 300, Version(0, 10, "a"))
    world.receive(*a.tx(*rows, gone).parts(4096))
    world.receive(b"no batch at all\n")
    assert [one.event for one in story(world, "7").events] == ["received", "dead-letter"]


def test_a_row_that_was_deleted(world: World) -> None:
    a = Origin("a")
    world.receive(a.put(1, "one", 10).body, a.put(1, "one", 20, Version(0, 10, "a"), "D").body)
    found = story(world, "1")
    assert found.summary[0].startswith('item {"id":1} was deleted by a at ')
    assert document(found)["deleted"] is True
    assert found.known


@pytest.fixture
def pair(tmp_path: Path) -> tuple[CliNode, CliNode]:
    schema = [
        "CREATE TABLE sale (id TEXT PRIMARY KEY, v TEXT)",
        'CREATE TABLE "order line" (sale TEXT, place INTEGER, v TEXT, PRIMARY KEY (sale, place))',
    ]
    made = []
    for name in ("a", "b"):
        url = sqlite_database(tmp_path, f"{name}.db", schema)
        node = CliNode.init(name, tmp_path / name, url, "--directory", str(tmp_path / "exchange"))
        node.ok("migrate")
        made.append(node)
    return made[0], made[1]


def test_the_command_on_two_nodes(pair: tuple[CliNode, CliNode]) -> None:
    a, b = pair
    a.execute("INSERT INTO sale VALUES ('007', 'a')", """INSERT INTO "order line" VALUES ('007', 1, 'x')""")
    sync(a, b)
    told = a.ok("why", "sale", "007")
    assert told.startswith('sale {"id":"007"} is as it was written by this node at ')
    assert all(word in told for word in ("captured", "sealed", "published", "directory", "LSN"))
    found = b.report("why", "order line", '{"place": 1, "sale": "007"}')
    assert (found["known"], found["row"]["v"], found["version"][2]) == (True, "x", "a")
    assert [one["event"] for one in found["events"]] == ["applied"]

    # when both write the row apart
    b.execute("UPDATE sale SET v = 'b'")
    a.execute("UPDATE sale SET v = 'c'")
    sync(a, b, a, b)
    stories = [node.report("why", "sale", "007") for node in pair]
    assert stories[0]["version"] == stories[1]["version"]
    lost = [[one for one in found["events"] if one["event"] == "lost"] for found in stories]
    assert all(len(found) == 1 and found[0]["detail"]["rule"] == "lww" for found in lost)
    assert lost[0][0]["version"] == lost[1][0]["version"]


def test_a_run_that_sends_is_told_from_one_that_does_not(pair: tuple[CliNode, CliNode]) -> None:
    a, _ = pair
    a.execute("INSERT INTO sale VALUES ('008', 'a')")
    a.ok("run", "--once", "--only", "consumer")
    assert "waits to be sealed: no `rowferry run` is active here" in a.ok("why", "sale", "008")
    a.ok("run", "--once")
    a.execute("UPDATE sale SET v = 'b' WHERE id = '008'")
    told = a.ok("why", "sale", "008")
    assert "waits to be sealed: the running node does it by itself (`rowferry run` was seen here " in told


def test_who_asks_wrongly_is_told(pair: tuple[CliNode, CliNode]) -> None:
    a, _ = pair
    unknown = a.call("why", "sale", "nothing")
    assert (unknown.returncode, unknown.stdout.startswith('Nothing is known of sale {"id":"nothing"} on a: ')) == (
        1,
        True,
    )
    assert a.report("why", "sale", "nothing", code=1)["events"] == []
    for arguments, says in (
        (("sales", "1"), "no table with that name"),
        (("order line", "1"), "is a JSON object like"),
        (("order line", '{"sale": "x"}'), "is a JSON object like"),
        (("order line", '{"sale": "x", "place": "y"}'), "no key of order line"),
    ):
        done = a.call("why", *arguments)
        assert (done.returncode, says in done.stderr) == (2, True), done.stderr


def test_a_choice_between_two_rows_has_not_made_one_of_the_other(world: World) -> None:
    world.receive(Origin("a").tx(Write("I", "code", {"id": 1, "code": "X"}, 10)).body)
    world.receive(Origin("b").tx(Write("I", "code", {"id": 2, "code": "X"}, 20)).body)
    number = world.one("SELECT id FROM rf_conflict WHERE kind = 'unique'")
    Settling(world.node, "anna").resolve(number, Winner.THEIRS)
    seal(world)
    (chosen,) = [one for one in story(world, "2", "code").events if one.event == "chosen"]
    assert (chosen.detail["by"], chosen.detail["stands"]) == ("anna", "theirs")
    assert "changed" not in chosen.detail
