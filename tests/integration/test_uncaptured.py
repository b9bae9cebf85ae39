"""A captured table without its triggers is in the way of no other table, of nobody who only looks, and of no person."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import httpx
import pytest

from common.errors import ContentionError, PoisonError, Reason, RowferryError, UncapturedError
from common.http.scopes import Scope
from common.ports.dialect import TableShape
from common.runtime import recapture as installing
from common.runtime.node import Node
from consumer.apply import recapture
from consumer.apply.committing import Committing
from consumer.dead_letters.editing import read_edited
from consumer.dead_letters.operations import DeadLetters, Replay
from consumer.dead_letters.show import show
from consumer.dead_letters.table_store import Selection, find
from consumer.reshaped import ReshapedRetries
from consumer.standing.refresh import Refresh
from consumer.statements import reading
from producer.watch import CaptureWatch
from tests.support.applying import DATABASES, Origin, World, Write, application, drop_triggers, sqlite_url
from tests.support.web import Served, served

AHEAD = 3 * 10**15


@pytest.fixture(params=DATABASES)
def node(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Served]:
    url = sqlite_url(tmp_path) if request.param == "sqlite" else request.getfixturevalue("pg_database")
    node = {"id": "here", "database": url, "auto_migrate": False}
    with served(url, node=node, tables={"policy": {"item": "manual"}}) as one:
        yield one


def tables(world: World) -> list[TableShape]:
    return list(world.node.captured_tables().values())


def install(world: World) -> None:
    world.node.capture().install(tables(world))


def code(row_id: int, value: str, hlc: int) -> Write:
    return Write("I", "code", {"id": row_id, "code": value}, hlc)


def slot(row_id: int, value: str, hlc: int) -> Write:
    return Write("I", "slot", {"id": row_id, "name": value, "price": None}, hlc)


def aside(world: World) -> list[str]:
    return [table for (table,) in world.query("SELECT table_name FROM rf_stepped_back ORDER BY 1")]


def clashes(world: World) -> None:
    """In two tables row 1 steps back for row 2, which the application deletes; all of it is sealed."""
    world.execute("CREATE TABLE slot (id INTEGER PRIMARY KEY, name TEXT UNIQUE, price NUMERIC(12, 2))")
    install(world)
    world.receive(
        Origin("a").tx(code(1, "x", 10), slot(1, "x", 10)).body,
        Origin("b").tx(code(2, "x", 20), slot(2, "x", 20)).body,
    )
    assert aside(world) == ["code", "slot"]


@pytest.mark.parametrize(("why", "first"), [("uncaptured", "run"), ("uncaptured", "an import"), ("paused", "run")])
def test_other_tables_are_followed_up(by_hand: World, why: str, first: str) -> None:
    world = by_hand
    clashes(world)
    lasting = Refresh(world.node)
    lasting.step()
    world.execute("DELETE FROM code WHERE id = 2", "DELETE FROM slot WHERE id = 2")
    Committing(world.node).seal()
    if why == "uncaptured":
        world.execute(*drop_triggers(world, "code"))
    else:
        world.node.capture().pause([one for one in tables(world) if one.name == "code"], world.clock.us, "test")
        world.execute("INSERT INTO code VALUES (2, 'y')")
    if first == "run":
        assert lasting.step()
        lasting.step()
    else:
        Refresh(world.node).catch_up()
    assert aside(world) == ["code"]
    if why == "uncaptured":
        install(world)
    else:
        world.node.capture().resume(["code"], tables(world))
    lasting._rules_at = 0.0
    assert lasting.step()
    assert (aside(world), world.rows("code")[0]) == ([], (1, "x"))


def test_a_choice_is_refused_with_its_reason(node: Served) -> None:
    world = node.world
    world.execute("INSERT INTO item VALUES (7, 'mine', 1)")
    world.receive(Origin("a").put(7, "theirs", AHEAD).body)
    world.execute(*drop_triggers(world))
    with node.client(node.token("anna", Scope.OPS)) as ops:
        _refused(ops, "uncaptured", "rowferry migrate")
        install(world)
        world.node.capture().pause([one for one in tables(world) if one.name == "item"], world.clock.us, "test")
        world.execute("UPDATE item SET name = 'meanwhile' WHERE id = 7")
        _refused(ops, "paused", "rowferry resume item")


def _refused(ops: httpx.Client, reason: str, remedy: str) -> None:
    refused = ops.post("/conflicts/1/resolve", json={"take": "theirs"})
    assert (refused.status_code, refused.json().get("type")) == (409, f"urn:rowferry:{reason}")
    detail = refused.json()["detail"]
    assert remedy in detail
    # A choice does not wait: who made it is told to make it again, and when.
    assert ("Choose again after" in detail, "waits for" in detail) == (True, False)


def test_what_only_looks_installs_nothing(world: World) -> None:
    a = Origin("a")
    world.execute("INSERT INTO item VALUES (5, 'here', 1)")
    world.block_codes()
    world.receive(a.tx(Write("I", "item", {"id": 1, "name": "a", "price": None}, 10), code(1, "taken", 10)).body)
    world.free_codes()
    world.execute(*drop_triggers(world))
    with reading(world.node.database) as connection:
        (letter,) = find(connection, Selection())
    desk = DeadLetters(world.node)
    edited = read_edited(b"".join(desk.batches(letter)), "file")
    dry = Replay("anna", dry_run=True)
    tries: list[Callable[[], object]] = [
        lambda: show(world.node, letter),
        lambda: desk.replay(Selection(), dry, lambda _: None),
        lambda: desk.replay_edited(edited, dry, lambda _: None),
    ]
    for look in tries:
        look()
        assert world.node.capture().drifted(tables(world)) == ["item"]
        assert world.query("SELECT 1 FROM rf_audit WHERE action = 'capture'") == []


def _failing(monkeypatch: pytest.MonkeyPatch, error: Exception) -> list[Sequence[str]]:
    tried: list[Sequence[str]] = []

    def fail(_node: Node, _tables: Sequence[TableShape], drifted: Sequence[str]) -> None:
        tried.append(drifted)
        raise error

    monkeypatch.setattr(recapture, "install_anew", fail)
    return tried


def test_one_try_that_was_of_no_use_is_enough_for_all_tables_and_threads(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = _failing(monkeypatch, ContentionError("held"))
    for table in ("item", "parent"):
        world.execute(*drop_triggers(world, table))
    together = threading.Barrier(3)

    def look(table: str) -> None:
        mending = recapture.Recapture(world.node)
        together.wait()
        assert not mending.mend(UncapturedError(table))

    threads = [threading.Thread(target=look, args=(table,)) for table in ("item", "parent", "item")]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert len(tried) == 1


@pytest.mark.parametrize("error", [PoisonError(Reason.TYPE, "odd"), RowferryError("odd")])
def test_what_keeps_capture_from_being_installed_is_no_fault_of_the_batch(
    world: World, monkeypatch: pytest.MonkeyPatch, error: RowferryError
) -> None:
    world.execute(*drop_triggers(world))
    _failing(monkeypatch, error)
    capture = type(world.node.capture())
    drifted, asked = capture.drifted, list[str]()

    def drifted_once(self: object, of: Sequence[TableShape]) -> list[str]:
        if asked:
            raise error
        asked.append("once")
        return drifted(self, of)  # type: ignore[arg-type]

    monkeypatch.setattr(capture, "drifted", drifted_once)
    world.receive(Origin("a").put(1, "a", 10).body)
    assert [letter[1:] for letter in world.letters()] == [("uncaptured", "early")]


def test_who_seals_or_applies_does_not_wait_for_another_that_installs(pg_world: World) -> None:
    world = pg_world
    world.execute(*drop_triggers(world))
    with application(world.node.database.engine.url) as connection:
        connection.exec_driver_sql("LOCK TABLE rf_capture IN SHARE ROW EXCLUSIVE MODE")
        began = time.monotonic()
        CaptureWatch(world.node).look()
        with pytest.raises(ContentionError):
            installing.install_anew(world.node, tables(world), ["item"])
        assert time.monotonic() - began < 5, "half a second each"


def test_what_waited_too_long_comes_once_capture_stands(by_hand: World) -> None:
    world = by_hand
    world.execute(*drop_triggers(world))
    world.receive(Origin("a").put(1, "a", 10).body)
    world.clock.pass_seconds(world.node.config.limits.early_seconds + 1)
    world.receive()
    assert [letter[1:] for letter in world.letters()] == [("uncaptured", "dead")]
    retries = ReshapedRetries(world.node, None, threading.Event())
    assert not retries.step(0)
    world.clock.pass_seconds(5)
    installing.install_anew(world.node, tables(world), ["item"])
    retries.look_again_in(0)
    assert retries.step(0)
    assert [letter[2] for letter in world.letters()] == ["replayed"]
    retries.close()
