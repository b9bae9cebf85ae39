"""The fleet as one node knows it: what each node lacks, and the sentence that says why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from common.clock import SystemClock, from_us
from common.http.scopes import Scope
from common.ops.agreement import agreement
from common.ops.fleet import FleetNode, read_fleet
from common.ops.migration import migrate
from common.ops.status import Standing, State
from common.ops.status_reading import read_standing
from common.ops.tokens import Tokens
from common.runtime.parts import load_parts
from common.schema import tables as rf
from common.wire.control import Heartbeat, encode_control
from consumer.apply.committing import Committing
from producer.cursors import Cursors
from tests.support.applying import (
    DATABASES,
    Origin,
    World,
    close_world,
    item,
    open_world,
    resealed,
    sqlite_url,
    world_on,
)

SECOND, MINUTE = 1_000_000, 60_000_000


@pytest.fixture(params=DATABASES)
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    directory = {"path": str(tmp_path / "exchange")}
    with world_on(request, tmp_path, directory=directory, tables={"policy": {"item": "manual"}}) as made:
        yield made


def fleet(world: World) -> dict[str, FleetNode]:
    return look(world)[0]


def look(world: World) -> tuple[dict[str, FleetNode], Standing]:
    node, shares = world.node, dict[str, Any]()
    for part in load_parts():
        shares |= part.status(node)
    standing = read_standing(node.database, node.config, node.facts, world.clock.us, shares)
    with node.database.engine.connect() as connection:
        nodes = read_fleet(connection, node.config, standing)
    assert nodes[0].is_self
    return {one.name: one for one in nodes}, standing


def beat(world: World, name: str = "a", passed: Mapping[tuple[str, str], int] | None = None, **changes: object) -> None:
    """Let a heartbeat of a node come; it agrees with this node unless it is told otherwise."""
    node = world.node
    agreed = agreement(node.config, node.captured_tables().values())
    fields: dict[str, Any] = {
        "source_node": name,
        "incarnation": "inc1",
        "head_lsn": 0,
        "head_tx_id": None,
        "sent_lsn": 0,
        "every_seconds": 60.0,
        "at": from_us(world.clock.us),
        "release": "1.0",
        "features": (),
        "schema_sha256": agreed.schema_sha256,
        "policies_sha256": agreed.policies_sha256,
        "passed": tuple((*key, lsn) for key, lsn in (passed or {}).items()),
    }
    world.receive(encode_control(Heartbeat(**fields | changes)), source_node=name)
    with node.database.engine.begin() as connection:
        connection.execute(rf.node.update().where(rf.node.c.is_self).values(heard_us=world.clock.us))


def write(world: World, count: int, seconds_ago: float) -> None:
    """Let the application write so many rows, captured so long ago by the node's clock."""
    first = len(world.rows()) + 1
    for number in range(first, first + count):
        world.execute(f"INSERT INTO item VALUES ({number}, 'own', 1)")
        Committing(world.node).seal()
    facts = world.node.facts
    end = world.node.database.log(facts).head().lsn
    Cursors(world.node.database, world.clock).save("directory", facts.incarnation, end)
    captured_us = world.clock.us - int(seconds_ago * SECOND)
    with world.node.database.engine.begin() as connection:
        connection.execute(rf.tx.update().where(rf.tx.c.to_lsn > end - count).values(captured_us=captured_us))


def test_what_a_node_is_called_by_role_is_known_or_left_open(world: World) -> None:
    beat(world)
    assert fleet(world)["a"].role is None
    with world.node.database.engine.begin() as connection:
        connection.execute(rf.node.update().where(rf.node.c.node_id == "a").values(role="main"))
    beat(world, "b")
    assert {name: one.role for name, one in fleet(world).items()} == {"here": "branch", "a": "main", "b": "branch"}


def test_alone_there_is_this_node(world: World) -> None:
    found = fleet(world)
    assert list(found) == ["here"]
    assert (found["here"].state, found["here"].reasons) == (State.UP_TO_DATE, ())
    assert (found["here"].way_in, found["here"].way_out) == ("", "as files in the shared folder")


