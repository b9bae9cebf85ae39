"""A node put back to an earlier state: noticed, fetched from the shared folder, begun anew, with nothing lost."""

from __future__ import annotations

import json
import logging
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from common.config.model import DirectorySection
from common.crash_points import CrashPoint
from common.errors import ReopenNodeError
from common.ids import TxIds
from common.transports.directory.acks import Acks, write_acks
from common.wire.control import SeenLog, encode_control
from common.wire.encode import encode_tx
from consumer.put_back import FolderWatch
from consumer.rejoining import Rejoining
from consumer.reshaped import Reshaped, ReshapedRetries
from consumer.services import build_services
from producer.cursors import Cursors
from tests.integration.test_heartbeats import heartbeat, standing
from tests.support.applying import Origin, World, close_world, item, open_world, outcomes, sqlite_url
from tests.support.applying_child import rejoin, run_child
from tests.support.nodes import CliNode
from tests.support.postgres_server import PostgresServer

SCHEMA = "CREATE TABLE sale (id INTEGER PRIMARY KEY, note TEXT)"


class Pair:
    """Two nodes that share a folder."""

    def __init__(self, folder: Path, shop_url: str | None = None) -> None:
        self.exchange = folder / "exchange"
        self.shop = self._node(folder / "shop", "shop", shop_url)
        self.main = self._node(folder / "main", "main", None)
        self.nodes = (self.shop, self.main)

    def _node(self, folder: Path, name: str, url: str | None) -> CliNode:
        folder.mkdir(parents=True)
        made = CliNode.init(name, folder, url or f"sqlite:///{folder / 'app.db'}", "--directory", str(self.exchange))
        made.execute(SCHEMA)
        made.ok("migrate")
        return made

    def sync(self) -> None:
        for _ in range(2):
            for node in self.nodes:
                node.ok("run", "--once")

    def sell(self, node: CliNode, number: int) -> None:
        node.execute(f"INSERT INTO sale VALUES ({number}, '{node.node_id}')")

    def rows(self) -> list[list[int]]:
        return [[row[0] for row in node.query("SELECT id FROM sale ORDER BY id")] for node in self.nodes]


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    made = Pair(tmp_path)
    yield made
    for node in made.nodes:
        node.close()


def back_up(node: CliNode) -> bytes:
    node.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return (node.folder / "app.db").read_bytes()


def put_back(node: CliNode, copy: bytes) -> None:
    """Write an old copy over the file, as `cp` does: its number stays."""
    for ending in ("-wal", "-shm"):
        (node.folder / f"app.db{ending}").unlink(missing_ok=True)
    (node.folder / "app.db").write_bytes(copy)


def incarnation(node: CliNode) -> str:
    return str(node.query("SELECT incarnation FROM rf_node WHERE is_self")[0][0])


def test_what_it_had_sent_comes_back_and_what_only_it_has_reaches_all(pair: Pair) -> None:
    pair.sell(pair.shop, 1)
    pair.sync()
    copy = back_up(pair.shop)
    pair.sell(pair.shop, 2)
    pair.sync()
    pair.sell(pair.shop, 3)
    pair.sell(pair.main, 10)
    pair.sync()
    assert pair.rows() == [[1, 2, 3, 10], [1, 2, 3, 10]]

    put_back(pair.shop, copy)
    pair.sell(pair.shop, 4)
    old = incarnation(pair.shop)
    done = pair.shop.report("rejoin")
    assert (done["from_incarnation"], done["to_incarnation"]) == (old, incarnation(pair.shop))
    assert old != incarnation(pair.shop)
    assert (done["fetched_txs"], done["fetched_changes"], done["missing_changes"]) == (2, 2, 0)
    assert (done["only_here_txs"], done["only_here_rows"]) == (1, 1)
    assert done["others_missing"] == {"main": 1}
    for node in pair.nodes:
        # Once: at its next turn the shop finds what main has written there again.
        node.ok("run", "--once")
    assert pair.rows() == [[1, 2, 3, 4], [1, 2, 3, 4, 10]]
    # What main wrote has gone from the folder, since all had passed it: that is said, with what fills it.
    (gap,) = pair.shop.report("status")["gaps"]
    assert (gap["peer"], gap["after_lsn"], gap["highest_lsn"]) == ("main", 0, 1)
    pair.main.ok("export-change-log", "--since", "0", "--out", str(pair.exchange / "filled.jsonl"))
    pair.shop.ok("import-change-log", str(pair.exchange / "filled.jsonl"))
    assert pair.rows() == [[1, 2, 3, 4, 10], [1, 2, 3, 4, 10]]
    for node in pair.nodes:
        status = node.report("status")
        assert (status["rewound_since"], status["dead_letters"]["forked"], status["dead_letters"]["dead"]) == (
            None,
            0,
            0,
        )
    assert pair.shop.query("SELECT count(*) FROM rf_audit WHERE action = 'rejoined'") == [(1,)]
    pair.sell(pair.shop, 5)
    pair.sync()
    assert pair.rows()[1] == [1, 2, 3, 4, 5, 10]


