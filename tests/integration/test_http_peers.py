"""The ways to and from a peer: where they begin, whom they trust, what is kept for others and for how long."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from common.config.model import Config
from common.errors import ConfigError, OutageError
from common.http.scopes import Scope
from common.ports.sink import Envelope
from common.runtime.transports import source_factories
from common.transports.directory.reader import DirectorySource
from common.transports.directory.writer import DirectorySink
from common.transports.http.answers import PeerState
from common.transports.http.client import RefusedError
from common.transports.http.peer import is_trusted, open_peer_sink, open_peer_source
from common.transports.http.settings import PeerSettings, settings_of
from consumer.pulls import PullPlace
from producer.forwarding import forwarding
from producer.part import part as producer
from producer.relay import Relay
from producer.relay_cleaning import RelayCleaning
from producer.relay_log import Readers, RelayLog
from producer.sealer import SealerService
from tests.support.applying import Origin, World, close_world, item, open_world, sqlite_url
from tests.support.web import Served, served

A_DAY = 86_400


@pytest.fixture
def main(tmp_path: Path) -> Iterator[Served]:
    (tmp_path / "main").mkdir()
    url = sqlite_url(tmp_path / "main")
    node = {"id": "main", "database": url, "role": "main"}
    with served(url, node=node, limits={"relay_max_bytes": 1024 * 1024}) as one:
        yield one


@pytest.fixture
def branch(tmp_path: Path) -> Iterator[World]:
    (tmp_path / "branch").mkdir()
    world = open_world(sqlite_url(tmp_path / "branch"))
    yield world
    close_world(world)


def settings(main: Served, *scopes: Scope, name: str | None = "main", **more: object) -> PeerSettings:
    return PeerSettings(main.url, name, main.token("here", *scopes), "zstd", **more)  # type: ignore[arg-type]


@dataclass
class Kept:
    """A place kept in memory."""

    cursor: str | None = None

    def load(self) -> str | None:
        return self.cursor

    def save(self, cursor: str) -> None:
        self.cursor = cursor


def push(main: Served, *bodies: bytes) -> None:
    with main.client(main.token("hub", Scope.FORWARD)) as client:
        assert client.post("/sync/push", content=b"".join(bodies)).status_code == 200


def test_a_mark_is_kept_once_all_of_an_answer_is_acknowledged(main: Served, branch: World) -> None:
    chosen, kept = settings(main), Kept()
    large = Origin("a").tx(*(item(100 + number, "x" * 4000, number + 1) for number in range(2500)))
    push(main, *large.parts(1024 * 1024))
    source = open_peer_source(chosen, branch.node.config, kept, None)
    deliveries = source.receive(500, 0)
    assert len(deliveries) > 1
    source.ack(deliveries[:-1])
    assert kept.cursor is None
    assert source.receive(500, 0) == []
    source.close()
    again = open_peer_source(chosen, branch.node.config, kept, None)
    assert [one.body for one in again.receive(500, 0)] == [one.body for one in deliveries]
    again.give_back(deliveries, failed=False)
    taken = again.receive(500, 0)
    again.ack(taken)
    assert kept.cursor is not None
    assert again.receive(500, 0) == []
    again.close()
    again.close()


def test_of_a_peer_that_is_not_trusted_only_its_own_batches_are_asked_for(main: Served, branch: World) -> None:
    main.token("b", Scope.PULL)
    main.world.execute("INSERT INTO item VALUES (1, 'mine', 1)")
    push(main, Origin("a").put(9, "nine", 10).body)
    for trusted, expected in ((False, {"main"}), (None, {"main", "a"})):
        chosen = settings(main, is_trusted_forwarder=trusted)
        source = open_peer_source(chosen, branch.node.config, Kept(), None)
        bodies = b"".join(one.body for one in source.receive(500, 0))
        source.close()
        assert {name for name in ("main", "a") if f'"source_node":"{name}"'.encode() in bodies} == expected


def test_a_branch_trusts_the_main_node_and_nobody_else_by_itself(main: Served, branch: World) -> None:
    source = open_peer_source(settings(main), branch.node.config, Kept(), None)
    source.close()
    config = branch.node.config
    as_main = Config.model_validate(config.model_dump() | {"node": config.node.model_dump() | {"role": "main"}})
    state = PeerState(node="main", role="main", incarnation="i", head_lsn=0, peers=())
    plain = PeerSettings("http://127.0.0.1", "main")
    assert is_trusted(plain, state, config, None)
    assert is_trusted(plain, state, config, "main")
    assert not is_trusted(plain, state, config, "else")
    assert not is_trusted(plain, state, as_main, None)
    assert is_trusted(PeerSettings("http://127.0.0.1", "main", is_trusted_forwarder=True), state, as_main, None)


@pytest.mark.parametrize("is_named", [True, False])
def test_once_main_is_known_nobody_else_hands_on_by_calling_himself_main(
    main: Served, branch: World, tmp_path: Path, *, is_named: bool
) -> None:
    token_file = tmp_path / "main.token"
    token_file.write_text(main.token("here", Scope.PULL))
    token_file.chmod(0o600)
    push(main, Origin("a").put(9, "nine", 10).body)
    tree = branch.node.config.model_dump()
    tree["peers"] = {"main": {"url": main.url, "token_file": token_file}}

    def given() -> bytes:
        node = replace(branch.node, config=Config.model_validate(tree))
        source = source_factories(node, lambda _: {}, lambda _: Kept())["http-main"]()
        with closing(source):
            return b"".join(one.body for one in source.receive(500, 0))

    assert b'"source_node":"a"' in given()
    if is_named:
        tree["node"]["main"] = "office"
    else:
        columns = "(node_id, role, incarnation, is_self, first_seen_us, last_seen_us)"
        branch.execute(f"INSERT INTO rf_node {columns} VALUES ('office', 'main', 'i', false, 1, 1)")
    assert given() == b""


def test_who_answers_must_be_who_is_meant(main: Served, branch: World) -> None:
    with pytest.raises(ConfigError, match=r"peers\.other\.url.*'main'"):
        open_peer_sink(settings(main, name="other"), branch.node.facts)
    with pytest.raises(ConfigError, match="this node itself"):
        open_peer_sink(settings(main), main.world.node.facts)
    with pytest.raises(RefusedError, match="not one of this node's"):
        open_peer_sink(PeerSettings(main.url, "main", "nonsense"), branch.node.facts)
    with pytest.raises(OutageError):
        open_peer_sink(PeerSettings("http://127.0.0.1:1", "main", "x"), branch.node.facts)


def test_a_token_is_not_shown_to_another_machine_without_tls(tmp_path: Path) -> None:
    config = Config.model_validate(
        {
            "node": {"id": "a", "database": "sqlite:///a.db"},
            "peers": {"main": {"url": "http://main.example"}, "near": {"url": "http://10.0.0.1", "plain_http": True}},
        }
    )
    with pytest.raises(ConfigError, match=r"peers\.main\.plain_http"):
        settings_of("main", config.peers["main"])
    assert settings_of("near", config.peers["near"]).url == "http://10.0.0.1"


def relay(main: Served, branch: World, folder: Path) -> Relay:
    """The branch's way to main, as `run` builds it."""
    token = folder / "main.token"
    token.write_text(main.token("here"))
    token.chmod(0o600)
    peers = {"main": {"url": main.url, "token_file": str(token)}}
    config = Config.model_validate(branch.node.config.model_dump(exclude_unset=True) | {"peers": peers})
    services = producer.services(replace(branch.node, config=config), threading.Event())
    (found,) = [one for one in services if isinstance(one, Relay)]
    return found


