"""What an operator does with dead letters: list, show, replay, discard, export, and the broker's copies."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from common.errors import OutageError
from common.ports.dead_letters import DeadLetter
from common.versions import Version
from consumer import arrivals
from consumer.dead_letters.copies import BrokerCopies
from consumer.dead_letters.operations import DeadLetters, Replay
from consumer.dead_letters.states import LetterState
from consumer.dead_letters.table_store import Selection
from consumer.reshaped import Reshaped
from tests.integration.test_heartbeats import beat
from tests.support.applying import Origin, Tx, World, Write, item, outcomes, resealed
from tests.support.cli import document, rowferry
from tests.support.private import write_private

HOW = Replay("tester")


@dataclass
class MemoryMirror:
    """The broker's dead queue, in memory."""

    letters: list[DeadLetter] = field(default_factory=list)
    away: bool = False

    def publish(self, dead_letter: DeadLetter) -> None:
        self._check()
        self.letters.append(dead_letter)

    def remove(self, tx_ids: Collection[str]) -> int:
        self._check()
        before = len(self.letters)
        self.letters = [letter for letter in self.letters if letter.tx_id not in tx_ids]
        return before - len(self.letters)

    def read_all(self) -> list[DeadLetter]:
        return list(self.letters)

    def close(self) -> None:
        pass

    def _check(self) -> None:
        if self.away:
            raise OutageError("the broker is away")


@pytest.fixture
def config_file(world: World, tmp_path: Path) -> Path:
    return write_private(
        tmp_path / "rowferry.toml", f'[node]\nid = "here"\ndatabase = "{world.node.config.node.database}"\n'
    )


def no_bar(_: int) -> None:
    """Nobody watches."""


def blocked(origin: Origin, hlc: int = 10) -> Tx:
    """A tx of two rows, of which one can't be written before `item` 9 is known as a code."""
    return origin.tx(item(1, "blocked", hlc), Write("I", "code", {"id": 9, "code": "taken"}, hlc + 1))


def block(world: World) -> None:
    """Let a row that this node wrote stand in the way of `blocked`."""
    world.block_codes()


def unblock(world: World) -> None:
    world.free_codes()


def test_a_replay_after_later_txs_changes_only_rows_whose_version_it_beats(world: World) -> None:
    a, b = Origin("a"), Origin("b")
    block(world)
    dead = a.tx(item(1, "dead", 10), item(2, "dead", 11), Write("I", "code", {"id": 9, "code": "taken"}, 12))
    world.receive(dead.body, b.put(1, "later", 50).body)
    assert world.letters() == [(dead.tx_id, "constraint", "dead")]
    unblock(world)

    results = DeadLetters(world.node).replay(Selection(tx_ids=(dead.tx_id,)), HOW, no_bar)
    assert outcomes(results) == ["applied"]
    assert [row[1] for row in world.rows()] == ["later", "dead"]
    assert world.letters() == [(dead.tx_id, "constraint", "replayed")]
    assert world.query("SELECT settled_by FROM rf_dead_letter") == [("tester",)]
    assert world.query("SELECT actor FROM rf_audit WHERE action = 'replayed'") == [("tester",)]

    again = DeadLetters(world.node).replay(Selection(tx_ids=(dead.tx_id,)), HOW, no_bar)
    assert again == []
    world.receive(dead.body)
    assert world.one("SELECT count(*) FROM rf_applied_tx") == 2


def test_a_replay_is_no_sign_of_life_of_the_source(world: World) -> None:
    dead = blocked(Origin("a"))
    block(world)
    world.receive(dead.body)
    seen = world.query("SELECT last_seen_us FROM rf_node WHERE node_id = 'a'")
    world.clock.pass_seconds(3_600)
    unblock(world)
    assert outcomes(DeadLetters(world.node).replay(Selection(), HOW, no_bar)) == ["applied"]
    assert world.query("SELECT last_seen_us FROM rf_node WHERE node_id = 'a'") == seen