def test_what_others_wrote_later_is_not_overwritten(pair: Pair) -> None:
    pair.sell(pair.shop, 1)
    pair.sync()
    copy = back_up(pair.shop)
    pair.sell(pair.shop, 2)
    pair.sync()
    put_back(pair.shop, copy)
    pair.shop.execute("UPDATE sale SET note = 'forked' WHERE id = 1")
    pair.shop.ok("export-change-log", "--out", "seals.jsonl")
    pair.main.execute("UPDATE sale SET note = 'later' WHERE id = 1")
    pair.main.ok("run", "--once")
    pair.shop.ok("run", "--once", "--only", "consumer")
    done = pair.shop.report("rejoin")
    assert (done["fetched_txs"], done["only_here_txs"], done["only_here_rows"]) == (1, 1, 0)
    pair.sync()
    notes = [node.query("SELECT note FROM sale WHERE id = 1") for node in pair.nodes]
    assert notes == [[("later",)], [("later",)]]
    assert pair.rows() == [[1, 2], [1, 2]]


def test_what_can_not_be_had_is_said(pair: Pair) -> None:
    pair.sell(pair.shop, 1)
    pair.sync()
    copy = back_up(pair.shop)
    pair.sell(pair.shop, 2)
    pair.sync()
    put_back(pair.shop, copy)
    for file in (pair.exchange / "shop").glob("*.jsonl"):
        file.unlink()
    assert pair.shop.report("status")["rewound_since"] is None
    pair.shop.call("run", "--once")
    assert "rowferry rejoin" in pair.shop.report("status")["reasons"][0]
    done = pair.shop.call("rejoin")
    assert (done.returncode, "1 own change can no longer be recovered" in done.stderr) == (4, True)
    status = pair.shop.report("status")
    assert status["rewound_since"] is None
    # It stays said: the rows of both sides differ, and nothing else will tell.
    (told,) = [reason for reason in status["reasons"] if "1 own change could no longer be recovered" in reason]
    assert "rowferry verify PEER --repair --overtake" in told
    pair.sync()
    assert pair.rows() == [[1], [1, 2]]
    assert pair.shop.report("status")["state"] == "needs attention"


def test_what_it_sealed_before_it_noticed_is_written_anew_also_where_no_file_is_left(pair: Pair) -> None:
    """Others skip it as passed, and its file is deleted as passed: neither tells that only this node has it."""
    pair.sell(pair.shop, 1)
    pair.sync()
    copy = back_up(pair.shop)
    pair.sell(pair.shop, 2)
    pair.sell(pair.shop, 3)
    pair.sync()
    put_back(pair.shop, copy)
    pair.sell(pair.shop, 4)
    for file in pair.exchange.glob("*/shop.*.jsonl"):
        file.unlink()
    pair.shop.ok("run", "--once")
    for file in pair.exchange.glob("*/shop.*.jsonl"):
        file.unlink()
    done = pair.shop.report("rejoin", code=4)
    assert (done["missing_changes"], done["only_here_txs"]) == (2, 1)
    pair.sync()
    assert pair.rows() == [[1, 4], [1, 2, 3, 4]]


@pytest.mark.parametrize("is_settled_between", [True, False])
def test_what_of_others_is_missing_is_known_after_a_second_rewind_too(pair: Pair, is_settled_between: bool) -> None:
    """The first one's gap is not filled yet, and the database that told of it is put back with the rest."""
    copy = back_up(pair.shop)
    pair.sell(pair.main, 10)
    pair.sync()
    # As its writer does once all have passed it.
    for file in pair.exchange.glob("*/main.*.jsonl"):
        file.unlink()
    put_back(pair.shop, copy)
    pair.shop.ok("run", "--once", "--only", "consumer")
    if is_settled_between:
        assert pair.shop.report("rejoin")["others_missing"] == {"main": 1}
        pair.shop.ok("run", "--once")
        assert pair.shop.report("status")["rewound_since"] is None
    put_back(pair.shop, copy)
    pair.shop.ok("run", "--once")
    assert pair.shop.report("status")["rewound_since"] is not None
    assert pair.shop.report("rejoin")["others_missing"] == {"main": 1}
    # Alone: main would write there again what is lacked.
    pair.shop.ok("run", "--once")
    status = pair.shop.report("status")
    assert [(gap["peer"], gap["after_lsn"], gap["highest_lsn"]) for gap in status["gaps"]] == [("main", 0, 1)]
    assert (status["rewound_since"], status["state"]) == (None, "needs attention")
    pair.main.ok("export-change-log", "--since", "0", "--out", str(pair.exchange / "filled.jsonl"))
    pair.shop.ok("import-change-log", str(pair.exchange / "filled.jsonl"))
    pair.shop.ok("run", "--once")
    assert pair.rows() == [[10], [10]]
    assert pair.shop.report("status")["state"] == "up to date"
    assert "had" not in json.loads((pair.exchange / "shop" / "acks.json").read_text())