AWAY = {"broker_unusable_since": "2026-11-26T10:00:00Z", "error": "refused", "fallback_error": None}


def ways(tmp_path: Path, share: Mapping[str, Any], **sections: object) -> tuple[str, str]:
    """How the changes of `a` come and how ours go there, where the producer's share of `status` is this one."""
    world = open_world(sqlite_url(tmp_path), **sections)
    try:
        standing = look(world)[1]
        standing = replace(standing, shares={**standing.shares, **share})
        with world.node.database.engine.connect() as connection:
            nodes = read_fleet(connection, world.node.config, standing)
        (a,) = [one for one in nodes if one.name == "a"]
        return a.way_in, a.way_out
    finally:
        close_world(world)


PEER = {"url": "https://a.example:8443", "token_file": "token"}
HUB = {"url": "https://hub.example:8443", "token_file": "token"}


@pytest.mark.parametrize(
    ("sections", "share", "way_in", "way_out"),
    [
        ({"peers": {"a": PEER}}, {}, "over HTTP: this node fetches them", "over HTTP: this node pushes them"),
        (
            {"peers": {"a": PEER}},
            {"http_peers": [{"peer": "a", "unusable_since": "2026-11-26T10:00:00Z", "error": "refused"}]},
            "over HTTP: this node fetches them",
            "over HTTP: this node pushes them, but can't reach it",
        ),
        ({"broker": {"url": "amqp://b.example", "peers": ["a"]}}, {}, "by the broker", "by the broker"),
        (
            {"broker": {"url": "amqp://b.example", "peers": ["a"]}, "directory": {"path": "exchange"}},
            {"road": AWAY | {"used": "directory", "fallback_since": "2026-11-26T10:00:00Z"}},
            "by the broker, or through the shared folder",
            "as files in the shared folder, because the broker is unusable",
        ),
        (
            {"node": {"main": "a"}, "peers": {"hub": HUB}},
            {},
            "over HTTP: hub hands them on",
            "over HTTP: hub hands them on",
        ),
        (
            {"node": {"main": "a"}},
            {"clients": [{"client": "a", "incarnation": "x", "last_lsn": 0, "updated_us": 0}]},
            "in files that somebody carries and imports",
            "over HTTP: it fetches them",
        ),
        (
            {"node": {"main": "a"}},
            {},
            "in files that somebody carries and imports",
            "it fetches them over HTTP, or somebody carries them in files",
        ),
    ],
)
def test_both_ways_to_a_node_are_told_apart_on_every_transport(
    tmp_path: Path, sections: dict[str, Any], share: dict[str, Any], way_in: str, way_out: str
) -> None:
    if "node" in sections:
        sections = sections | {"node": {"id": "here", "database": sqlite_url(tmp_path), **sections["node"]}}
    assert ways(tmp_path, share, **sections) == (way_in, way_out)


def test_whose_changes_come_by_http_while_ours_go_as_files_is_told_so(world: World) -> None:
    beat(world)
    a = fleet(world)["a"]
    assert (a.way_in, a.way_out) == ("through the shared folder", "as files in the shared folder")
    tokens = Tokens(world.node.database, world.node.clock)
    token = tokens.create("a", frozenset({Scope.PUSH, Scope.PULL}), "test")[1]
    tokens.create("b", frozenset({Scope.PUSH}), "test")
    tokens.create("a", frozenset({Scope.OPS}), "test")
    assert fleet(world)["a"].way_in == "over HTTP: it pushes them, or through the shared folder"
    assert fleet(world)["a"].way_out == "as files in the shared folder"
    tokens.revoke(token.id, "test")
    assert fleet(world)["a"].way_in == "through the shared folder"


def test_a_node_that_has_all_is_up_to_date(world: World) -> None:
    write(world, 3, 600)
    beat(world, passed={("here", world.node.facts.incarnation): 3})
    a = fleet(world)["a"]
    assert (a.state, a.reasons, a.lacks.changes, a.missing.changes) == (State.UP_TO_DATE, (), 0, 0)
    assert (a.release, a.heard_us, a.differs, a.clock_is_off) == ("1.0", world.clock.us, (), False)