def test_a_replay_that_fails_again_counts_and_stays(world: World) -> None:
    dead = blocked(Origin("a"))
    block(world)
    world.receive(dead.body)
    results = DeadLetters(world.node).replay(Selection(), HOW, no_bar)
    assert outcomes(results) == ["dead"]
    assert world.query("SELECT state, attempts FROM rf_dead_letter") == [("dead", 2)]
    assert world.rows() == []


def test_a_dry_run_writes_nothing(world: World) -> None:
    dead = blocked(Origin("a"))
    block(world)
    world.receive(dead.body)
    unblock(world)
    dry = Replay("tester", dry_run=True)
    assert outcomes(DeadLetters(world.node).replay(Selection(), dry, no_bar)) == ["applied"]
    assert world.letters() == [(dead.tx_id, "constraint", "dead")]
    assert world.rows() == []
    assert world.one("SELECT attempts FROM rf_dead_letter") == 1


def test_a_parked_batch_of_a_rewound_node_is_applied_by_a_person_alone(world: World) -> None:
    a, rewound = Origin("a"), Origin("a", made=50)
    world.receive(a.put(1, "one", 10).body, a.put(2, "two", 11).body)
    forked = rewound.put(3, "forked", 90)
    world.receive(forked.body)
    world.receive(forked.body)
    assert world.letters() == [(forked.tx_id, "forked", "forked")]
    assert outcomes(DeadLetters(world.node).replay(Selection(), HOW, no_bar)) == ["applied"]
    assert [row[1] for row in world.rows()] == ["one", "two", "forked"]
    assert world.watermark("a") == 2


def test_an_unproven_source_needs_somebody_who_answers_for_it(world: World) -> None:
    tx = Origin("a").put(1, "one", 10)
    world.receive(tx.body, source_node="b", verified=True)
    desk = DeadLetters(world.node)
    assert outcomes(desk.replay(Selection(), HOW, no_bar)) == ["dead"]
    assert world.rows() == []
    trusting = Replay("tester", trust_source=True)
    assert outcomes(desk.replay(Selection(), trusting, no_bar)) == ["applied"]
    assert world.letters() == [(tx.tx_id, "source", "replayed")]
    assert world.watermark("a") == 1


def test_a_discarded_tx_stays_away(world: World) -> None:
    dead = blocked(Origin("a"))
    block(world)
    world.receive(dead.body)
    desk = DeadLetters(world.node)
    assert len(desk.discard(Selection(tx_ids=(dead.tx_id,)), "not wanted", "tester")) == 1
    unblock(world)
    world.receive(dead.body)
    assert world.rows() == []
    assert world.letters() == [(dead.tx_id, "constraint", "discarded")]
    assert world.one("SELECT settled_note FROM rf_dead_letter") == "not wanted"
    assert world.one("SELECT count(*) FROM rf_audit WHERE action = 'discarded'") == 1
    assert desk.find(Selection()) == []


def with_blanks(part: bytes) -> bytes:
    """The same part with its end line written in another way."""
    *lines, end, _ = part.split(b"\n")
    return b"\n".join([*lines, json.dumps(json.loads(end) | {"more": True}).encode(), b""])


def two_desks(world: World, monkeypatch: pytest.MonkeyPatch) -> tuple[Tx, DeadLetters, DeadLetters]:
    """Return a letter that could be applied now, and two desks; the first has found it before the other acts."""
    dead = blocked(Origin("a"))
    block(world)
    world.receive(dead.body)
    unblock(world)
    desk, other = DeadLetters(world.node), DeadLetters(world.node)
    found = desk.find(Selection())
    monkeypatch.setattr(desk, "find", lambda _: found)
    return dead, desk, other