def test_a_rejoin_without_need_does_no_harm(pair: Pair) -> None:
    pair.sell(pair.shop, 1)
    pair.sync()
    done = pair.shop.report("rejoin")
    assert (done["fork_lsn"], done["fetched_txs"], done["only_here_txs"], done["missing_changes"]) == (None, 0, 0, 0)
    pair.sell(pair.shop, 2)
    pair.sync()
    assert pair.rows() == [[1, 2], [1, 2]]


def test_a_copied_file_is_another_node_at_its_next_start(pair: Pair, tmp_path: Path) -> None:
    """Two nodes with one id and one incarnation: the copy is seen by the number of its file."""
    pair.sell(pair.shop, 1)
    pair.sync()
    old = incarnation(pair.shop)
    clone = tmp_path / "clone"
    shutil.copytree(pair.shop.folder, clone)
    (clone / "rowferry.toml").write_text(
        (clone / "rowferry.toml").read_text().replace(str(pair.shop.folder), str(clone))
    )
    other = CliNode("shop", clone, f"sqlite:///{clone / 'app.db'}")
    other.execute("INSERT INTO sale VALUES (20, 'clone')")
    pair.sell(pair.shop, 21)
    pair.shop.ok("run", "--once")
    other.ok("run", "--once")
    assert (incarnation(pair.shop), incarnation(other) != old) == (old, True)
    pair.main.ok("run", "--once")
    assert pair.rows()[1] == [1, 20, 21]


@pytest.mark.containers
def test_a_dump_restored_elsewhere_is_another_node_at_its_next_start(
    tmp_path: Path, pg_database: str, postgres_server_b: PostgresServer
) -> None:
    elsewhere = postgres_server_b.create_database()
    pair = Pair(tmp_path, pg_database)
    try:
        pair.sell(pair.shop, 1)
        pair.sync()
        pair.sell(pair.shop, 2)
        old = incarnation(pair.shop)
        dump = tmp_path / "dump.sql"
        plain = pg_database.replace("postgresql+psycopg", "postgresql")
        subprocess.run(["pg_dump", "--no-owner", "-f", str(dump), plain], check=True, capture_output=True)
        target = elsewhere.replace("postgresql+psycopg", "postgresql")
        subprocess.run(
            ["psql", "-q", "-v", "ON_ERROR_STOP=1", "-f", str(dump), target], check=True, capture_output=True
        )
        config = pair.shop.folder / "rowferry.toml"
        config.write_text(config.read_text().replace(pg_database, elsewhere))
        pair.shop.database = elsewhere
        pair.sell(pair.shop, 3)
        pair.sync()
        assert incarnation(pair.shop) != old
        assert pair.rows() == [[1, 2, 3], [1, 2, 3]]
    finally:
        for node in pair.nodes:
            node.close()
        postgres_server_b.drop_database(elsewhere)


def own_put(world: World, number: int) -> int:
    world.execute(f"INSERT INTO item VALUES ({number}, 'own', 1)")
    return world.node.database.sealer(world.node.facts).seal().last_lsn


def hear(world: World, lsn: int, tx_id: str | None = None, incarnation: str | None = None) -> None:
    world.clock.pass_seconds(60)
    said = SeenLog(incarnation=incarnation or world.node.facts.incarnation, lsn=lsn, tx_id=tx_id)
    one = heartbeat(world, 0, seen={world.node.facts.node_id: said})
    world.receive(encode_control(one), source_node="a")


