"""Work that waits without getting on is said loudly, kept for `status`, and forgotten when it goes on."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from common.errors import OutageError
from common.ops.sending import is_running
from common.ops.stalls import Work
from common.ops.status_reading import read_standing
from common.ops.watchdog import Watchdog
from consumer.part import part as consumer_part
from consumer.waiting import others_work
from producer.cursors import Cursors
from producer.part import part as producer_part
from producer.purge import purge_log
from producer.services import build_services
from producer.waiting import own_work
from tests.integration.test_heartbeats import beat, listen
from tests.support.applying import DATABASES, Origin, World, application, close_world, open_world, sqlite_url, world_on
from tests.support.cli import document, rowferry
from tests.support.waiting import wait_for

STALL = {"limits": {"stall_seconds": 300, "announce_seconds": 60}}


@pytest.fixture(params=DATABASES)
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    with world_on(request, tmp_path, directory={"path": str(tmp_path / "exchange")}, **STALL) as made:
        yield made


class Dogs:
    """Both watchdogs of a running node, looking as the test's clock says."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.dogs = [
            self._dog(lambda: own_work(world.node)),
            self._dog(lambda: others_work(world.node, self._holdings())),
        ]

    def _dog(self, look: Callable[[], Sequence[Work]]) -> Watchdog:
        return Watchdog("dog", self.world.node.database, self.world.clock, 300, look, self._now)

    def _now(self) -> float:
        return self.world.clock.us / 1e6

    def _holdings(self) -> list[Any]:
        return [(one.source_name, one.holding) for one in self.world.intakes]

    def look_for(self, seconds: int) -> None:
        for _ in range(seconds // 10):
            self.world.clock.pass_seconds(10)
            for dog in self.dogs:
                assert dog.step(0) is False


def unpublished(world: World) -> dict[str, Any]:
    return {one["work"]: one for one in producer_part.status(world.node)["unpublished"]}


def unapplied(world: World) -> dict[str, Any]:
    return {one["work"]: one for one in consumer_part.status(world.node)["unapplied"]}


def stalls(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [getattr(one, "work", "") for one in caplog.records if one.getMessage() == "work.stalled"]


def seal(world: World) -> int:
    return world.node.database.sealer(world.node.facts).seal().last_lsn


def test_a_sealer_that_does_not_get_on(world: World, caplog: pytest.LogCaptureFixture) -> None:
    dogs = Dogs(world)
    dogs.look_for(60)
    world.execute("INSERT INTO item VALUES (1, 'a', 1)")
    dogs.look_for(280)
    assert stalls(caplog) == []
    dogs.look_for(100)
    assert stalls(caplog) == ["sealer"]
    assert unpublished(world)["sealer"]["stalled"]
    dogs.look_for(700)
    assert stalls(caplog) == ["sealer", "sealer"], "told again, and not at each look"
    seal(world)
    with caplog.at_level(logging.INFO):
        dogs.look_for(10)
    assert "work.goes_on" in [one.getMessage() for one in caplog.records]
    assert "sealer" not in unpublished(world)


def test_a_transaction_that_stays_open_is_no_stall(world: World, caplog: pytest.LogCaptureFixture) -> None:
    if world.node.database.engine.dialect.name == "sqlite":
        pytest.skip("who writes there keeps all others from writing")
    dogs = Dogs(world)
    dogs.look_for(10)
    with application(world.node.database.engine.url) as connection:
        connection.exec_driver_sql("INSERT INTO item VALUES (1, 'a', 1)")
        dogs.look_for(3600)
    dogs.look_for(10)
    assert stalls(caplog) == []
    assert unpublished(world)["sealer"]["stalled"] is False


def test_a_sink_that_does_not_get_on_keeps_so_much_of_the_log(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.execute("INSERT INTO item VALUES (1, 'a', 1)")
    lsn = seal(world)
    # By its own clock the sealer gave the id now; the node's is the test's.
    dogs = Dogs(world)
    dogs.look_for(400)
    assert stalls(caplog) == ["sink directory"]
    (sink,) = producer_part.status(world.node)["sinks"]
    assert (sink["lag_changes"], sink["kept_txs"]) == (1, 1)
    assert sink["kept_bytes"] > 0
    Cursors(world.node.database, world.node.clock).save("directory", world.node.facts.incarnation, lsn)
    (sink,) = producer_part.status(world.node)["sinks"]
    assert (sink["lag_changes"], sink["kept_txs"], sink["kept_bytes"]) == (0, 0, 0)
    assert unpublished(world) == {}


def test_nothing_waits_for_a_sink_that_is_new_when_the_log_was_purged(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """A node that has not written for long, and gets a broker: what is gone is not sent, and does not wait."""
    world.execute("INSERT INTO item VALUES (1, 'a', 1)")
    lsn = seal(world)
    Cursors(world.node.database, world.node.clock).save("directory", world.node.facts.incarnation, lsn)
    world.clock.pass_seconds(40 * 86_400)
    assert purge_log(world.node, actor="tester").rows == 1
    world.execute("DELETE FROM rf_cursor")
    assert [sink["lag_changes"] for sink in producer_part.status(world.node)["sinks"]] == [0]
    Dogs(world).look_for(400)
    assert stalls(caplog) == []
    world.execute("INSERT INTO item VALUES (2, 'b', 1)")
    seal(world)
    assert [sink["lag_changes"] for sink in producer_part.status(world.node)["sinks"]] == [1]


def test_an_intake_that_holds_messages_and_lets_none_go(world: World, caplog: pytest.LogCaptureFixture) -> None:
    a = Origin("a")
    intake = world.intake()
    dogs = Dogs(world)
    dogs.look_for(10)
    world.source.fail_ack = True
    world.source.put(a.put(1, "one", 10).body)
    for _ in range(5):
        with pytest.raises(OutageError):
            intake.step(0)
        dogs.look_for(80)
    assert stalls(caplog) == ["intake test"]
    assert unapplied(world)["intake test"]["stalled"]
    world.source.fail_ack = False
    intake.step(0)
    intake.step(0)
    dogs.look_for(10)
    assert unapplied(world) == {}


def test_what_a_peer_has_and_we_have_not(world: World, caplog: pytest.LogCaptureFixture) -> None:
    dogs = Dogs(world)
    one = Origin("a").put(1, "one", 10)
    world.receive(one.body)
    for _ in range(7):
        beat(world, 9, Origin("a").put(9, "nine", 9).tx_id, sent_lsn=1)
        listen(world)
        dogs.look_for(10)
    assert unapplied(world)["source a"]["pending"] == 8
    assert stalls(caplog) == ["source a"]


def test_a_peer_that_is_off_is_no_stall(world: World, caplog: pytest.LogCaptureFixture) -> None:
    dogs = Dogs(world)
    beat(world, 9, Origin("a").put(9, "nine", 9).tx_id, sent_lsn=0)
    listen(world)
    dogs.look_for(10)
    world.clock.pass_seconds(200)
    for _ in range(10):
        listen(world)
        dogs.look_for(100)
    assert stalls(caplog) == []
    assert unapplied(world)["source a"]["excused"] == "a is silent"


def test_a_node_that_was_stopped_for_a_night_does_not_begin_with_a_stall(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    Dogs(world).look_for(20)
    world.execute("INSERT INTO item VALUES (1, 'a', 1)")
    world.clock.pass_seconds(8 * 3600)
    assert unpublished(world)["sealer"]["stalled"], "nobody runs"
    Dogs(world).look_for(20)
    assert stalls(caplog) == []
    assert unpublished(world)["sealer"]["stalled"] is False


def test_what_stands_still_is_not_said_to_be_on_its_way(world: World) -> None:
    world.execute("INSERT INTO item VALUES (1, 'a', 1)")
    Dogs(world).look_for(20)
    shares = producer_part.status(world.node) | consumer_part.status(world.node)
    on_its_way = read_standing(world.node.database, world.node.config, world.node.facts, world.clock.us, shares)
    assert on_its_way.waiting == ["1 captured change is not sealed yet"]
    world.clock.pass_seconds(400)
    shares = producer_part.status(world.node) | consumer_part.status(world.node)
    still = read_standing(world.node.database, world.node.config, world.node.facts, world.clock.us, shares)
    assert [reason for reason in still.attention if "1 captured changes not yet sealed" in reason]
    assert still.waiting == []


def test_a_hub_that_others_come_to_is_seen_to_run(tmp_path: Path) -> None:
    hub = open_world(sqlite_url(tmp_path), server={})
    try:
        (dog,) = [one for one in build_services(hub.node, threading.Event()) if one.name == "watchdog-out"]
        dog.step(0)
        with hub.node.database.engine.connect() as connection:
            assert is_running(connection, hub.node.clock.now_us())
        assert producer_part.status(hub.node)["unpublished"] == [], "nothing waits for this node to send it"
    finally:
        close_world(hub)


@pytest.mark.parametrize(
    ("sections", "notes"),
    [
        ({"server": {}}, True),
        ({"directory": {"path": "exchange"}}, True),
        ({"server": {}, "peers": {"main": {"url": "http://127.0.0.1:1", "token_file": "token"}}}, False),
        ({"broker": {"url": "amqp://127.0.0.1:1"}}, False),
    ],
    ids=["hub", "shared folder", "peers", "broker"],
)
def test_serve_says_that_this_node_listens_only_where_its_run_does_not(
    tmp_path: Path, sections: dict[str, Any], *, notes: bool
) -> None:
    """Beside a `run` that ended it would have all who are heard by that one seem silent."""
    world = open_world(sqlite_url(tmp_path), **sections)
    try:
        names = [service.name for service in consumer_part.http(world.node, threading.Event()).services]
        assert ("listening" in names) == notes
    finally:
        close_world(world)


def test_status_check_is_an_exit_code_for_monitoring(tmp_path: Path) -> None:
    config = tmp_path / "rowferry.toml"
    config.write_text(
        f'[node]\nid = "shop"\ndatabase = "sqlite:///{tmp_path / "shop.db"}"\n'
        f'[directory]\npath = "{tmp_path / "exchange"}"\n[limits]\nstall_seconds = 0.01\n'
    )
    with application(sa.make_url(f"sqlite:///{tmp_path / 'shop.db'}")) as connection:
        connection.exec_driver_sql("CREATE TABLE item (id INTEGER PRIMARY KEY)")
    assert rowferry(config, "migrate").exit_code == 0
    assert document(config, "status", "--check")["stalled"] == []
    with application(sa.make_url(f"sqlite:///{tmp_path / 'shop.db'}")) as connection:
        connection.exec_driver_sql("INSERT INTO item VALUES (1)")
    wait_for(lambda: rowferry(config, "status", "--check").exit_code == 1, 60, "the stall to be seen")
    (stalled,) = document(config, "status", "--check", code=1)["stalled"]
    assert (stalled["work"], stalled["pending"]) == ("sealer", 1)
    assert rowferry(config, "status").exit_code == 0
    assert rowferry(config, "run", "--once").exit_code == 0
    assert document(config, "status", "--check")["stalled"] == []
    assert rowferry(config, "status", "--check", "--watch").exit_code == 2
