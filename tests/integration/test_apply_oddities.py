"""Copies of one tx that disagree, chains of waiting rows, and values that change places over a whole large tx."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from common.errors import OutageError
from common.versions import Version
from consumer.apply.group import Applier
from consumer.dead_letters.operations import DeadLetters, Replay
from consumer.dead_letters.table_store import Selection
from tests.support.applying import (
    DATABASES,
    SCHEMA,
    Origin,
    Tx,
    World,
    Write,
    close_world,
    item,
    open_world,
    outcomes,
    sqlite_url,
)

HOW = Replay("tester")


def test_a_damaged_copy_and_a_whole_one_in_one_group(world: World) -> None:
    tx = Origin("a").put(1, "one", 10)
    damaged = tx.body.replace(b"one", b"two")
    world.receive(damaged + tx.body + damaged)
    assert [row[1] for row in world.rows()] == ["one"]
    assert world.letters() == [(tx.tx_id, "checksum", "replayed")]
    assert world.one("SELECT count(*) FROM rf_applied_tx") == 1


def test_two_contents_of_one_tx_in_one_group(world: World) -> None:
    first = Origin("a").tx(Write("I", "nowhere", {"id": 1, "name": "x", "price": "1"}, 10))
    other = Origin("a").put(1, "one", 10)
    assert first.tx_id == other.tx_id
    world.receive(first.body + other.body)
    assert world.rows() == []
    assert sorted((reason, state) for _, reason, state in world.letters()) == [
        ("content", "dead"),
        ("unknown-table", "dead"),
    ]


def test_an_altered_copy_leaves_no_note_of_an_attempt(world: World) -> None:
    a = Origin("a")
    bad = a.tx(Write("I", "nowhere", {"id": 1, "name": "x", "price": "1"}, 10))
    other = Origin("a").put(1, "one", 10)
    world.receive(bad.body)
    for _ in range(5):
        world.receive(other.body, redelivered=True)
    assert world.query("SELECT * FROM rf_attempt WHERE source_node <> ''") == []
    assert sorted(reason for _, reason, _ in world.letters()) == ["content", "unknown-table"]


def chain(world: World) -> list[bytes]:
    """A row of each of three tables, the last first, each pointing to the next."""
    for name, parent in (("second", "parent"), ("third", "second")):
        world.execute(
            f"CREATE TABLE {name} (id INTEGER PRIMARY KEY, parent_id INTEGER NOT NULL REFERENCES {parent} (id))"
        )
    world.node.database.capture().install(list(world.node.captured_tables().values()))
    a = Origin("a")
    a.tables |= dict.fromkeys(("second", "third"), a.tables["child"])
    return [
        a.tx(Write("I", "third", {"id": 3, "parent_id": 2}, 10)).body,
        a.tx(Write("I", "second", {"id": 2, "parent_id": 1}, 11)).body,
        a.tx(Write("I", "parent", {"id": 1, "name": "p"}, 12)).body,
    ]


def test_a_chain_of_waiting_txs_goes_through_with_the_first_parent(world: World) -> None:
    for body in chain(world):
        world.receive(body)
    assert world.rows("third") == [(3, 2)]
    assert {state for _, _, state in world.letters()} == {"replayed"}
    assert world.intakes[-1].set_aside == 0


def test_a_chain_whose_parent_the_application_writes(world: World) -> None:
    for body in chain(world)[:2]:
        world.receive(body)
    world.execute("INSERT INTO parent VALUES (1, 'own')")
    world.clock.pass_seconds(5)
    world.intakes[-1].step(0)
    assert world.rows("third") == [(3, 2)]


def test_a_replay_applies_what_waited_for_its_rows(world: World) -> None:
    third, second, _ = chain(world)
    b = Origin("b")
    world.block_codes()
    dead = b.tx(Write("I", "parent", {"id": 1, "name": "p"}, 12), Write("I", "code", {"id": 9, "code": "taken"}, 13))
    world.receive(third, second, dead.body)
    world.free_codes()
    results = DeadLetters(world.node).replay(Selection(), HOW, lambda _: None)
    assert set(outcomes(results)) == {"applied"}
    assert world.rows("third") == [(3, 2)]
    assert {state for _, _, state in world.letters()} == {"replayed"}


@pytest.mark.parametrize("kind", DATABASES)
def test_a_delete_waits_for_children_in_a_table_that_takes_no_part(
    request: pytest.FixtureRequest, tmp_path: Path, kind: Any
) -> None:
    """Nobody but this database's owner may take them away."""
    url = sqlite_url(tmp_path) if kind == "sqlite" else request.getfixturevalue("pg_database")
    made = open_world(url, tables={"exclude": ["child"]})
    parent = Write("I", "parent", {"id": 7, "name": "p"}, 10)
    made.receive(Origin("a").tx(parent).body)
    made.execute("INSERT INTO child VALUES (1, 7)")
    gone = Origin("b").tx(replace(parent, op="D", hlc=20, base=Version(0, 10, "a")))
    made.receive(gone.body)
    assert made.letters() == [(gone.tx_id, "foreign-key", "early")]
    assert made.query("SELECT table_name FROM rf_dead_letter") == [("child",)]
    assert "would be gone" in made.one("SELECT error FROM rf_dead_letter")
    made.execute("DELETE FROM child")
    DeadLetters(made.node).replay(Selection(), HOW, lambda _: None)
    assert (made.rows("parent"), made.letters()) == ([], [(gone.tx_id, "foreign-key", "replayed")])
    close_world(made)


