"""Two people decide over one dead letter in the same moment: one of them does, the other is told so."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
import sqlalchemy as sa

from common.dialects.postgresql.applying import PostgresApplySession
from common.ports.dialect import Database
from consumer import audit
from consumer.dead_letters import another_form, operations
from consumer.dead_letters.documents import result_document
from consumer.dead_letters.editing import read_edited
from consumer.dead_letters.operations import DeadLetters, Replay
from consumer.dead_letters.table_store import Selection
from consumer.statements import reading
from tests.integration.test_dead_letters_pieces import grouped
from tests.support.applying import Origin, Tx, World, Write, item
from tests.support.waiting import wait_for

Act = Callable[[World, str], list[str]]
"""Does something with the one letter as somebody, and returns what he is told."""


def letter(world: World) -> Tx:
    """Set one aside that can be applied by now."""
    tx = grouped(Origin("a").tx(item(1, "one", 10), Write("I", "code", {"id": 9, "code": "taken"}, 12)))
    world.block_codes()
    world.receive(tx.body)
    world.free_codes()
    return tx


def replay(world: World, actor: str) -> list[str]:
    return _told(DeadLetters(world.node).replay(Selection(), Replay(actor), lambda _: None))


def replay_in_pieces(world: World, actor: str) -> list[str]:
    return _told(DeadLetters(world.node).replay(Selection(), Replay(actor, in_pieces=True), lambda _: None))


def replay_edited(world: World, actor: str) -> list[str]:
    desk = DeadLetters(world.node)
    (one,) = desk.find(Selection())
    lines = [json.loads(line) for line in b"".join(desk.batches(one)).splitlines()]
    lines[1]["after"]["name"] = "edited"
    batches = read_edited(b"".join(json.dumps(line).encode() + b"\n" for line in lines), "file")
    return _told([one.result for one in desk.replay_edited(batches, Replay(actor), lambda _: None)])


def discard(world: World, actor: str) -> list[str]:
    return ["discarded" for _ in DeadLetters(world.node).discard(Selection(), "no use", actor)]


def _told(results: list[Any]) -> list[str]:
    documents = [result_document(one) for one in results]
    return [f"{one['outcome']}: {one['error']}" if one["error"] else one["outcome"] for one in documents]


REPLAYS = [replay, replay_in_pieces, replay_edited]
STATES = {"applied": "replayed", "discarded": "discarded"}
WAITING = """
SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
"""


def at_once(world: World, first: Act, second: Act, monkeypatch: pytest.MonkeyPatch) -> tuple[list[str], list[str]]:
    """Let `second` begin while `first` has looked at the letter, and has its transaction open; return what both say.

    A discard has nothing to look at: it is held where it has decided."""
    held: list[Future[list[str]]] = []

    def meanwhile() -> None:
        if not held:
            held.append(pool.submit(second, world, "bob"))
            wait_for(lambda: held[0].done() or world.one(WAITING), 60, "the second to end, or to wait")

    def behind(work: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **named: Any) -> Any:
            meanwhile()
            return work(*arguments, **named)

        return wrapped

    if first is discard:
        monkeypatch.setattr(audit, "write", behind(audit.write))
    else:
        monkeypatch.setattr(PostgresApplySession, "lock", behind(PostgresApplySession.lock))
    with ThreadPoolExecutor(1) as pool:
        told = first(world, "anna")
        return told, held[0].result()


@pytest.mark.parametrize("second", [*REPLAYS, discard])
@pytest.mark.parametrize("first", [*REPLAYS, discard])
def test_one_of_two_settles_it_and_the_other_is_told(
    pg_world: World, first: Act, second: Act, monkeypatch: pytest.MonkeyPatch
) -> None:
    letter(pg_world)
    told = at_once(pg_world, first, second, monkeypatch)
    (won,) = [place for place, said in enumerate(told) if said in (["applied"], ["discarded"])]
    lost = told[1 - won]
    state = STATES[told[won][0]]
    if (first, second)[1 - won] is discard:
        assert lost == []
    else:
        assert lost == [f"duplicate: it was {state} meanwhile"]

    winner = ("anna", "bob")[won]
    assert pg_world.query("SELECT state, settled_by FROM rf_dead_letter") == [(state, winner)]
    assert pg_world.one("SELECT count(*) FROM rf_applied_tx") == (state == "replayed")
    rows = [row[1] for row in pg_world.rows()]
    if state == "discarded":
        # Pieces are committed one by one: what is discarded is the rest.
        assert rows == (["one"] if first is replay_in_pieces else [])
    else:
        assert rows == ["edited" if (first, second)[won] is replay_edited else "one"]
    lines = pg_world.query("SELECT action, actor FROM rf_audit WHERE action IN ('replayed', 'discarded')")
    assert lines == [(state, winner)]


def test_a_letter_that_somebody_answers_for_is_settled_by_one_alone(
    pg_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stands under its sender's name, and is applied under its source's."""
    pg_world.receive(Origin("a").put(1, "one", 10).body, source_node="b", verified=True)

    def trusting(world: World, actor: str) -> list[str]:
        return _told(DeadLetters(world.node).replay(Selection(), Replay(actor, trust_source=True), lambda _: None))

    assert at_once(pg_world, trusting, discard, monkeypatch) == (["applied"], [])
    assert pg_world.query("SELECT state, settled_by, settled_note FROM rf_dead_letter") == [
        ("replayed", "anna", "vouched for")
    ]


