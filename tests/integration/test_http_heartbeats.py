"""Nodes that meet over HTTP alone: each hears the others, holes heal, deleted rows are forgotten."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from common.clock import from_us
from common.config.model import PeerSection
from common.http.scopes import Scope
from common.ops.passed import read_passed
from common.ops.purging import OWN_LOG
from common.runtime.supervisor import Outcome, Supervisor
from common.transports.http import client
from common.transports.http.settings import settings_of
from common.wire.control import Heartbeat, SeenLog, encode_control, said_in
from common.wire.signing import Signer, new_private_key
from consumer.again import AgainSource
from consumer.gaps import find_gaps
from consumer.hearing import PeerHearing
from consumer.intake import Intake
from consumer.part import part as consumer
from consumer.pulling import pull_from
from consumer.tombstones import purge_tombstones
from producer.announcing import Announcing
from producer.part import part as producer
from producer.pushing import push_to
from tests.docs.test_wire_schema import HEARTBEAT
from tests.support.applying import DATABASES, Origin, World, close_world, open_world, sqlite_url
from tests.support.web import Served, served

KEY = Signer(new_private_key())


@pytest.fixture(params=DATABASES)
def main(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Served]:
    (tmp_path / "main").mkdir()
    url = sqlite_url(tmp_path / "main") if request.param == "sqlite" else request.getfixturevalue("pg_database")
    with served(url, node={"id": "main", "role": "main"}, limits={"gap_seconds": 0.1}) as one:
        yield one


@pytest.fixture
def branch(main: Served, tmp_path: Path) -> Iterator[World]:
    with_peer = branch_of(main, tmp_path, "here")
    yield with_peer
    close_world(with_peer)


def branch_of(main: Served, tmp_path: Path, name: str, **node: Any) -> World:
    """A migrated node on SQLite that knows nothing but main's address."""
    folder = tmp_path / name
    folder.mkdir()
    file = folder / "main.token"
    file.write_text(main.token(name, Scope.PUSH, Scope.PULL))
    file.chmod(0o600)
    peer = PeerSection(url=main.url, token_file=file)
    return open_world(
        sqlite_url(folder), node={"id": name, **node}, peers={"main": peer.model_dump()}, limits={"gap_seconds": 0.1}
    )


def services(world: World, kind: type[Any]) -> list[Any]:
    stop = threading.Event()
    found = [*producer.services(world.node, stop), *consumer.services(world.node, stop)]
    return [one for one in found if isinstance(one, kind)]


def told(world: World) -> None:
    """Let a branch tell main of itself, as `run` does each minute."""
    (one,) = services(world, Announcing)
    one.look_again_in(0)
    one.step(0)
    one.close()


def heard(world: World) -> None:
    """Let a branch hear main, as `run` does each minute."""
    (one,) = services(world, PeerHearing)
    one.look_again_in(0)
    one.step(0)
    one.close()


def sync(world: World) -> None:
    """Push and pull what there is."""
    for one in services(world, object):
        if one.name in ("sealer", "relay-http-main", "intake-http-main"):
            while one.step(0):
                pass
        one.close()


def insert(world: World, *numbers: int) -> None:
    """Write rows as the application, each a tx of its own."""
    for number in numbers:
        world.execute(f"INSERT INTO item VALUES ({number}, 'x', 1)")
        world.node.database.sealer(world.node.facts).seal()


def said_of(world: World, peer: str) -> tuple[Any, ...]:
    query = f"SELECT incarnation, head_lsn, sent_lsn FROM rf_node WHERE node_id = '{peer}' AND heard_us IS NOT NULL"
    (row,) = world.query(query)
    return row


def passed_of(world: World, peer: str) -> dict[tuple[str, str], int]:
    with world.node.database.engine.connect() as connection:
        return read_passed(connection, [peer]).get(peer, {})


def test_a_branch_and_main_hear_each_other(main: Served, branch: World) -> None:
    insert(main.world, 1)
    insert(branch, 2, 3)
    sync(branch)
    told(branch)
    heard(branch)
    mine, mains = branch.node.facts, main.world.node.facts
    assert said_of(main.world, "here") == (mine.incarnation, 2, 2)
    head = int(main.world.one("SELECT max(to_lsn) FROM rf_tx"))
    # The last pull has shown the mark of the one before: what was given by then is taken.
    assert said_of(branch, "main") == (mains.incarnation, head, head)
    assert passed_of(main.world, "here") == {("here", mine.incarnation): 2, ("main", mains.incarnation): head}
    assert passed_of(branch, "main") == {("main", mains.incarnation): head, ("here", mine.incarnation): 2}