def test_it_hears_from_others_that_it_was_put_back(world: World, caplog: pytest.LogCaptureFixture) -> None:
    lsn = own_put(world, 1)
    hear(world, lsn, str(world.node.database.log(world.node.facts).head().tx_id))
    assert standing(world).rewound is None
    with caplog.at_level(logging.ERROR):
        hear(world, lsn + 5, Origin("here").put(9, "x", 9).tx_id)
        hear(world, lsn + 7)
    assert [one.getMessage() for one in caplog.records] == ["node_is_rewound"]
    (reason, *_) = standing(world).attention
    assert "rowferry rejoin" in reason
    assert str(lsn + 7) in reason


def test_it_hears_that_others_have_something_else_at_its_place(world: World) -> None:
    lsn = own_put(world, 1)
    hear(world, lsn, Origin("here").put(9, "x", 9).tx_id)
    assert standing(world).rewound is not None


def test_a_running_node_is_told_by_the_folder_that_others_have_something_else(world: World, tmp_path: Path) -> None:
    """Put back under a running node, which has sealed more by now than it lost."""
    facts, key = world.node.facts, (world.node.facts.node_id, world.node.facts.incarnation)
    own_put(world, 1)
    (tmp_path / "exchange" / "a").mkdir(parents=True)
    write_acks(tmp_path / "exchange", Acks("a", {key: 1}, tx_ids={key: world.node.database.log(facts).head().tx_id}), 1)
    section = DirectorySection(path=tmp_path / "exchange")
    node = replace(world.node, config=world.node.config.model_copy(update={"directory": section}))
    watch = next(one for one in build_services(node, threading.Event()) if isinstance(one, FolderWatch))
    watch.look()
    assert standing(world).rewound is None
    write_acks(tmp_path / "exchange", Acks("a", {key: 1}, tx_ids={key: "another"}), 1)
    watch.look()
    assert standing(world).rewound is not None


def test_parked_batches_are_applied_once_their_source_has_begun_anew(world: World) -> None:
    a = Origin("a")
    world.receive(a.put(1, "one", 10).body, a.put(2, "two", 11).body)
    forked = Origin("a", lsn=1, made=7).tx(item(3, "three", 20))
    world.receive(forked.body)
    assert world.letters() == [(forked.tx_id, "forked", "forked")]
    reshaped = Reshaped(world.node)
    assert reshaped.follow_up() == []
    world.receive(Origin("a", incarnation="inc2", made=20).put(4, "four", 30).body)
    assert outcomes(reshaped.follow_up()) == ["applied"]
    assert reshaped.follow_up() == []
    assert [row[1] for row in world.rows()] == ["one", "two", "three", "four"]
    assert world.letters_open() == []


def test_they_are_on_a_hub_too_that_others_come_to(tmp_path: Path) -> None:
    """There `serve` takes what comes, and `run` has no source of its own."""
    hub = open_world(sqlite_url(tmp_path), server={})
    try:
        a = Origin("a")
        hub.receive(a.put(1, "one", 10).body, a.put(2, "two", 11).body)
        hub.receive(Origin("a", lsn=1, made=7).tx(item(3, "three", 20)).body)
        hub.receive(Origin("a", incarnation="inc2", made=20).put(4, "four", 30).body)
        assert [state for _, state, _ in hub.letters()] == ["forked"]
        (retries,) = [one for one in build_services(hub.node, threading.Event()) if isinstance(one, ReshapedRetries)]
        retries.step(0)
        assert [row[1] for row in hub.rows()] == ["one", "two", "three", "four"]
        assert hub.letters_open() == []
    finally:
        close_world(hub)


def test_without_a_folder_it_goes_by_what_it_heard(world: World, tmp_path: Path) -> None:
    """Others have had a tx at LSN 2 that is not here; another one is there."""
    node = world.node
    own_put(world, 1)
    (first,) = node.database.log(node.facts).read(0, 1 << 20)
    sent = [part.body for part in encode_tx(first)]
    lost = Origin("here", incarnation=node.facts.incarnation, lsn=1).put(9, "lost", 99)
    # Younger than the first one, and older than whatever is sealed from now on.
    lost = replace(lost, header=msgspec.structs.replace(lost.header, tx_id=TxIds(first.header.tx_id).next(0)))
    own_put(world, 2)
    fork = node.database.log(node.facts).head().tx_id
    Cursors(node.database, node.clock).save("broker", node.facts.incarnation, 2)
    hear(world, 2, lost.tx_id)
    done = Rejoining(node, "tester").run(lambda _: None)
    assert (done.seen_lsn, done.fork_lsn, done.missing_changes) == (2, 2, 1)
    assert (done.only_here_txs, done.only_here_rows) == (1, 1)
    assert standing(world).rewound is None
    renewed = replace(node.facts, incarnation=done.to_incarnation)
    (anew,) = node.database.log(renewed).read(0, 1 << 20)
    assert anew.header.tx_id not in (first.header.tx_id, fork)

    other = open_world(sqlite_url(tmp_path, "other.db"), node_id="other")
    try:
        other.receive(*sent, lost.body, *(part.body for part in encode_tx(anew)))
        assert [row[0] for row in other.rows()] == [1, 2, 9]
        assert other.letters() == []
    finally:
        close_world(other)
    again = Rejoining(replace(node, facts=renewed), "tester").run(lambda _: None)
    assert (again.fork_lsn, again.only_here_rows, again.missing_changes) == (None, 0, 0)
    assert (done.is_told, again.is_told) == (True, False)


