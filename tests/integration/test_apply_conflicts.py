"""Which image stands where two were written, what is kept of the other, and what is no conflict at all."""

from __future__ import annotations

import json
from itertools import permutations
from pathlib import Path

import pytest

from common.versions import NEVER, Version
from common.wire.records import TableMeta
from tests.support.applying import (
    SCHEMA,
    Origin,
    World,
    Write,
    close_world,
    open_world,
    sqlite_url,
)


def test_a_conflict_is_recorded_with_both_images(world: World) -> None:
    a, b = Origin("a"), Origin("b")
    world.receive(a.put(1, "one", 10).body)
    world.receive(b.put(1, "uno", 20).body)
    assert [row[1] for row in world.rows()] == ["uno"]
    (conflict,) = world.query(
        "SELECT table_name, pk, kind, state, winner, rule, our_image, their_image FROM rf_conflict"
    )
    assert conflict[:6] == ("item", '{"id":1}', "insert", "settled", "theirs", "lww")
    assert '"one"' in conflict[6]
    assert '"uno"' in conflict[7]
    world.receive(a.put(1, "late one", 15, Version(0, 10, "a"), "U").body)
    assert [row[1] for row in world.rows()] == ["uno"]
    assert world.query("SELECT winner FROM rf_conflict ORDER BY id") == [("theirs",), ("ours",)]


def test_what_comes_late_is_no_conflict(world: World) -> None:
    a, b = Origin("a"), Origin("b")
    first = a.put(1, "one", 10)
    second = b.put(1, "uno", 20, Version(0, 10, "a"), "U")
    world.receive(second.body, first.body)
    assert [row[1] for row in world.rows()] == ["uno"]
    assert world.one("SELECT count(*) FROM rf_conflict") == 0


SPELLINGS = {"small": "1.5", "tall": "1.50", "very tall": "01.5"}
"""One amount, as three senders write it; this database stores it in one way."""


@pytest.mark.parametrize("together", [False, True])
def test_two_images_under_one_version_end_the_same_in_every_order(world: World, together: bool) -> None:
    """A node that was rewound sends one version several times; how it spells a value decides nothing."""
    world.execute("CREATE TABLE bill (amount NUMERIC(12, 2), id INTEGER PRIMARY KEY, name TEXT)")
    world.node.database.capture().install(list(world.node.captured_tables().values()))
    meta = TableMeta(pk=("id",), columns={"amount": "decimal", "id": "int", "name": "text"})
    for number, order in enumerate(permutations(SPELLINGS)):
        bodies = []
        for made, name in enumerate(order):
            origin = Origin(f"a{number}", incarnation=f"inc{made}", made=made, tables={"bill": meta})
            row = {"amount": SPELLINGS[name], "id": number, "name": name}
            bodies.append(origin.tx(Write("I", "bill", row, 10)).body)
        world.receive(*([b"".join(bodies)] if together else bodies))
    assert world.letters() == []
    assert {name for (name,) in world.query("SELECT name FROM bill")} == {"very tall"}
    assert {kind for (kind,) in world.query("SELECT kind FROM rf_conflict")} == {"identity"}


def test_one_image_in_two_spellings_is_no_conflict(world: World) -> None:
    for incarnation, price in enumerate(("1.5", "1.50", "01.5")):
        origin = Origin("a", incarnation=f"inc{incarnation}", made=incarnation)
        world.receive(origin.tx(Write("I", "item", {"id": 1, "name": "x", "price": price}, 10)).body)
    assert world.one("SELECT count(*) FROM rf_conflict") == 0
    assert world.one("SELECT count(*) FROM rf_applied_tx") == 3


def test_an_update_that_finds_no_row_is_an_event_and_writes_the_row(world: World) -> None:
    a = Origin("a")
    world.receive(a.put(1, "one", 20, Version(0, 10, "a"), "U").body)
    assert [row[1] for row in world.rows()] == ["one"]
    (detail,) = world.query("SELECT detail FROM rf_audit")
    (missing,) = json.loads(detail[0])["missing_rows"]
    assert missing == {"table": "item", "pk": '{"id":1}', "op": "U", "cause": "never-arrived"}


