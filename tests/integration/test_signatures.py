"""Signed batches on a node that asks for them: who speaks for another node is refused on every way in."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from common.clock import from_us
from common.config.model import Config
from common.wire.control import Gone, Heartbeat, Request, encode_control
from common.wire.decode import read_body
from common.wire.records import Part
from common.wire.signing import Signer, new_private_key
from consumer.dead_letters.operations import DeadLetters, Replay
from consumer.dead_letters.table_store import Selection
from tests.docs.test_wire_schema import HEARTBEAT
from tests.integration.test_plain_way import note_attempts
from tests.support.applying import (
    DATABASES,
    Origin,
    Tx,
    World,
    Write,
    close_world,
    item,
    open_world,
    outcomes,
    resealed,
    world_on,
)
from tests.support.cli import document, rowferry
from tests.support.private import write_private
from tests.support.web import served_on_sqlite

KEY, NEXT, OTHER = (Signer(new_private_key()) for _ in range(3))
SIGNERS = {"a": [KEY.public, NEXT.public]}


@pytest.fixture(params=DATABASES)
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    """A node that knows two keys of node a, and asks nobody else to sign."""
    with world_on(request, tmp_path, signers=SIGNERS) as one:
        yield one


def configured(world: World, **sections: Any) -> None:
    """Give the node another configuration, and have it started again."""
    tree = world.node.config.model_dump(exclude_unset=True) | sections
    world.node = replace(world.node, config=Config.model_validate(tree))
    world.intake()


def reasons(world: World) -> list[tuple[str, str]]:
    return sorted((reason, state) for _, reason, state in world.letters())


def replay(world: World, **how: Any) -> list[str]:
    return outcomes(DeadLetters(world.node).replay(Selection(), Replay("tester", **how), lambda _: None))


def altered(tx: Tx) -> bytes:
    return resealed(tx.signed(KEY), b'"one"', b'"two"')


def test_who_speaks_for_another_is_refused_and_stands_in_nobodys_way(world: World) -> None:
    tx = Origin("a").put(1, "one", 10)
    world.receive(tx.body, tx.signed(OTHER), altered(tx))
    assert reasons(world) == [("bad-signature", "dead"), ("unknown-key", "dead"), ("unsigned", "dead")]
    assert world.query("SELECT source_node, from_lsn FROM rf_dead_letter") == [("a", None)] * 3
    assert (world.rows(), world.watermark("a")) == ([], 0)
    assert world.query("SELECT node_id FROM rf_node WHERE node_id = 'a'") == []
    assert world.one("SELECT count(*) FROM rf_audit WHERE action = 'set-aside' AND source_node = 'a'") == 3
    world.receive(tx.signed(NEXT), Origin("b").put(2, "unasked", 10).body)
    assert ([row[1] for row in world.rows()], world.watermark("a")) == (["one", "unasked"], 1)
    assert len(world.letters()) == 3


def test_who_is_not_proven_takes_nobodys_spelling(world: World) -> None:
    said = msgspec.structs.replace(heartbeat(world), source_node="A")
    world.receive(Origin("A").put(1, "lie", 10).body, encode_control(said))
    world.receive(Origin("a").put(2, "one", 10).signed(KEY))
    assert [row[1] for row in world.rows()] == ["one"]
    assert reasons(world) == [("unsigned", "dead")]
    # Once it is known nobody has it but its owner.
    world.receive(Origin("A").put(3, "x", 10).body)
    assert reasons(world) == [("source", "dead"), ("unsigned", "dead")]


def test_what_is_torn_says_nothing_for_a_node_that_signs(world: World) -> None:
    tx = Origin("a").put(1, "one", 10)
    lie = tx.signed(KEY).replace(b'"to_lsn":1', b'"to_lsn":1000')
    world.receive(lie, lie[: lie.rindex(b'{"type":"end"')])
    assert reasons(world) == [("checksum", "dead")] * 2
    assert world.watermark("a") == 0
    world.receive(tx.signed(KEY))
    assert (len(world.rows()), world.watermark("a")) == (1, 1)


def test_everybody_must_sign_where_that_is_required(world: World) -> None:
    configured(world, node=world.node.config.node.model_dump(exclude_unset=True) | {"require_signed": True})
    world.receive(Origin("a").put(1, "one", 10).signed(KEY), Origin("b").put(2, "x", 10).body)
    world.receive(Origin("b").put(2, "x", 10).signed(OTHER), Origin("A").put(3, "x", 10).body)
    assert [row[1] for row in world.rows()] == ["one"]
    assert reasons(world) == [("source", "dead"), ("unknown-key", "dead"), ("unsigned", "dead")]


def test_each_part_of_a_large_tx_must_be_signed(world: World) -> None:
    large = Origin("a").tx(*(item(number, "x" * 300, number + 1) for number in range(1, 60)))
    signed, unsigned = large.parts(4096, KEY), large.parts(4096)
    assert len(signed) == len(unsigned) > 2
    world.receive(signed[0], unsigned[1], *signed[2:])
    assert world.rows() == []
    assert reasons(world) == [("unsigned", "dead")]
    world.receive(signed[1])
    assert (len(world.rows()), world.watermark("a")) == (59, 59)


def test_parts_that_were_stored_before_a_key_was_known_are_asked_for_again(world: World) -> None:
    large = Origin("a").tx(*(item(number, "x" * 300, number + 1) for number in range(1, 60)))
    signed, unsigned = large.parts(4096, KEY), large.parts(4096)
    configured(world, signers={})
    world.receive(*unsigned[:-1])
    configured(world, signers=SIGNERS)
    world.receive(signed[-1])
    assert (world.rows(), world.letters()) == ([], [])
    assert world.query("SELECT part FROM rf_tx_part") == [(len(signed),)]
    world.receive(*signed)
    assert len(world.rows()) == 59


def test_parts_that_are_all_there_are_looked_at_again_before_they_are_taken_up(world: World) -> None:
    large = Origin("a").tx(*(item(number, "x" * 300, number + 1) for number in range(1, 60)))
    configured(world, signers={})
    inbox = world.intake()._inbox
    for part in large.parts(4096)[:-1]:
        world.receive(part)
    (last,) = read_body(large.parts(4096)[-1])
    assert isinstance(last, Part)
    assert inbox.take(last, "test") is not None
    configured(world, signers=SIGNERS)
    assert world.intakes[-1]._inbox.complete_ones() == []
    assert world.query("SELECT part FROM rf_tx_part") == []


def test_a_replay_applies_what_its_key_was_missing_for(world: World) -> None:
    a = Origin("a")
    tx, never, forged = a.put(1, "one", 10), a.put(2, "two", 10), a.put(3, "one", 10)
    configured(world, signers={"a": [OTHER.public]})
    world.receive(tx.signed(KEY), never.body, altered(forged))
    assert reasons(world) == [("unknown-key", "dead"), ("unknown-key", "dead"), ("unsigned", "dead")]
    assert replay(world) == ["dead"] * 3
    configured(world, signers=SIGNERS)
    assert sorted(replay(world, dry_run=True)) == ["applied", "dead", "dead"]
    assert world.rows() == []
    assert sorted(replay(world)) == ["applied", "dead", "dead"]
    assert [row[1] for row in world.rows()] == ["one"]
    assert reasons(world) == [("bad-signature", "dead"), ("unknown-key", "replayed"), ("unsigned", "dead")]
    assert world.query("SELECT tx_id FROM rf_applied_tx") == [(tx.tx_id,)]
    # What nobody signed somebody may answer for; what was signed as something else nobody can.
    assert sorted(replay(world, trust_source=True)) == ["applied", "dead"]
    assert [row[1] for row in world.rows()] == ["one", "two"]
    world.receive(tx.signed(KEY), never.signed(KEY))
    assert reasons(world) == [("bad-signature", "dead"), ("unknown-key", "replayed"), ("unsigned", "replayed")]


def test_what_waits_is_not_applied_once_its_key_is_gone(world: World) -> None:
    a = Origin("a")
    child = a.tx(Write("I", "child", {"id": 1, "parent_id": 5}, 10))
    world.receive(child.signed(KEY))
    assert [state for _, state in reasons(world)] == ["early"]
    configured(world, signers={"a": [NEXT.public]})
    world.clock.pass_seconds(120)
    world.receive(a.tx(Write("I", "parent", {"id": 5, "name": "x"}, 11)).signed(NEXT))
    assert (len(world.rows("parent")), world.rows("child")) == (1, [])
    assert reasons(world) == [("unknown-key", "dead")]
    configured(world, signers=SIGNERS)
    assert replay(world) == ["applied"]
    assert len(world.rows("child")) == 1


def test_a_batch_that_is_handed_on_is_known_by_its_source_alone(world: World) -> None:
    a, b = Origin("a"), Origin("b")
    how = {"source_node": "hub", "verified": True, "may_forward": False}
    world.receive(a.put(1, "one", 10).signed(KEY), **how)
    world.receive(b.put(2, "x", 10).body, **how)
    world.receive(a.put(3, "x", 10).signed(OTHER), **how)
    assert [row[1] for row in world.rows()] == ["one"]
    assert reasons(world) == [("source", "dead"), ("source", "dead")]
    configured(world, signers={"a": [KEY.public, OTHER.public]})
    assert sorted(replay(world)) == ["applied", "dead"]
    assert [row[1] for row in world.rows()] == ["one", "x"]


def test_nobody_says_anything_else_in_the_name_of_a_node_that_signs(world: World) -> None:
    own = world.node.facts
    world.receive(Origin("a").put(1, "one", 10).signed(KEY))
    said = {"from_node": "a", "to_node": "here", "incarnation": own.incarnation, "after_lsn": 0, "until_lsn": 9}
    lies: list[Heartbeat | Request | Gone] = [
        heartbeat(world),
        Request(**said, asked_at="2026-01-01T00:00:00Z"),  # type: ignore[arg-type]
        Gone(**said | {"incarnation": "inc1"}),  # type: ignore[arg-type]
    ]
    heard = "SELECT heard_us, head_lsn FROM rf_node WHERE node_id = 'a'"
    silent = world.query(heard)
    for lie in lies:
        world.receive(encode_control(lie), encode_control(lie, OTHER))
    assert world.query("SELECT * FROM rf_request") == world.query("SELECT * FROM rf_passed") == []
    assert world.query(heard) == silent
    assert world.letters() == []
    for one in lies:
        world.receive(encode_control(one, KEY))
    assert world.query(heard) != silent
    assert world.one("SELECT count(*) FROM rf_request WHERE direction = 'in'") == 1


def heartbeat(world: World) -> Heartbeat:
    fields = {name: getattr(HEARTBEAT, name) for name in HEARTBEAT.__struct_fields__}
    return Heartbeat(**fields | {"at": from_us(world.clock.now_us()), "incarnation": "inc1"})


@pytest.mark.containers
def test_the_short_way_looks_at_signatures_too(pg_database_factory: Callable[[], str]) -> None:
    world = open_world(pg_database_factory(), signers=SIGNERS)
    try:
        went: list[bool] = []
        short: set[str] = set()
        note_attempts(world, went, short)
        a = Origin("a")
        good = [a.put(number, "one", 10) for number in range(1, 4)]
        world.receive(*(tx.signed(KEY) for tx in good))
        assert short == {tx.tx_id for tx in good}
        lie = a.put(9, "lie", 10)
        for body in (lie.body, lie.signed(OTHER), resealed(lie.signed(KEY), b'"lie"', b'"one"')):
            world.receive(body)
        assert (len(world.rows()), world.watermark("a")) == (3, 3)
        assert short == {tx.tx_id for tx in good}
        assert reasons(world) == [("bad-signature", "dead"), ("unknown-key", "dead"), ("unsigned", "dead")]
    finally:
        close_world(world)


def test_an_import_is_refused_whole(world: World, tmp_path: Path) -> None:
    config = tmp_path / "rowferry.toml"
    url = world.node.database.engine.url.render_as_string(hide_password=False)
    keys = json.dumps(SIGNERS["a"])
    write_private(config, f'[node]\nid = "here"\ndatabase = "{url}"\n[signers]\na = {keys}\n')
    a = Origin("a")
    good, bad = a.put(1, "one", 10), a.put(2, "two", 10)
    file = tmp_path / "batches.jsonl"
    for second, says in ((bad.body, "is not signed"), (bad.signed(OTHER), "no key of 'a'"), (altered(bad), None)):
        file.write_bytes(good.signed(KEY) + second)
        report = document(config, "import-change-log", str(file), code=3 if says else 0)
        if says is None:
            continue
        (finding,) = report["findings"]
        assert (finding["check"], finding["line"], says in finding["message"]) == ("signature", 4, True)
        assert world.rows() == []
    assert [row[1] for row in world.rows()] == ["one", "two"]


def test_a_push_of_ones_own_is_refused_and_of_others_set_aside(tmp_path: Path) -> None:
    a, b = Origin("a"), Origin("b")
    with served_on_sqlite(tmp_path, signers=SIGNERS | {"b": [OTHER.public]}) as node:
        own, hub = node.token("a"), node.token("hub", "push", "forward")

        def pushed(token: str, body: bytes) -> Any:
            with node.client(token) as client:
                return client.post("/sync/push", content=body)

        tx = a.put(1, "one", 10)
        for body, reason in ((tx.body, "unsigned"), (tx.signed(OTHER), "unknown-key"), (altered(tx), "bad-signature")):
            answer = pushed(own, tx.signed(KEY) + body)
            assert (answer.status_code, answer.json()["type"]) == (403, f"urn:rowferry:{reason}")
        assert node.world.rows() == []
        assert pushed(own, tx.signed(KEY)).json()["counts"] == {"applied": 1}
        behind = a.put(2, "two", 10)
        answer = pushed(hub, b.put(7, "x", 10).body + behind.signed(KEY))
        told = [(one["outcome"], one["reason"]) for one in answer.json()["results"]]
        assert told == [("dead-lettered", "unsigned"), ("applied", None)]
        assert [row[1] for row in node.world.rows()] == ["one", "two"]


def test_a_key_is_made_shown_and_kept(tmp_path: Path) -> None:
    config = tmp_path / "rowferry.toml"
    config.write_text('[node]\nid = "shop"\ndatabase = "sqlite:///app.db"\n')
    assert rowferry(config, "key", "show").exit_code == 2
    made = document(config, "key", "create")
    file = tmp_path / "shop.key"
    assert (made["node"], made["file"], file.stat().st_mode & 0o777) == ("shop", str(file), 0o600)
    assert Signer(file.read_text().strip()).public == made["public_key"]
    assert "already exists" in rowferry(config, "key", "create").stderr
    config.write_text(config.read_text() + 'signing_key_file = "shop.key"\n')
    shown = document(config, "key", "show")
    assert shown == {name: made[name] for name in ("node", "key", "public_key")}
    assert made["public_key"] in rowferry(config, "key", "show").stdout
    file.chmod(0o644)
    refused = rowferry(config, "key", "show")
    assert (refused.exit_code, "chmod 600" in refused.stderr) == (2, True)
    file.chmod(0o600)
    file.write_text(made["public_key"])
    refused = rowferry(config, "key", "show")
    assert "node.signing_key" in refused.stderr
    assert made["public_key"] not in refused.stderr