def test_branches_hear_each_other_by_way_of_main(main: Served, branch: World, tmp_path: Path) -> None:
    other = branch_of(main, tmp_path, "other")
    try:
        insert(other, 5)
        sync(other)
        told(other)
        sync(branch)
        heard(branch)
        assert said_of(branch, "other") == (other.node.facts.incarnation, 1, 1)
        assert passed_of(branch, "other")[("other", other.node.facts.incarnation)] == 1
    finally:
        close_world(other)


def test_a_token_speaks_for_its_node_alone(main: Served) -> None:
    token = main.token("a", Scope.PUSH)

    def posted(body: bytes) -> Any:
        with main.client(token) as one:
            return one.post("/sync/heartbeat", content=body)

    lie = encode_control(heartbeat(main, "b"))
    for body, status in (
        (lie, 403),
        (b"", 422),
        (b"{}\n", 422),
        (lie * 2, 422),
        (encode_control(heartbeat(main, "a", release="1\x00")), 422),
        (Origin("a").put(1, "x", 1).body, 422),
    ):
        assert posted(body).status_code == status, body
    assert main.world.query("SELECT node_id FROM rf_node WHERE is_self IS FALSE") == []
    assert posted(encode_control(heartbeat(main, "a"))).json() == {"missing": None}
    with main.client(main.token("a", Scope.OPS)) as one:
        assert one.get("/sync/heartbeat").status_code == 403
        assert one.post("/sync/heartbeat", content=lie).status_code == 403


@pytest.mark.parametrize(("scope", "is_believed"), [(Scope.PUSH, False), (Scope.PULL, True)])
@pytest.mark.parametrize("lost", ["its log", "an earlier log"])
def test_only_who_may_read_a_log_says_that_it_was_put_back(
    main: Served, scope: Scope, is_believed: bool, lost: str
) -> None:
    facts = main.world.node.facts
    seen = {facts.node_id: SeenLog(incarnation=facts.incarnation, lsn=1_000 if lost == "its log" else 0)}
    passed = ((facts.node_id, "earlier", 1_000),) if lost == "an earlier log" else ()
    with main.client(main.token("a", scope)) as one:
        answer = one.post("/sync/heartbeat", content=encode_control(heartbeat(main, "a", seen=seen, passed=passed)))
    assert answer.status_code == 200, answer.text
    assert (main.world.one("SELECT rewound_us FROM rf_node WHERE is_self") is not None) is is_believed
    # The rest of it is heard, and what is handed on of it says no more than was taken.
    (said,) = said_in(main.world.one("SELECT said FROM rf_node WHERE node_id = 'a'").encode()) or ()
    assert isinstance(said.what, Heartbeat)
    assert bool(said.what.seen) is is_believed


def test_a_line_that_nobody_takes_silences_nobody_else(main: Served, branch: World) -> None:
    for name in ("a", "b"):
        with main.client(main.token(name, Scope.PUSH)) as one:
            assert one.post("/sync/heartbeat", content=encode_control(heartbeat(main, name))).status_code == 200
    # As a hub of another release may have taken it.
    main.world.execute("UPDATE rf_node SET said = replace(said, '1.0', '\\u0000') WHERE node_id = 'b'")
    heard(branch)
    known = branch.query("SELECT node_id FROM rf_node WHERE heard_us IS NOT NULL AND is_self IS FALSE")
    assert {name for (name,) in known} == {"main", "a"}


def test_what_is_handed_on_is_signed_by_whom_it_is_from(tmp_path: Path) -> None:
    (tmp_path / "main").mkdir()
    with served(sqlite_url(tmp_path / "main"), node={"id": "main", "role": "main"}) as main:
        branch = branch_of(main, tmp_path, "here")
        try:
            with main.client(main.token("a", Scope.PUSH)) as one:
                one.post("/sync/heartbeat", content=encode_control(heartbeat(main, "a"), KEY))
            with main.client(main.token("here", Scope.PULL)) as one:
                lines = said_in(one.get("/sync/heartbeat").content) or ()
            assert [one.what.sender for one in lines if isinstance(one.what, Heartbeat)] == ["main", "a"]
            assert lines[1].proof.key == KEY.key_id
        finally:
            close_world(branch)


def heartbeat(main: Served, node_id: str, **fields: Any) -> Heartbeat:
    values = {name: getattr(HEARTBEAT, name) for name in HEARTBEAT.__struct_fields__}
    now = from_us(main.world.clock.now_us())
    return Heartbeat(**values | {"source_node": node_id, "at": now, "passed": None, "sent_lsn": 0} | fields)


def gaps(world: World) -> list[tuple[int, int]]:
    with world.node.database.engine.connect() as connection:
        return [(one.after_lsn, one.until_lsn) for one in find_gaps(connection)]