def test_a_delete_leaves_a_tombstone_that_an_older_write_does_not_pass(world: World) -> None:
    a, b = Origin("a"), Origin("b")
    world.receive(a.put(1, "one", 10).body, a.put(1, "one", 30, Version(0, 10, "a"), "D").body)
    assert world.rows() == []
    world.receive(b.put(1, "older", 20).body)
    assert world.rows() == []
    world.receive(b.put(1, "newer", 40, Version(0, 30, "a")).body)
    assert [row[1] for row in world.rows()] == ["newer"]


def test_own_unsealed_writes_are_sealed_before_a_batch_claims_their_rows(world: World) -> None:
    a = Origin("a")
    world.receive(a.put(1, "one", 10).body)
    world.execute("UPDATE item SET name = 'mine' WHERE id = 1")
    world.receive(a.put(1, "theirs", 20, Version(0, 10, "a"), "U").body)
    # The own write was made now, long after 1970: it beats theirs, and that is a conflict on record.
    assert [row[1] for row in world.rows()] == ["mine"]
    assert world.query("SELECT winner FROM rf_conflict") == [("ours",)]


def test_rows_older_than_migrate_are_no_conflict(tmp_path: Path) -> None:
    url = sqlite_url(tmp_path, "older.db")
    made = open_world(url, schema=(*SCHEMA, "INSERT INTO item VALUES (1, 'old', 1)"))
    made.receive(Origin("a").put(1, "one", 10, NEVER, "U").body)
    assert [row[1] for row in made.rows()] == ["one"]
    assert made.one("SELECT count(*) FROM rf_conflict") == 0
    assert "missing" not in str(made.query("SELECT detail FROM rf_audit"))
    close_world(made)


MAIN_ROW = {"id": 1, "name": "main's", "price": "1.50"}
LATER_ROW = {"id": 1, "name": "later", "price": "1.50"}


def test_main_wins_against_a_later_write_in_every_order(tmp_path: Path) -> None:
    for number, order in enumerate(permutations(range(3))):
        url = sqlite_url(tmp_path, f"{number}.db")
        world = open_world(
            url, node={"id": "here", "database": url, "main": "hq"}, tables={"policy": {"item": "main-wins"}}
        )
        hq, shop = Origin("hq"), Origin("shop")
        bodies = [
            hq.tx(Write("I", "item", MAIN_ROW, 10, epoch=1)).body,
            shop.tx(Write("I", "item", LATER_ROW, 99)).body,
            hq.tx(Write("U", "item", {**MAIN_ROW, "price": "2.00"}, 20, Version(1, 10, "hq"), epoch=2)).body,
        ]
        world.receive(*(bodies[place] for place in order))
        assert [row[1] for row in world.rows()] == ["main's"]
        assert set(world.query("SELECT rule, state FROM rf_conflict")) == {("main-wins", "settled")}
        # Who has seen what main wrote writes on top of it.
        seen = shop.tx(Write("U", "item", LATER_ROW, 100, Version(2, 20, "hq"), epoch=2))
        world.receive(seen.body)
        assert [row[1] for row in world.rows()] == ["later"]
        close_world(world)


def test_a_second_node_that_writes_as_main_is_refused(world: World) -> None:
    hq, other = Origin("hq"), Origin("other")
    first = hq.tx(Write("I", "item", MAIN_ROW, 10, epoch=1))
    second = other.tx(Write("U", "item", LATER_ROW, 20, Version(1, 10, "hq"), epoch=2))
    # In one message, so in one commit.
    world.receive(first.body + second.body)
    assert world.letters() == [(second.tx_id, "version", "dead")]
    assert [row[1] for row in world.rows()] == ["main's"]
    assert world.query("SELECT node_id FROM rf_node WHERE role = 'main'") == [("hq",)]
    # And for good.
    world.intake()
    third = other.tx(Write("I", "item", {**LATER_ROW, "id": 2}, 30, epoch=1))
    world.receive(third.body)
    assert {reason for _, reason, _ in world.letters()} == {"version"}
    assert world.watermark("other") == 2


def test_the_main_node_itself_takes_nobody_else_for_main(tmp_path: Path) -> None:
    url = sqlite_url(tmp_path)
    world = open_world(url, node={"id": "here", "database": url, "role": "main"})
    tx = Origin("hq").tx(Write("I", "item", MAIN_ROW, 10, epoch=1))
    world.receive(tx.body)
    assert world.letters() == [(tx.tx_id, "version", "dead")]
    close_world(world)