@pytest.mark.parametrize("replace_pairs", [False, True])
def test_unique_values_change_places_over_a_whole_large_tx(world: World, replace_pairs: bool) -> None:
    count = 12_000
    world.execute(f"INSERT INTO code SELECT n, 'c' || n FROM {series(world, count)}")
    while world.node.database.sealer(world.node.facts).seal().more:
        pass
    (hlc,) = {row[0] for row in world.query("SELECT max(hlc) FROM rf_row_version")}
    base = Version(0, hlc, "here")
    next_of = [count + 1 - n if replace_pairs else n % count + 1 for n in range(count + 1)]
    writes = [Write("U", "code", {"id": n, "code": f"c{next_of[n]}"}, hlc + n, base) for n in range(1, count + 1)]
    tx = Origin("a").tx(*writes)
    world.receive(*tx.parts(256 * 1024))
    assert world.letters() == []
    assert world.rows("code") == [(n, f"c{next_of[n]}") for n in range(1, count + 1)]


def series(world: World, count: int) -> str:
    if world.node.database.engine.dialect.name == "sqlite":
        return f"(WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < {count}) SELECT n FROM s)"
    return f"generate_series(1, {count}) AS s(n)"


def test_a_tx_that_begins_below_the_watermark_and_ends_above_is_of_a_rewound_node(world: World) -> None:
    a, rewound = Origin("a"), Origin("a", lsn=1, made=50)
    world.receive(*(a.put(number, "x", number).body for number in range(1, 4)))
    forked = rewound.tx(*(item(number, "other", 90 + number) for number in range(1, 6)))
    world.receive(forked.body)
    assert world.letters() == [(forked.tx_id, "forked", "forked")]
    assert world.watermark("a") == 3


def rewound_batches() -> tuple[list[Tx], Tx]:
    """Five txs of a node, and one that it made anew under the LSN of the fourth after it was put back."""
    a = Origin("a")
    return [a.put(number, "x", number) for number in range(1, 6)], Origin("a", lsn=3, made=50).put(9, "anew", 99)


def test_a_rewound_node_is_noticed_within_one_message(world: World) -> None:
    txs, forked = rewound_batches()
    world.receive(b"".join(tx.body for tx in (*txs, forked)))
    assert world.letters() == [(forked.tx_id, "forked", "forked")]
    assert [row[0] for row in world.rows()] == [1, 2, 3, 4, 5]
    assert world.watermark("a") == 5