def drain(service: Relay) -> None:
    while service.step(0):
        pass
    service.close()


def test_what_a_peer_has_lost_is_sent_again(main: Served, branch: World, tmp_path: Path) -> None:
    branch.execute("INSERT INTO item VALUES (1, 'one', 1)")
    sealer = SealerService(branch.node, [], threading.Event())
    sealer.step(0)
    drain(relay(main, branch, tmp_path))
    assert [row[1] for row in main.world.rows()] == ["one"]
    # As far as the branch can tell, main was put back to before the push.
    main.world.execute("DELETE FROM rf_applied_tx", "DELETE FROM rf_sync_state")
    drain(relay(main, branch, tmp_path))
    assert main.world.one("SELECT count(*) FROM rf_applied_tx") == 1
    assert main.world.watermark("here") == 1


def test_a_node_that_was_put_back_learns_of_it_at_first_contact(main: Served, branch: World, tmp_path: Path) -> None:
    main.world.execute(
        "INSERT INTO rf_sync_state (peer, direction, incarnation, last_lsn, highest_lsn, updated_us)"
        f" VALUES ('here', 'in', '{branch.node.facts.incarnation}', 7, 7, 1)"
    )
    service = relay(main, branch, tmp_path)
    service.step(0)
    service.close()
    assert branch.one("SELECT rewound_us FROM rf_node WHERE is_self") is not None
    assert branch.one("SELECT count(*) FROM rf_audit WHERE action = 'rewound'") == 1


def test_what_came_otherwise_is_written_into_the_shared_folder(tmp_path: Path) -> None:
    folder, url = tmp_path / "exchange", sqlite_url(tmp_path)
    folder.mkdir()
    node = {"id": "main", "database": url, "role": "main"}
    world = open_world(url, node=node, directory={"path": str(folder)})
    a, b = Origin("a").put(1, "one", 10), Origin("b").put(2, "two", 20)
    world.receive(a.body, origin="http:a")
    world.receive(b.body, origin=str(folder / "b" / "file.jsonl"))
    onward, cleaning = forwarding(world.node, threading.Event())
    assert (onward.name, cleaning.name) == ("forward-directory", "relay-cleaning")
    while onward.step(0):
        pass
    onward.close()
    (file,) = (folder / "main").glob("*.jsonl")
    assert file.name.startswith("a.inc1.")
    assert file.read_bytes() == a.body
    close_world(world)