def test_what_a_running_node_writes_and_would_seal_meanwhile_is_not_lost(world: World) -> None:
    """An operator forgot to stop `run`: its sealer must not go on in the log that ends."""
    node = world.node
    own_put(world, 1)
    (first,) = node.database.log(node.facts).read(0, 1 << 20)
    own_put(world, 2)
    hear(world, 2, TxIds(first.header.tx_id).next(0))
    running = node.database.sealer(node.facts)
    refused: list[str] = []

    def meanwhile(_: int) -> None:
        world.execute("INSERT INTO item VALUES (3, 'three', 3)")
        try:
            running.seal()
        except ReopenNodeError as error:
            refused.append(str(error))

    done = Rejoining(node, "tester").run(meanwhile)
    renewed = node.database.log(replace(node.facts, incarnation=done.to_incarnation))
    anew = [json.loads(line)["pk"]["id"] for tx in renewed.read(0, 1 << 20) for line in tx.lines()]
    assert sorted(anew) == [2, 3]
    assert len(refused) == 1


def test_killed_on_its_way_it_goes_on(world: World) -> None:
    node = world.node
    own_put(world, 1)
    hear(world, 1, str(node.database.log(node.facts).head().tx_id))
    (first,) = node.database.log(node.facts).read(0, 1 << 20)
    own_put(world, 2)
    hear(world, 2, TxIds(first.header.tx_id).next(0))
    url = node.config.node.database
    assert run_child(rejoin, url, CrashPoint.AFTER_COMMIT.value) == -signal.SIGKILL
    assert standing(world).rewound is not None
    assert run_child(rejoin, url) == 0
    assert standing(world).rewound is None
    old = node.facts.incarnation
    later = world.query(f"SELECT DISTINCT incarnation FROM rf_tx WHERE incarnation <> '{old}'")
    logs = [node.database.log(replace(node.facts, incarnation=name)) for (name,) in later]
    anew = [json.loads(line)["pk"]["id"] for log in logs for tx in log.read(0, 1 << 20) for line in tx.lines()]
    assert ([row[0] for row in world.rows()], anew) == ([1, 2], [2])
    assert world.one("SELECT count(*) FROM rf_audit WHERE action = 'rejoined'") == 1


@pytest.fixture
def put_back_shop(pair: Pair) -> CliNode:
    """A node whose file was put back: what it has written to `later.jsonl` since is not in its log."""
    shop = pair.shop
    pair.sell(shop, 1)
    shop.ok("export-change-log", "--out", "early.jsonl")
    copy = back_up(shop)
    pair.sell(shop, 2)
    shop.ok("export-change-log", "--out", "later.jsonl")
    put_back(shop, copy)
    return shop


@pytest.mark.parametrize("command", [["import-change-log"], ["pull", "--file"], ["import-change-log", "--strict"]])
def test_a_file_with_more_of_its_own_log_tells_it(put_back_shop: CliNode, command: list[str]) -> None:
    shop = put_back_shop
    shop.ok(*command, str(shop.folder / "early.jsonl"))
    dry = shop.report(*command, "later.jsonl", "--dry-run")
    assert [one["check"] for one in dry["findings"]] == ["rewound"]
    assert shop.report("status")["rewound_since"] is None
    done = shop.call(*command, "later.jsonl")
    assert (done.returncode, "rowferry rejoin" in done.stderr) == (4, True), done.stderr
    assert "LSN 2" in done.stderr
    assert shop.report("status")["rewound_since"] is not None
    assert shop.query("SELECT count(*) FROM rf_audit WHERE action = 'rewound'") == [(1,)]


def test_a_file_with_another_tx_at_its_place_tells_it(put_back_shop: CliNode) -> None:
    """It wrote on under the LSN that it had given before."""
    shop = put_back_shop
    shop.execute("INSERT INTO sale VALUES (3, 'fork'), (4, 'fork')")
    shop.ok("export-change-log", "--out", "fork.jsonl")
    shop.ok("import-change-log", "fork.jsonl")
    shop.ok("import-change-log", "later.jsonl", code=4)
    assert shop.report("status")["rewound_since"] is not None