def lose(world: World, source: str, lsn: int) -> None:
    """Let a node know nothing of one tx of a source any more."""
    mark = f"last_lsn = {lsn - 1}, last_tx_id = NULL"
    world.execute(
        f"DELETE FROM rf_applied_tx WHERE source_node = '{source}' AND to_lsn = {lsn}",
        f"UPDATE rf_sync_state SET {mark} WHERE peer = '{source}' AND direction = 'in'",
    )


def lose_in_the_middle(world: World, source: str) -> None:
    """Let the second of three txs be missing."""
    lose(world, source, 2)
    assert gaps(world) == [(1, 2)]


def purge_up_to(world: World, lsn: int) -> None:
    """Take the first txs off a node's log, as a purge does."""
    log = world.node.facts.incarnation
    world.execute(
        f"DELETE FROM rf_tx WHERE to_lsn <= {lsn}",
        "INSERT INTO rf_purged (what, name, until_lsn, purged_us, rows) "
        f"VALUES ('{OWN_LOG}', '{log}', {lsn}, 1, {lsn})",
    )


def ask_again(world: World) -> Intake:
    """Let the node ask for what is missing, as `run` does."""
    (name, peer), *_ = world.node.config.peers.items()
    now = [0.0]

    settings = partial(settings_of, name, peer)

    def opened() -> AgainSource:
        return AgainSource(world.node, name, settings, 1, lambda: now[0])

    intake = Intake(world.node, "again-main", opened, None, threading.Event())
    for _ in range(6):
        while intake.step(0):
            pass
        now[0] += 10
    return intake


def test_a_hole_in_the_middle_of_what_was_pulled_heals(main: Served, branch: World) -> None:
    insert(main.world, 1, 2, 3)
    sync(branch)
    assert [row[0] for row in branch.rows()] == [1, 2, 3]
    lose_in_the_middle(branch, "main")
    sync(branch)
    assert gaps(branch) == [(1, 2)]
    ask_again(branch).close()
    assert gaps(branch) == []
    assert branch.watermark("main") == 3
    assert branch.query("SELECT peer FROM rf_request") == []


def test_a_hole_in_what_was_handed_on_heals(main: Served, branch: World, tmp_path: Path) -> None:
    other = branch_of(main, tmp_path, "other")
    try:
        sync(branch)
        insert(other, 1, 2, 3)
        sync(other)
        sync(branch)
        assert branch.watermark("other") == 3
        lose_in_the_middle(branch, "other")
        ask_again(branch).close()
        assert (gaps(branch), branch.watermark("other")) == ([], 3)
    finally:
        close_world(other)


def test_what_the_log_has_no_more_is_said(main: Served, branch: World) -> None:
    insert(main.world, 1, 2, 3)
    sync(branch)
    lose_in_the_middle(branch, "main")
    purge_up_to(main.world, 2)
    ask_again(branch).close()
    assert gaps(branch) == [(1, 2)]
    assert branch.query("SELECT gone_until_lsn FROM rf_request") == [(2,)]


def test_a_hole_in_what_was_pushed_heals_with_the_next_heartbeat(main: Served, branch: World) -> None:
    stop = threading.Event()
    found = producer.services(branch.node, stop)
    (relay,) = [one for one in found if one.name == "relay-http-main"]
    (announcing,) = [one for one in found if isinstance(one, Announcing)]
    insert(branch, 1, 2, 3)
    relay.wake()
    while relay.step(0):
        pass
    lose_in_the_middle(main.world, "here")
    relay.wake()
    while relay.step(0):
        pass
    assert gaps(main.world) == [(1, 2)]
    announcing.look_again_in(0)
    announcing.step(0)
    while relay.step(0):
        pass
    assert (gaps(main.world), main.world.watermark("here")) == ([], 3)
    for one in found:
        one.close()


def test_a_tail_that_was_lost_is_missed(main: Served, branch: World) -> None:
    insert(main.world, 1, 2)
    sync(branch)
    sync(branch)
    lose(branch, "main", 2)
    branch.execute("UPDATE rf_sync_state SET highest_lsn = 1 WHERE peer = 'main' AND direction = 'in'")
    assert gaps(branch) == []
    heard(branch)
    assert gaps(branch) == [(1, 2)]
    ask_again(branch).close()
    assert branch.watermark("main") == 2