def test_what_a_node_lacks_is_counted_and_aged(world: World) -> None:
    write(world, 3, 600)
    beat(world, passed={("here", world.node.facts.incarnation): 1})
    a = fleet(world)["a"]
    assert (a.lacks.changes, a.lacks.oldest_seconds) == (2, 600)
    assert a.oldest_seconds == 600
    assert a.state is State.BEHIND
    assert a.reasons == ("2 changes of here had not reached it when it last spoke",)


def test_what_was_written_since_a_node_spoke_is_no_lag(world: World) -> None:
    beat(world, passed={("here", world.node.facts.incarnation): 0})
    world.clock.pass_seconds(30)
    write(world, 3, 10)
    assert fleet(world)["a"].lacks.changes == 0
    world.clock.pass_seconds(30)
    beat(world, passed={("here", world.node.facts.incarnation): 1})
    assert fleet(world)["a"].lacks.changes == 2


def test_of_a_silent_node_all_that_it_lacks_counts(world: World) -> None:
    beat(world, passed={("here", world.node.facts.incarnation): 0})
    world.clock.pass_seconds(600)
    write(world, 3, 10)
    beat(world, "b")
    a = fleet(world)["a"]
    assert a.lacks.changes == 3
    assert a.state is State.NEEDS_ATTENTION
    assert "has been silent since" in a.reasons[0]


def test_who_said_nothing_of_it_lacks_nobody_knows_what(world: World) -> None:
    write(world, 1, 600)
    beat(world)
    assert fleet(world)["a"].lacks.changes is None


def test_what_has_not_come_is_told(world: World) -> None:
    beat(world, head_lsn=5, head_tx_id="01920000-0005-7000-8000-000000000061")
    a = fleet(world)["a"]
    assert (a.missing.changes, a.state) == (5, State.BEHIND)
    assert a.reasons == ("5 changes of a have not arrived yet",)


def test_what_is_stuck_at_a_silent_node_stands_with_its_silence_and_not_with_what_needs_nobody(world: World) -> None:
    beat(world, "z", head_lsn=5, head_tx_id="01920000-0005-7000-8000-000000000061")
    world.clock.pass_seconds(600)
    beat(world, "b", schema_sha256="0" * 64)
    nodes, standing = look(world)
    silence = standing.attention[0]
    assert "z has been silent since" in silence
    assert "5 changes of it are stuck there until it is back" in silence
    assert "or whether the shared folder no longer delivers its files" in silence
    assert "broker" not in silence
    assert not any("have not arrived" in reason for reason in (*standing.waiting, *nodes["z"].reasons))
    assert list(nodes) == ["here", "z", "b"], "the silent one is the most urgent"
    assert silence in nodes["z"].reasons


def test_a_large_transaction_that_has_not_come_whole_is_told_with_its_node(world: World) -> None:
    large = Origin("a").tx(*(item(number + 1, "x" * 300, number + 1) for number in range(30)))
    *parts, last = large.parts(4096)
    beat(world)
    world.receive(*parts)
    nodes, standing = look(world)
    assert (nodes["a"].state, nodes["a"].missing.changes) == (State.BEHIND, 30)
    assert nodes["a"].reasons == (
        f"1 large transaction of it has not arrived completely ({len(parts)} parts so far, 30 changes in all)",
    )
    assert nodes["here"].missing.changes == 30
    assert [reason for reason in standing.waiting if "1 large transaction of a has not arrived completely" in reason]
    world.clock.pass_seconds(world.node.config.limits.stall_seconds + 1)
    _, standing = look(world)
    assert [one["work"] for one in standing.stalled] == ["source a"]
    world.receive(last)
    nodes, standing = look(world)
    assert (nodes["a"].state, nodes["a"].missing.changes, standing.stalled) == (State.UP_TO_DATE, 0, [])