def test_after_a_rejoin_a_file_of_before_is_no_news(put_back_shop: CliNode) -> None:
    shop = put_back_shop
    shop.ok("import-change-log", "later.jsonl", code=4)
    old = incarnation(shop)
    # As `export-change-log` names files in a folder; there `rejoin` finds it.
    in_folder = shop.folder.parent / "exchange" / "shop" / f"shop.{old}.{1:020}-{2:020}.jsonl"
    in_folder.parent.mkdir(exist_ok=True, parents=True)
    shutil.copy(shop.folder / "later.jsonl", in_folder)
    assert shop.report("rejoin")["fetched_txs"] == 1
    assert [row[0] for row in shop.query("SELECT id FROM sale ORDER BY id")] == [1, 2]
    shop.ok("import-change-log", "later.jsonl")
    assert shop.report("status")["rewound_since"] is None


@pytest.mark.parametrize("writer", ["shop", "main"])
def test_its_own_files_in_the_folder_tell_it_at_the_start(put_back_shop: CliNode, writer: str) -> None:
    shop = put_back_shop
    folder = shop.folder.parent / "exchange" / writer
    folder.mkdir(exist_ok=True, parents=True)
    shutil.copy(shop.folder / "later.jsonl", folder / f"shop.{incarnation(shop)}.{1:020}-{2:020}.jsonl")
    shop.ok("run", "--once", "--only", "consumer")
    assert shop.report("status")["rewound_since"] is not None


@pytest.mark.parametrize("first", [[], ["export-change-log", "--out", "again.jsonl"]])
def test_what_was_written_since_does_not_hide_that_it_was_put_back(pair: Pair, first: list[str]) -> None:
    """More than was lost: once that is sealed, the log's end lies above all that others have had of it."""
    pair.sell(pair.shop, 1)
    pair.sync()
    copy = back_up(pair.shop)
    pair.sell(pair.shop, 2)
    pair.sync()
    put_back(pair.shop, copy)
    for number in range(3, 7):
        pair.sell(pair.shop, number)
    if first:
        pair.shop.ok(*first)
    pair.shop.ok("run", "--once")
    assert pair.shop.report("status")["rewound_since"] is not None
    # It parks what it can't place.
    pair.main.ok("run", "--once", code=4)
    pair.shop.ok("rejoin")
    pair.sync()
    assert pair.rows() == [[1, 2, 3, 4, 5, 6]] * 2
    assert pair.shop.report("status")["rewound_since"] is None


def own_body(world: World, lsn: int) -> bytes:
    return Origin("here", incarnation=world.node.facts.incarnation, lsn=lsn - 1).put(9, "own", 9).body


def test_an_own_batch_that_comes_by_any_way_tells_it(world: World, caplog: pytest.LogCaptureFixture) -> None:
    lsn = own_put(world, 1)
    (first,) = world.node.database.log(world.node.facts).read(0, 1 << 20)
    world.receive(*(part.body for part in encode_tx(first)), source_node="a")
    assert standing(world).rewound is None
    with caplog.at_level(logging.ERROR):
        world.receive(own_body(world, lsn + 1), own_body(world, lsn + 2), source_node="a")
    assert [one.getMessage() for one in caplog.records] == ["node_is_rewound"]
    (reason, *_) = standing(world).attention
    assert f"LSN {lsn + 2}" in reason


def test_who_may_not_hand_on_tells_a_node_nothing_of_its_log(world: World) -> None:
    lsn = own_put(world, 1)
    world.receive(own_body(world, lsn + 1), source_node="a", verified=True, may_forward=False)
    assert standing(world).rewound is None


@pytest.mark.parametrize("is_settled_between", [True, False])
def test_what_was_written_between_two_restores_of_one_backup_comes_back(pair: Pair, is_settled_between: bool) -> None:
    pair.sell(pair.shop, 1)
    pair.sync()
    backup = str(pair.shop.folder / "backup")
    pair.shop.ok("backup", backup)
    pair.sell(pair.shop, 2)
    pair.sync()
    pair.shop.ok("restore", backup, "--discard-present")
    if is_settled_between:
        pair.shop.ok("rejoin")
    pair.sell(pair.shop, 3)
    pair.sync()
    pair.shop.ok("restore", backup, "--discard-present")
    pair.sell(pair.shop, 4)
    pair.sync()
    done = pair.shop.report("rejoin")
    # That life began and ended after the backup: nothing in it tells that it ever was.
    assert (done["fetched_txs"], done["missing_changes"]) == (2, 0)
    pair.sync()
    assert pair.rows() == [[1, 2, 3, 4], [1, 2, 3, 4]]
    assert pair.shop.report("status")["rewound_since"] is None