def test_a_rewound_node_is_noticed_when_a_gap_closes_in_the_same_message(world: World) -> None:
    txs, forked = rewound_batches()
    world.receive(txs[0].body, *(tx.body for tx in txs[2:]))
    assert world.watermark("a") == 1
    world.receive(txs[1].body + forked.body)
    assert world.letters() == [(forked.tx_id, "forked", "forked")]
    assert world.watermark("a") == 5


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("length", [1, 3])
def test_a_rewound_node_is_noticed_beyond_a_gap(world: World, together: bool, length: int) -> None:
    """What is missing below keeps the watermark low, so the LSNs used twice are above it."""
    txs, _ = rewound_batches()
    forked = Origin("a", lsn=5 - length, made=50).tx(*(item(9 + n, "anew", 99 + n) for n in range(length)))
    came = [txs[0].body, txs[4].body, forked.body]
    world.receive(*([b"".join(came)] if together else came))
    assert world.letters() == [(forked.tx_id, "forked", "forked")]
    assert [row[0] for row in world.rows()] == [1, 5]
    world.receive(*(tx.body for tx in txs))
    assert [row[0] for row in world.rows()] == [1, 2, 3, 4, 5]
    assert world.watermark("a") == 5
    assert world.letters() == [(forked.tx_id, "forked", "forked")]


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("large", [False, True])
def test_a_rewound_node_whose_clock_went_back_too_is_noticed(world: World, together: bool, large: bool) -> None:
    """Its new tx_ids are not above the old ones: a machine put back to a snapshot begins with the time of then."""
    txs, _ = rewound_batches()
    rewound = Origin("a", lsn=2, made=-50)
    forked = [rewound.tx(item(9, "anew" * 400, 99), item(10, "anew" * 400, 100)), rewound.put(11, "last", 101)]
    bodies = [part for tx in forked for part in (tx.parts(2048) if large else [tx.body])]
    if together:
        world.receive(b"".join(tx.body for tx in txs) + b"".join(bodies))
    else:
        world.receive(*(tx.body for tx in txs))
        world.receive(*bodies)
    assert world.letters() == [(tx.tx_id, "forked", "forked") for tx in forked]
    world.receive(*bodies, *(tx.body for tx in txs))
    assert len(world.letters()) == 2
    assert [row[0] for row in world.rows()] == [1, 2, 3, 4, 5]
    assert world.watermark("a") == 5


def test_what_is_forgotten_is_a_duplicate_beside_what_is_not(world: World) -> None:
    txs, _ = rewound_batches()
    world.receive(*(tx.body for tx in txs))
    world.execute(f"DELETE FROM rf_applied_tx WHERE tx_id = '{txs[2].tx_id}'")
    world.receive(txs[2].body)
    assert world.letters() == []
    assert len(world.rows()) == 5


def test_another_content_does_not_move_the_watermark(world: World) -> None:
    a, liar = Origin("a"), Origin("a", lsn=1)
    first = a.put(1, "one", 10)
    liar_tx = liar.tx(*(item(number, "no", 10 + number) for number in range(1, 6)))
    assert first.tx_id == liar_tx.tx_id
    world.receive(first.body)
    world.receive(liar_tx.body)
    second = a.put(2, "two", 20)
    world.receive(second.body)
    assert [row[1] for row in world.rows()] == ["one", "two"]
    assert world.watermark("a") == 2