def test_of_two_who_decide_at_once_the_first_one_counts(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    dead, desk, other = two_desks(world, monkeypatch)
    assert outcomes(other.replay(Selection(), HOW, no_bar)) == ["applied"]
    assert desk.discard(Selection(), "not wanted", "tester") == []
    assert world.letters() == [(dead.tx_id, "constraint", "replayed")]
    assert world.one("SELECT count(*) FROM rf_audit WHERE action = 'discarded'") == 0


def test_bytes_that_hold_no_tx_are_not_called_replayed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """They ended the process as they came; whatever is tried with them, they are all that is left of what was sent."""
    with monkeypatch.context() as broken:
        broken.setattr(arrivals, "parts_in", lambda body, limits: 1 / 0)
        world.source.put(b"garbage")
        intake = world.intake()
        for _ in range(5):
            with pytest.raises(ZeroDivisionError):
                intake.step(0)
    intake.step(0)
    assert outcomes(DeadLetters(world.node).replay(Selection(), HOW, no_bar)) == ["dead"]
    assert [(reason, state) for _, reason, state in world.letters()] == [("checksum", "dead")]


def test_what_was_given_up_meanwhile_is_not_replayed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    dead, desk, other = two_desks(world, monkeypatch)
    other.discard(Selection(), "not wanted", "tester")
    assert outcomes(desk.replay(Selection(), HOW, no_bar)) == ["duplicate"]
    assert world.rows() == []
    assert world.letters() == [(dead.tx_id, "constraint", "discarded")]


def test_a_letter_in_parts_is_replayed_exported_and_discarded(world: World) -> None:
    a = Origin("a")
    block(world)
    writes = [item(number, "x" * 500, number) for number in range(1, 40)]
    dead = a.tx(*writes, Write("I", "code", {"id": 9, "code": "taken"}, 99))
    # Other implementations write JSON with blanks; what goes out must be what came in.
    parts = [with_blanks(part) for part in dead.parts(4096)]
    assert len(parts) > 2
    world.receive(*reversed(parts))
    assert world.letters() == [(dead.tx_id, "constraint", "dead")]
    assert world.one("SELECT count(*) FROM rf_tx_part") == len(parts)
    desk = DeadLetters(world.node)
    (letter,) = desk.find(Selection())
    assert list(desk.batches(letter)) == parts
    unblock(world)
    assert outcomes(desk.replay(Selection(), HOW, no_bar)) == ["applied"]
    assert len(world.rows()) == 39
    assert world.one("SELECT count(*) FROM rf_tx_part") == 0


def test_the_broker_has_a_copy_until_the_letter_is_settled(world: World) -> None:
    mirror = MemoryMirror()
    world.intake(copies=BrokerCopies(world.node, mirror))
    dead = blocked(Origin("a"))
    block(world)
    world.receive(dead.body)
    assert [(one.tx_id, one.body, one.reason) for one in mirror.letters] == [(dead.tx_id, dead.body, "constraint")]
    assert world.query("SELECT broker_copy FROM rf_dead_letter")[0][0]
    unblock(world)
    DeadLetters(world.node, BrokerCopies(world.node, mirror)).replay(Selection(), HOW, no_bar)
    assert mirror.letters == []
    assert not world.query("SELECT broker_copy FROM rf_dead_letter")[0][0]


def test_without_the_brokers_copy_the_original_is_not_acknowledged(world: World) -> None:
    mirror = MemoryMirror(away=True)
    intake = world.intake(copies=BrokerCopies(world.node, mirror))
    block(world)
    world.source.put(blocked(Origin("a")).body)
    with pytest.raises(OutageError):
        intake.step(0)
    assert world.source.acked == []
    mirror.away = False
    intake.step(0)
    assert len(world.source.acked) == 1
    assert len(mirror.letters) == 1


def test_what_is_settled_while_the_broker_is_away_is_told(world: World) -> None:
    mirror = MemoryMirror()
    intake = world.intake(copies=BrokerCopies(world.node, mirror))
    block(world)
    a = Origin("a")
    world.source.put(blocked(a).body)
    world.source.put(blocked(a, 11).body)
    intake.step(0)
    intake.step(0)
    assert len(mirror.letters) == 2
    mirror.away = True
    desk = DeadLetters(world.node, BrokerCopies(world.node, mirror))
    first, second = desk.find(Selection())
    assert desk.copies_stay is None
    assert len(desk.discard(Selection(tx_ids=(first.tx_id,)), "not wanted", "tester")) == 1
    assert desk.copies_stay == "the broker is away"
    unblock(world)
    assert outcomes(desk.replay(Selection(tx_ids=(second.tx_id,)), HOW, no_bar)) == ["applied"]
    mirror.away = False
    desk.clear_copies()
    assert mirror.letters == []


def test_a_discard_is_told_of_though_the_broker_is_away(world: World, config_file: Path) -> None:
    block(world)
    world.receive(blocked(Origin("a")).body)
    world.execute("UPDATE rf_dead_letter SET broker_copy = (1 = 1)")
    write_private(config_file, f'{config_file.read_text()}\n[broker]\nurl = "amqp://u:secret@127.0.0.1:1/"\n')
    done = rowferry(config_file, "dlq", "discard", "--all", "--reason", "not wanted")
    assert (done.exit_code, "1 discarded" in done.stdout, "copies stay" in done.stderr) == (5, True, True)
    assert "secret" not in done.stderr


def test_a_lost_table_is_filled_from_the_queue(world: World) -> None:
    mirror = MemoryMirror()
    world.intake(copies=BrokerCopies(world.node, mirror))
    a = Origin("a")
    dead = blocked(a)
    writes = [item(number, "x" * 500, number) for number in range(10, 40)]
    large = a.tx(*writes, Write("I", "code", {"id": 8, "code": "taken"}, 99))
    block(world)
    world.receive(dead.body, *large.parts(4096))
    assert len(world.letters()) == 2
    world.execute("DELETE FROM rf_dead_letter", "DELETE FROM rf_tx_part")
    desk = DeadLetters(world.node, BrokerCopies(world.node, mirror))
    assert desk.restore_from_queue() == 2
    assert desk.restore_from_queue() == 0
    assert sorted(letter.tx_id for letter in desk.find(Selection())) == sorted([dead.tx_id, large.tx_id])
    world.free_codes()
    results = desk.replay(Selection(tx_ids=(large.tx_id,)), HOW, no_bar)
    assert outcomes(results) == ["applied"]
    assert {letter.tx_id for letter in mirror.letters} == {dead.tx_id}


def test_a_parked_batch_that_comes_back_from_the_queue_is_still_parked(world: World) -> None:
    mirror = MemoryMirror()
    world.intake(copies=BrokerCopies(world.node, mirror))
    a, rewound = Origin("a"), Origin("a", made=50)
    forked = rewound.put(3, "forked", 90)
    world.receive(a.put(1, "one", 10).body, a.put(2, "two", 11).body, forked.body)
    world.execute("DELETE FROM rf_dead_letter")
    assert DeadLetters(world.node, BrokerCopies(world.node, mirror)).restore_from_queue() == 1
    assert world.letters() == [(forked.tx_id, "forked", "forked")]
    world.receive(forked.body)
    assert [row[1] for row in world.rows()] == ["one", "two"]


def test_what_waits_for_rows_of_an_unknown_table_goes_with_them(world: World) -> None:
    a, b = Origin("a"), Origin("b")
    a.tables["branch"] = a.tables["child"]
    b.tables["root"] = b.tables["parent"]
    branch = a.tx(Write("I", "branch", {"id": 1, "parent_id": 7}, 10))
    root = b.tx(Write("I", "root", {"id": 7, "name": "p"}, 11))
    world.receive(branch.body, root.body)
    assert [reason for _, reason, _ in world.letters()] == ["unknown-table", "unknown-table"]
    world.execute(
        "CREATE TABLE root (id INTEGER PRIMARY KEY, name TEXT)",
        "CREATE TABLE branch (id INTEGER PRIMARY KEY, parent_id INTEGER REFERENCES root (id))",
    )
    world.node.database.capture().install(list(world.node.captured_tables().values()))
    Reshaped(world.node).retry()
    assert world.rows("branch") == [(1, 7)]
    assert {state for *_, state in world.letters()} == {"replayed"}


def test_unknown_tables_are_tried_again_once_they_are_known(world: World) -> None:
    a = Origin("a")
    tx = a.tx(Write("I", "fresh", {"id": 1, "name": "x", "price": "1.50"}, 10))
    other = a.tx(Write("I", "never", {"id": 1, "name": "x", "price": "1.50"}, 11))
    world.receive(tx.body, other.body)
    assert [state for _, _, state in world.letters()] == ["dead", "dead"]
    assert Reshaped(world.node).retry() == []
    world.execute("CREATE TABLE fresh (id INTEGER PRIMARY KEY, name TEXT, price NUMERIC(12, 2))")
    world.node.database.capture().install(list(world.node.captured_tables().values()))
    assert outcomes(Reshaped(world.node).retry()) == ["applied"]
    assert [row[1] for row in world.rows("fresh")] == ["x"]
    assert world.query(f"SELECT attempts FROM rf_dead_letter WHERE tx_id = '{other.tx_id}'") == [(1,)]


def listed(config_file: Path, *options: str) -> list[dict[str, Any]]:
    found = document(config_file, "dlq", "list", *options)
    assert isinstance(found, list)
    return found


def test_a_person_is_told_which_way_a_letter_came_and_who_else_has_it(world: World, config_file: Path) -> None:
    """In the words of the page; programs get the origin as it is."""
    tx = Origin("a").tx(Write("I", "nowhere", {"id": 1, "name": "x", "price": "1"}, 20))
    world.receive(tx.body)
    world.execute("UPDATE rf_dead_letter SET origin = 'http:shop-1'")
    beat(world, 9, source_node="shop-2", passed=(("a", "inc1", 1),))
    beat(world, 9, source_node="hq")
    shown = rowferry(config_file, "dlq", "show", tx.tx_id).output
    assert "origin: over HTTP from shop-1, which handed it on" in shown
    assert document(config_file, "dlq", "show", tx.tx_id)["origin"] == "http:shop-1"
    told = " ".join(rowferry(config_file, "dlq", "discard", tx.tx_id, "--reason", "no such table").output.split())
    assert "1 discarded" in told
    assert f"{tx.tx_id}: shop-2 has it. It is not known here whether hq has it." in told
    assert "here can't know more" in told


def test_the_command_line_lists_shows_replays_discards_and_exports(
    world: World, config_file: Path, tmp_path: Path
) -> None:
    a, b = Origin("a"), Origin("b")
    block(world)
    dead, unknown = blocked(a), a.tx(Write("I", "nowhere", {"id": 1, "name": "x", "price": "1"}, 20))
    world.receive(dead.body, unknown.body, b.put(1, "later", 50).body)

    assert [(one["tx_id"], one["reason"]) for one in listed(config_file)] == [
        (dead.tx_id, "constraint"),
        (unknown.tx_id, "unknown-table"),
    ]
    assert [one["tx_id"] for one in listed(config_file, "--reason", "constraint")] == [dead.tx_id]
    assert listed(config_file, "--source", "b") == []
    assert listed(config_file, "--tx", unknown.tx_id)[0]["table_name"] == "nowhere"

    shown = document(config_file, "dlq", "show", dead.tx_id)
    assert shown["blocked_by"]
    assert [(row["table"], row["effect"]) for row in shown["rows"]] == [("item", "overtaken"), ("code", "writes")]
    assert '{"id": 1}' in rowferry(config_file, "dlq", "show", dead.tx_id).output
    assert shown["overtaken"] == [{"table": "item", "pk": {"id": 1}, "by": [0, 50, "b"]}]
    assert world.rows("code") == [(5, "taken")]

    assert document(config_file, "dlq", "replay", dead.tx_id, code=4)["results"][0]["outcome"] == "dead"
    unblock(world)
    assert document(config_file, "dlq", "replay", dead.tx_id, "--dry-run")["results"][0]["outcome"] == "applied"
    assert document(config_file, "dlq", "replay", dead.tx_id)["results"][0]["outcome"] == "applied"
    assert world.rows("code") == [(9, "taken")]

    out = tmp_path / "letter.jsonl"
    assert document(config_file, "dlq", "export", "--all", "--out", str(out))["exported"] == 1
    assert out.read_bytes() == unknown.body
    assert rowferry(config_file, "dlq", "export", "--all", "--out", str(out)).exit_code == 2

    assert rowferry(config_file, "dlq", "discard", unknown.tx_id).exit_code == 2
    assert rowferry(config_file, "dlq", "replay").exit_code == 2
    discarded = document(config_file, "dlq", "discard", unknown.tx_id, "--reason", "no such table")
    (told,) = discarded["discarded"]
    assert (told["state"], told["settled_note"]) == ("discarded", "no such table")
    shown = document(config_file, "dlq", "show", unknown.tx_id)
    assert told == {name: shown[name] for name in told}
    assert document(config_file, "dlq", "discard", "--all", "--reason", "nothing is left") == {"discarded": []}
    again = rowferry(config_file, "dlq", "discard", unknown.tx_id, "--reason", "once more")
    assert (again.exit_code, again.output) == (0, f"{unknown.tx_id} is already discarded\n")
    assert listed(config_file) == []
    assert {one["state"] for one in listed(config_file, "--all")} == {"replayed", "discarded"}
    for command in (["replay"], ["discard", "--reason", "x"], ["export", "--out", str(tmp_path / "none.jsonl")]):
        mistyped = rowferry(config_file, "dlq", *command, dead.tx_id, "0192-mistyped")
        assert mistyped.exit_code == 2
        assert "0192-mistyped" in mistyped.output
    nothing: Result = rowferry(config_file, "dlq", "replay", "--all")
    assert (nothing.exit_code, nothing.output.strip()) == (0, "no such dead letters")


def twins(world: World) -> str:
    """Make a dead letter of each of two nodes, of one id; return it."""
    pair = [Origin(name).put(number, "x", 10) for number, name in enumerate(("ab", "ba"), start=1)]
    world.receive(*(resealed(tx.body, b'"item"', b'"fresh"') for tx in pair))
    assert len({tx.tx_id for tx in pair}) == 1
    return pair[0].tx_id


def test_an_id_that_several_sources_have_names_none_of_their_letters(
    world: World, config_file: Path, tmp_path: Path
) -> None:
    tx_id, out = twins(world), str(tmp_path / "out.jsonl")
    world.execute("CREATE TABLE fresh (id INTEGER PRIMARY KEY, name TEXT, price NUMERIC(10,2))")
    for command in (
        ["replay"],
        ["replay", "--dry-run"],
        ["replay", "--in-pieces"],
        ["discard", "--reason", "x"],
        ["export", "--out", out],
        ["show"],
    ):
        refused = rowferry(config_file, "dlq", *command, tx_id)
        assert refused.exit_code == 2
        assert f"{tx_id}: ab, ba each have a dead letter with this id: choose one with --source" in refused.output
    assert [one["state"] for one in listed(config_file, "--tx", tx_id)] == ["dead", "dead"]
    assert world.rows("fresh") == []
    assert not Path(out).exists()
    assert document(config_file, "dlq", "show", tx_id, "--source", "ba")["source_node"] == "ba"
    assert rowferry(config_file, "dlq", "replay", tx_id, "--source", "ba").exit_code == 0
    assert [(one["source_node"], one["state"]) for one in listed(config_file, "--tx", tx_id)] == [
        ("ab", "dead"),
        ("ba", "replayed"),
    ]


def test_ages_choose_the_letters_that_failed_long_ago(world: World, config_file: Path) -> None:
    block(world)
    world.receive(blocked(Origin("a")).body)
    # The world's clock stands in 2027, that of the command line does not.
    world.execute("UPDATE rf_dead_letter SET last_failed_us = 1")
    assert len(listed(config_file, "--older-than", "2h")) == 1
    world.execute("UPDATE rf_dead_letter SET last_failed_us = 9000000000000000")
    assert listed(config_file, "--older-than", "90s") == []
    assert rowferry(config_file, "dlq", "list", "--older-than", "soon").exit_code == 2


def test_states_are_closed_or_open() -> None:
    assert [state.value for state in LetterState if state.is_open] == ["dead", "early", "forked"]


def test_a_tx_on_top_of_a_dead_letter_goes_on_without_it(world: World) -> None:
    a = Origin("a")
    block(world)
    dead = blocked(a)
    world.receive(dead.body, a.put(1, "goes on", 30, Version(0, 10, "a"), "U").body)
    unblock(world)
    DeadLetters(world.node).replay(Selection(), HOW, no_bar)
    assert [row[1] for row in world.rows()] == ["goes on"]
    assert world.one("SELECT count(*) FROM rf_conflict") == 0