def test_what_is_lost_of_two_logs_that_are_here_comes_back_at_one_rejoin(pair: Pair) -> None:
    """A backup was restored and the node went on without `rejoin`; then its file was put back within the new log."""
    pair.sell(pair.shop, 1)
    pair.sync()
    backup = str(pair.shop.folder / "backup")
    pair.shop.ok("backup", backup)
    pair.sell(pair.shop, 2)
    pair.sync()
    pair.shop.ok("restore", backup, "--discard-present")
    pair.sell(pair.shop, 3)
    pair.shop.ok("run", "--once")
    copy = back_up(pair.shop)
    pair.sell(pair.shop, 4)
    pair.sync()
    put_back(pair.shop, copy)
    pair.shop.ok("run", "--once")
    assert pair.shop.report("status")["rewound_since"] is not None
    done = pair.shop.report("rejoin")
    assert (done["fetched_txs"], done["missing_changes"]) == (2, 0)
    pair.sync()
    assert pair.rows() == [[1, 2, 3, 4], [1, 2, 3, 4]]
    status = pair.shop.report("status")
    assert (status["rewound_since"], status["state"]) == (None, "up to date")


def test_a_copy_that_runs_beside_its_original_is_told_on_both(pair: Pair, tmp_path: Path) -> None:
    pair.sell(pair.shop, 1)
    pair.sync()
    shutil.copytree(pair.shop.folder, tmp_path / "copy")
    copy = CliNode("shop", tmp_path / "copy", f"sqlite:///{tmp_path / 'copy' / 'app.db'}")
    config = copy.folder / "rowferry.toml"
    config.write_text(config.read_text().replace(pair.shop.database, copy.database))
    pair.sell(copy, 2)
    pair.sell(pair.shop, 3)
    for node in (copy, pair.shop, pair.main, copy, pair.shop):
        node.ok("run", "--once")
    assert [node.report("status")["rewound_since"] is not None for node in (copy, pair.shop)] == [True, True]
    # Without the copy the node has it all once it has begun anew, and nothing more is said.
    assert pair.shop.report("rejoin")["fetched_txs"] == 1
    pair.sync()
    assert pair.rows() == [[1, 2, 3], [1, 2, 3]]
    assert pair.shop.report("status")["rewound_since"] is None


def test_what_comes_back_under_the_numbers_of_what_only_it_has_stops_nothing(pair: Pair) -> None:
    """Both are of one log and one LSN, and the node hands others' batches on through the folder."""
    pair.shop.configure("[node]", "forward = true")
    pair.sell(pair.shop, 1)
    pair.sync()
    copy = back_up(pair.shop)
    for number in (2, 3):
        pair.sell(pair.shop, number)
        pair.shop.ok("run", "--once")
    *_, first, last = sorted(pair.exchange.glob("shop/shop.*.jsonl"))
    lost = {first: first.read_bytes(), last: last.read_bytes()}
    put_back(pair.shop, copy)
    for file in lost:
        file.unlink()
    pair.sell(pair.shop, 4)
    pair.shop.ok("run", "--once")
    # As the other copy of the node would have put them there, both in one file.
    both = last.name.replace(last.name.split(".")[2], f"{2:020d}-{3:020d}")
    (pair.exchange / "shop" / both).write_bytes(lost[first] + lost[last])
    pair.shop.ok("run", "--once", "--only", "consumer")
    assert pair.shop.report("rejoin")["fetched_txs"] == 2
    pair.shop.ok("run", "--once")
    # Parked first, then applied by the versions of its rows.
    pair.main.ok("run", "--once", code=4)
    pair.sync()
    assert pair.rows() == [[1, 2, 3, 4], [1, 2, 3, 4]]


def test_a_file_of_what_it_has_lost_in_its_way_names_the_remedy(pair: Pair) -> None:
    """`run --once` ends with it, and `status` tells what the folder told at the start."""
    copy = back_up(pair.shop)
    pair.sell(pair.shop, 1)
    pair.shop.ok("run", "--once")
    put_back(pair.shop, copy)
    pair.sell(pair.shop, 2)
    refused = pair.shop.call("run", "--once")
    assert (refused.returncode, "`rowferry rejoin`" in refused.stderr.splitlines()[-1]) == (5, True)
    assert "run rowferry rejoin" in pair.shop.report("status")["reasons"][0]
    pair.shop.ok("rejoin")
    pair.sync()
    assert pair.rows() == [[1, 2], [1, 2]]