def after_loading(act: Act, work: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `work` be done by another one when the letter has been read to be replayed."""
    module, looks = (another_form, [None]) if act is replay_edited else (operations, [None, None])

    @contextmanager
    def reading_then_losing(database: Database) -> Iterator[sa.Connection]:
        with reading(database) as connection:
            yield connection
        looks.pop()
        if not looks:
            monkeypatch.undo()
            with ThreadPoolExecutor(1) as pool:
                pool.submit(work).result()

    monkeypatch.setattr(module, "reading", reading_then_losing)


@pytest.mark.parametrize("act", REPLAYS)
def test_what_was_discarded_since_it_was_looked_at_stays_so(
    world: World, act: Act, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it could still not be applied: the failure would open it again."""
    tx = letter(world)
    world.block_codes()
    after_loading(act, lambda: discard(world, "bob"), monkeypatch)
    assert act(world, "anna") == ["duplicate: it was discarded meanwhile"]
    assert world.letters() == [(tx.tx_id, "constraint", "discarded")]
    assert world.query("SELECT actor FROM rf_audit WHERE action IN ('replayed', 'replay-failed')") == []
    assert world.rows() == []


def test_a_whole_replay_leaves_out_what_was_applied_in_pieces_since(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No conflict is met twice."""
    tx = grouped(Origin("a").tx(item(1, "one", 10), Write("I", "code", {"id": 9, "code": "taken"}, 12)))
    world.block_codes()
    world.receive(tx.body, Origin("b").put(1, "rival", 50).body)

    def apply_what_can_be() -> None:
        replay_in_pieces(world, "bob")
        world.free_codes()

    after_loading(replay, apply_what_can_be, monkeypatch)
    assert replay(world, "anna") == ["applied"]
    assert world.rows("code") == [(9, "taken")]
    assert world.one("SELECT count(*) FROM rf_conflict") == 1


def test_a_copy_that_was_discarded_leaves_the_true_letter_alone(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """It stands under its bringer's name beside it; who loses over the copy has decided nothing about the other."""
    true = letter(world)
    world.block_codes()
    world.receive(true.body, source_node="b", verified=True)
    copies = Selection(source_node="b")

    def discard_the_copy() -> object:
        return DeadLetters(world.node).discard(copies, "no use", "bob")

    after_loading(replay, discard_the_copy, monkeypatch)
    how = Replay("anna", trust_source=True)
    assert _told(DeadLetters(world.node).replay(copies, how, lambda _: None)) == [
        "duplicate: it was discarded meanwhile"
    ]
    assert world.query("SELECT source_node, state FROM rf_dead_letter ORDER BY 1") == [
        ("a", "dead"),
        ("b", "discarded"),
    ]
    world.free_codes()
    assert replay(world, "anna") == ["applied"]
    assert [row[1] for row in world.rows()] == ["one"]