def test_a_stop_during_an_outage_is_no_attempt(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    tx = Origin("a").put(1, "one", 10)

    def away(*_: object, **__: object) -> None:
        raise OutageError("the database is away")

    for _ in range(5):
        with monkeypatch.context() as patched:
            patched.setattr(Applier, "apply", away)
            intake = world.intake()
            world.source.put(tx.body, redelivered=True)
            with pytest.raises(OutageError):
                intake.step(0)
            world.source.waiting.clear()
            intake.close()
        assert world.query("SELECT * FROM rf_attempt") == []
    world.receive(tx.body, redelivered=True)
    assert world.letters() == []
    assert [row[1] for row in world.rows()] == ["one"]


def test_what_a_table_says_of_clashes_does_not_count_while_applying(tmp_path: Path) -> None:
    """SQLite would delete the rival, or leave the row out, and nobody would know."""
    own_rules = (
        "CREATE TABLE own_rules (id INTEGER PRIMARY KEY ON CONFLICT IGNORE,"
        " name TEXT NOT NULL ON CONFLICT IGNORE, price NUMERIC UNIQUE ON CONFLICT REPLACE)"
    )
    made = open_world(sqlite_url(tmp_path), schema=(*SCHEMA, own_rules))
    a = Origin("a")

    def write(op: str, row_id: int, name: str | None, price: str, hlc: int, base: Version | None = None) -> Tx:
        return a.tx(Write(op, "own_rules", {"id": row_id, "name": name, "price": price}, hlc, base))

    stands = [write("I", 1, "x", "1", 10), write("I", 4, "z", "4", 13)]
    clashes = [
        write("I", 2, "y", "1", 20),
        write("I", 3, None, "3", 21),
        write("U", 4, "z", "1", 22, Version(0, 13, "a")),
    ]
    made.receive(*(tx.body for tx in (*stands, *clashes)))
    assert made.rows("own_rules") == [(4, "z", 1)]
    assert made.letters() == [(clashes[1].tx_id, "constraint", "dead")]
    assert made.query("SELECT key FROM rf_stepped_back ORDER BY key") == [("[1]",), ("[2]",)]
    close_world(made)


def test_a_sender_that_names_fewer_columns_takes_none_along(world: World) -> None:
    a, b = Origin("a"), Origin("b")
    b.tables["item"] = b.tables["item"].model_copy(update={"columns": {"id": "int", "name": "text"}})
    part = b.tx(Write("U", "item", {"id": 1, "name": "part"}, 20, Version(0, 10, "a")))
    world.receive(a.put(1, "whole", 10).body + part.body)
    ((row_id, name, price),) = world.rows()
    assert (row_id, name, float(price)) == (1, "part", 1.5)


@pytest.mark.parametrize(
    ("altered", "reason"),
    [
        ("ALTER TABLE item RENAME COLUMN name TO title", "unknown-column"),
        ("ALTER TABLE item RENAME TO thing", "unknown-table"),
    ],
)
def test_a_table_that_is_altered_while_its_node_applies(world: World, altered: str, reason: str) -> None:
    """Nobody tells the running intake; what does not fit any more is set aside by name, and the stream goes on."""
    a = Origin("a")
    world.receive(a.put(1, "one", 10).body)
    world.execute(altered)
    second = a.put(2, "two", 20)
    after = a.tx(Write("I", "parent", {"id": 1, "name": "p"}, 30))
    world.receive(second.body, after.body)
    assert world.letters() == [(second.tx_id, reason, "dead")]
    assert world.rows("parent") == [(1, "p")]


def test_a_table_that_needs_functions_of_its_application(tmp_path: Path) -> None:
    """Only the application's connections have them: such a tx is set aside, the others go on."""
    raw = sqlite3.connect(tmp_path / "app.db")
    raw.create_function("okay", 1, lambda _: True, deterministic=True)
    raw.create_collation("own", lambda one, other: (one > other) - (one < other))
    for statement in (
        *SCHEMA,
        "CREATE TABLE checked (id INTEGER PRIMARY KEY, name TEXT CHECK (okay(name)), price NUMERIC)",
        "CREATE TABLE sorted (id INTEGER PRIMARY KEY, name TEXT COLLATE own UNIQUE, price NUMERIC)",
    ):
        raw.execute(statement)
    raw.close()
    made = open_world(sqlite_url(tmp_path), schema=())
    a = Origin("a")
    row = {"id": 1, "name": "x", "price": "1"}
    bad = [a.tx(Write("I", table, row, 10)) for table in ("checked", "sorted")]
    made.receive(b"".join(tx.body for tx in (*bad, a.put(1, "one", 20))))
    assert made.letters() == [(tx.tx_id, "constraint", "dead") for tx in bad]
    assert [one for one, _, _ in made.rows()] == [1]
    close_world(made)