def test_a_life_that_nobody_can_give_back_is_said_to_be_lost(world: World) -> None:
    """Without a folder: others' heartbeats tell of it, `rejoin` says how much it was, and then it is no news."""
    hear(world, 7, incarnation="of-another-life")
    assert standing(world).rewound is not None
    done = Rejoining(world.node, "test").run(lambda _: None)
    assert (done.fetched_txs, done.missing_changes) == (0, 7)
    hear(world, 7, incarnation="of-another-life")
    assert standing(world).rewound is None
    hear(world, 8, incarnation="of-another-life")
    assert standing(world).rewound is not None
    done = Rejoining(world.node, "test").run(lambda _: None)
    assert done.missing_changes == 1


def test_what_was_written_after_a_backup_of_an_empty_log_is_said_to_be_lost(world: World) -> None:
    """Nothing of that log came with the backup, which still is the one that the node goes by."""
    world.execute("UPDATE rf_node SET rewound_us = 1, head_incarnation = 'of-the-backup', head_lsn = 0 WHERE is_self")
    hear(world, 7, incarnation="of-the-backup")
    done = Rejoining(world.node, "test").run(lambda _: None)
    assert (done.seen_lsn, done.missing_changes) == (7, 7)
    hear(world, 7, incarnation="of-the-backup")
    assert standing(world).rewound is None


def test_status_names_the_log_that_the_news_is_about(world: World) -> None:
    """The log that is here has been settled, further than the other one goes."""
    own_put(world, 1)
    hear(world, 20)
    assert Rejoining(world.node, "test").run(lambda _: None).missing_changes == 19
    hear(world, 3, incarnation="of-another-life")
    (reason, *_) = standing(world).attention
    assert "up to LSN 3" in reason
    assert "LSN 20" not in reason
    hear(world, 20)
    assert Rejoining(world.node, "test").run(lambda _: None).missing_changes == 3
    assert world.one("SELECT sum(rows) FROM rf_purged WHERE what = 'own-lost'") == 19 + 3


def test_what_an_earlier_release_has_settled_stays_settled(world: World) -> None:
    """It kept that of one log alone, where others are told of now."""
    own_put(world, 1)
    of = world.node.facts.incarnation
    world.execute(f"UPDATE rf_node SET head_incarnation = '{of}', head_lsn = 5 WHERE node_id = 'here'")
    hear(world, 5)
    assert standing(world).rewound is None
    hear(world, 7, incarnation="of-another-life")
    hear(world, 5)
    (reason, *_) = standing(world).attention
    assert "LSN 5" not in reason
    assert Rejoining(world.node, "test").run(lambda _: None).missing_changes == 7
    hear(world, 5)
    assert standing(world).rewound is None


def test_a_log_of_before_that_is_purged_is_not_taken_for_a_shorter_one(world: World) -> None:
    lsn, of = own_put(world, 1), world.node.facts.incarnation
    Rejoining(world.node, "test").run(lambda _: None)
    world.execute("DELETE FROM rf_purged WHERE what = 'own-settled'", "DELETE FROM rf_tx")
    world.execute(
        "INSERT INTO rf_purged (what, name, until_lsn, purged_us, rows)"
        f" VALUES ('log', '{of}', {lsn}, {world.clock.now_us()}, 1)"
    )
    hear(world, lsn, incarnation=of)
    assert standing(world).rewound is None


def test_a_snapshot_brings_what_a_lost_life_had_written(pair: Pair) -> None:
    """`rejoin` and `status` name it as the remedy: it must not be refused because of that life."""
    pair.sell(pair.shop, 1)
    pair.sync()
    backup = str(pair.shop.folder / "backup")
    pair.shop.ok("backup", backup)
    pair.shop.ok("restore", backup, "--discard-present")
    pair.sell(pair.shop, 2)
    pair.sync()
    for file in pair.exchange.glob("*/shop.*.jsonl"):
        file.unlink()
    pair.shop.ok("restore", backup, "--discard-present")
    done = pair.shop.call("rejoin")
    assert done.returncode == 4
    assert "1 own change can no longer be recovered" in done.stderr
    snapshot = str(pair.main.folder / "main.jsonl")
    pair.main.ok("snapshot", "export", "--out", snapshot)
    pair.shop.ok("snapshot", "import", snapshot, "--replace")
    assert pair.rows() == [[1, 2], [1, 2]]