def test_deleted_rows_of_nodes_that_meet_over_http_alone_are_forgotten(
    main: Served, branch: World, tmp_path: Path
) -> None:
    other = branch_of(main, tmp_path, "other")
    fleet = [main.world, branch, other]

    def purged() -> list[int]:
        return [purge_tombstones(world.node).rows for world in fleet]

    try:
        insert(branch, 1, 2)
        insert(other, 3)
        branch.execute("DELETE FROM item WHERE id = 1")
        branch.node.database.sealer(branch.node.facts).seal()
        for world in (branch, other, branch, other):
            sync(world)
        assert [len(world.rows()) for world in fleet] == [2, 2, 2]
        for world in fleet:
            world.clock.pass_seconds(91 * 86_400)
        assert (purged(), purged()) == ([0, 0, 0], [0, 0, 0])
        for world in (branch, other, branch):
            for one in fleet:
                one.clock.pass_seconds(60)
            told(world)
            heard(world)
        assert purged() == [1, 1, 1]
        assert all(world.one("SELECT count(*) FROM rf_row_version WHERE deleted") == 0 for world in fleet)
    finally:
        close_world(other)


def test_push_and_pull_by_hand_say_and_hear_as_much(main: Served, branch: World) -> None:
    chosen = settings_of("main", branch.node.config.peers["main"])
    insert(branch, 1)
    insert(main.world, 2, 3, 4)
    push_to(branch.node, chosen, lambda: None)
    pull_from(branch.node, chosen)
    assert said_of(main.world, "here") == (branch.node.facts.incarnation, 1, 1)
    assert said_of(branch, "main")[0] == main.world.node.facts.incarnation
    lose(branch, "main", 2)
    assert gaps(branch) == [(1, 2)]
    report = pull_from(branch.node, chosen)
    assert (gaps(branch), report.applied) == ([], 1)


def once(world: World) -> Outcome:
    """What `run --once` does."""
    stop = threading.Event()
    return Supervisor([*producer.services(world.node, stop), *consumer.services(world.node, stop)], stop).run_once()


def test_run_once_says_and_hears_as_much(main: Served, branch: World) -> None:
    """Who is run by a schedule alone would never be heard, nor miss what is not there for it any more."""
    insert(branch, 1)
    insert(main.world, 2, 3, 4)
    assert once(branch).drained
    assert said_of(main.world, "here") == (branch.node.facts.incarnation, 1, 1)
    assert said_of(branch, "main")[0] == main.world.node.facts.incarnation
    lose(branch, "main", 2)
    assert gaps(branch) == [(1, 2)]
    assert once(branch).drained
    assert gaps(branch) == []


def test_run_once_notices_what_was_purged_before_it_came(main: Served, branch: World) -> None:
    insert(main.world, 1)
    once(branch)
    insert(main.world, 2, 3)
    purge_up_to(main.world, 3)
    assert once(branch).drained
    assert gaps(branch) == [(1, 3)]
    assert branch.query("SELECT gone_until_lsn FROM rf_request") == [(3,)]


def test_a_log_whose_end_is_purged_keeps_nobody_from_what_others_sent(
    main: Served, branch: World, tmp_path: Path
) -> None:
    """Main writes seldom, its log is old: who did not have all of it gets what main hands on all the same."""
    other = branch_of(main, tmp_path, "other")
    try:
        for one in (branch, other):
            sync(one)
        insert(main.world, 2, 3)
        purge_up_to(main.world, 2)
        insert(other, 7)
        sync(other)
        sync(branch)
        assert [row[0] for row in branch.rows()] == [7]
    finally:
        close_world(other)


def test_run_once_sends_again_what_its_peer_lacks(main: Served, branch: World) -> None:
    insert(branch, 1, 2, 3)
    once(branch)
    lose_in_the_middle(main.world, "here")
    assert once(branch).drained
    assert (gaps(main.world), main.world.watermark("here")) == ([], 3)


def test_run_once_beside_a_peer_of_before(main: Served, branch: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in ("HEARTBEAT_PATH", "AGAIN_PATH"):
        monkeypatch.setattr(client, path, "/sync/nothing")
    insert(main.world, 2, 3)
    assert once(branch).drained
    lose(branch, "main", 1)
    assert once(branch).drained
    assert gaps(branch) == [(0, 1)]


def test_a_peer_of_before_takes_batches_all_the_same(
    main: Served, branch: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in ("HEARTBEAT_PATH", "AGAIN_PATH"):
        monkeypatch.setattr(client, path, "/sync/nothing")
    chosen = settings_of("main", branch.node.config.peers["main"])
    insert(branch, 1)
    insert(main.world, 2, 3)
    push_to(branch.node, chosen, lambda: None)
    pull_from(branch.node, chosen)
    told(branch)
    heard(branch)
    lose(branch, "main", 1)
    ask_again(branch).close()
    assert [len(world.rows()) for world in (branch, main.world)] == [3, 3]
    assert gaps(branch) == [(0, 1)]