def test_while_capture_is_out_of_date_here_no_peer_is_accused(world: World) -> None:
    for name in ("a", "b"):
        beat(world, name)
    world.execute("CREATE TABLE voucher (id INTEGER PRIMARY KEY)")
    nodes, standing = look(world)
    assert standing.attention == ["table voucher is new here and not captured yet: on this node run `rowferry migrate`"]
    assert nodes["a"].reasons == nodes["a"].differs == ()
    migrate(world.node.database, world.node.config, SystemClock())
    nodes, standing = look(world)
    other = "a has different tables, keys or columns in sync than this node"
    assert nodes["a"].reasons == (other,), "one cause, one sentence"
    assert standing.attention == [other, other.replace("a has", "b has", 1)]


def test_dead_letters_and_conflicts_stand_with_their_node(world: World) -> None:
    a, b = Origin("a"), Origin("b")
    world.receive(resealed(a.put(1, "one", 10).body, b'"item"', b'"nowhere"'))
    world.receive(resealed(a.put(2, "two", 11).body, b'"item"', b'"nowhere"'))
    world.execute("INSERT INTO item VALUES (7, 'mine', 1)")
    world.receive(b.put(7, "theirs", world.clock.us).body)
    own = world.node.database.log(world.node.facts).head().lsn
    Cursors(world.node.database, world.clock).save("directory", world.node.facts.incarnation, own)
    found = fleet(world)
    assert (found["a"].dead_letters, found["a"].conflicts) == (2, 0)
    assert found["a"].reasons == (
        "2 transactions of it could not be applied here and wait as dead letters: unknown-table (2)",
    )
    assert (found["b"].dead_letters, found["b"].conflicts) == (0, 1)
    assert found["b"].reasons == ("1 conflict with it waits for a choice",)
    assert (found["here"].dead_letters, found["here"].conflicts) == (2, 1)
    assert list(found) == ["here", "a", "b"], "whoever needs a person stands first"


def test_another_setup_and_a_wrong_clock_are_told(world: World) -> None:
    beat(world, "a", schema_sha256="0" * 64, policies_sha256="0" * 64)
    beat(world, "b", at=from_us(world.clock.us + 3_600 * SECOND))
    found = fleet(world)
    assert found["a"].differs == ("tables", "policies")
    assert any("different tables" in one for one in found["a"].reasons)
    assert (found["b"].clock_is_off, found["b"].clock_seconds) == (True, 3_600)
    assert any("the clock of b" in one for one in found["b"].reasons)


def test_a_retired_node_is_none_of_them(world: World) -> None:
    beat(world)
    with world.node.database.engine.begin() as connection:
        connection.execute(rf.node.update().where(rf.node.c.node_id == "a").values(retired_us=1))
    assert list(fleet(world)) == ["here"]


def test_the_looks_go_along_indexes(world: World) -> None:
    """However long the log and however many letters are settled: no table is read whole."""
    write(world, 1, 600)
    beat(world, passed={("here", world.node.facts.incarnation): 0})
    seen: list[str] = []
    engine = world.node.database.engine
    explain = "EXPLAIN QUERY PLAN " if engine.dialect.name == "sqlite" else "EXPLAIN "

    from sqlalchemy import event

    def watch(_conn: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if statement.startswith("SELECT") and "rf_tx" in statement and "captured_us" in statement:
            seen.append(statement)
            plans.append((explain + statement, parameters))

    plans: list[tuple[str, Any]] = []
    event.listen(engine, "before_cursor_execute", watch)
    try:
        fleet(world)
    finally:
        event.remove(engine, "before_cursor_execute", watch)
    assert seen
    with engine.connect() as connection:
        if engine.dialect.name == "postgresql":
            connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
        for statement, parameters in plans:
            plan = " ".join(str(tuple(row)) for row in connection.exec_driver_sql(statement, parameters))
            assert "SCAN rf_tx" not in plan, plan
            assert "Seq Scan" not in plan, plan