def test_what_came_by_the_shared_folder_is_not_written_there_again(tmp_path: Path) -> None:
    folder, url = tmp_path / "exchange", sqlite_url(tmp_path)
    tx = Origin("a").put(1, "one", 10)
    sink = DirectorySink(folder, "a", create_root=True)
    sink.send(Envelope(tx.body, "a", "inc1", 1, 1, tx.header.tx_id, closes_lsn=1))
    node = {"id": "main", "database": url, "role": "main"}
    world = open_world(url, node=node, directory={"path": str(folder)})
    source = DirectorySource(folder, "main")
    (delivery,) = source.receive(10, 1)
    world.receive(delivery.body, origin=delivery.origin, source_node="a")
    assert [row[1] for row in world.rows()] == ["one"]
    assert world.one("SELECT count(*) FROM rf_relay") == 0
    source.close()
    close_world(world)


def test_a_hub_pushes_what_it_hands_on_to_its_peers(main: Served, tmp_path: Path) -> None:
    (tmp_path / "hub").mkdir()
    token = tmp_path / "main.token"
    token.write_text(main.token("hub", Scope.PUSH, Scope.FORWARD))
    token.chmod(0o600)
    url = sqlite_url(tmp_path / "hub")
    node = {"id": "hub", "database": url, "forward": True}
    hub = open_world(url, node=node, peers={"main": {"url": main.url, "token_file": str(token)}})
    hub.receive(Origin("a").put(1, "one", 10).body, Origin("main").put(2, "its own", 20).body)
    onward, _ = forwarding(hub.node, threading.Event())
    while onward.step(0):
        pass
    onward.close()
    assert [row[1] for row in main.world.rows()] == ["one"]
    assert Readers(hub.node.database, hub.node.clock, hub.node.facts.incarnation).load("push:main") == 2
    close_world(hub)


def test_nothing_is_kept_while_nobody_could_want_it(branch: World, tmp_path: Path) -> None:
    url = sqlite_url(tmp_path, "hub.db")
    world = open_world(url, node={"id": "hub", "database": url, "role": "main"})
    world.receive(Origin("a").put(1, "one", 10).body)
    assert RelayLog(world.node.database).head() == 0
    close_world(world)
    branch.receive(Origin("a").put(1, "one", 10).body)
    assert RelayLog(branch.node.database).head() == 0


def test_what_all_have_taken_goes_after_a_day_and_the_rest_by_age(main: Served) -> None:
    node = main.world.node
    cleaning = RelayCleaning(node, threading.Event())
    main.token("c", Scope.PULL)
    push(main, Origin("a").put(1, "one", 10).body)
    main.world.clock.pass_seconds(A_DAY + 1)
    assert cleaning.clean() == 0
    reader = Readers(node.database, node.clock, node.facts.incarnation)
    reader.save("pull:c", 1)
    assert cleaning.clean() == 1
    push(main, Origin("a").put(1, "one", 10).body, Origin("d").put(3, "three", 30).body)
    main.world.clock.pass_seconds(A_DAY + 1)
    assert cleaning.clean() == 0
    columns = "node_id, role, incarnation, is_self, first_seen_us, last_seen_us, retired_us"
    main.world.execute(f"INSERT INTO rf_node ({columns}) VALUES ('c', 'branch', 'i', false, 1, 1, 1)")
    assert cleaning.clean() == 1
    push(main, Origin("b").put(2, "two", 20).body)
    main.world.clock.pass_seconds(31 * A_DAY)
    assert cleaning.clean() == 0, "the clock may have been wrong before, or be wrong now"
    gone = []
    for _ in range(31):
        main.world.clock.pass_seconds(A_DAY)
        gone.append(cleaning.clean())
    assert sum(gone) == 1


def test_too_much_goes_from_the_oldest_on(main: Served) -> None:
    main.token("c", Scope.PULL)
    a = Origin("a")
    for number in range(5):
        push(main, a.tx(*(item(1000 * number + row, "x" * 3000, row + 1) for row in range(100))).body)
    cleaning = RelayCleaning(main.world.node, threading.Event())
    kept = RelayLog(main.world.node.database)
    assert cleaning.clean() > 0
    left = kept.read(0, 100, 2**40)
    assert [tx.seq for tx in left] == sorted(tx.seq for tx in left)
    assert left[-1].seq == kept.head()
    assert 0 < sum(tx.bytes for tx in left) <= 1024 * 1024
    assert cleaning.clean() == 0
    assert PullPlace(main.world.node, "x").load() is None
