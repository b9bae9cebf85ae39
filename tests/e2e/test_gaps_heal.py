"""What a queue lost comes again from its source's log, and nobody has to do anything for it."""

from __future__ import annotations

import urllib.error
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pika
import pytest

from common.transports.rabbitmq.topology import CHANGES
from common.wire.control import Request, encode_control
from tests.support.nodes import CliNode, sqlite_database, wait_until_applied
from tests.support.rabbit_server import RabbitServer
from tests.support.rabbitmq import node_user, queue, raw_channel, vhost_of
from tests.support.waiting import wait_for

CREATE = "CREATE TABLE sale (id TEXT PRIMARY KEY, price NUMERIC NOT NULL, note TEXT)"
QUICK = {"ROWFERRY_LIMITS_GAP_SECONDS": "0.5", "ROWFERRY_LIMITS_ANNOUNCE_SECONDS": "1"}
"""Minutes are what these waits are for; a test has seconds."""


@dataclass
class Shops:
    """Nodes on one broker, and what can be done to their queues behind their backs."""

    server: RabbitServer
    url: str
    folder: Path
    made: list[CliNode]

    def add(self, node_id: str, **broker: Any) -> CliNode:
        """Return a new node, migrated: its queue stands from now on."""
        folder = self.folder / node_id
        folder.mkdir()
        database = sqlite_database(folder, "app.db", ["PRAGMA journal_mode=WAL", CREATE])
        node = CliNode.init(node_id, folder, database, "--broker", self.url)
        if broker:
            text = (folder / "rowferry.toml").read_text()
            lines = "".join(f"{key} = {value}\n" for key, value in broker.items())
            (folder / "rowferry.toml").write_text(text.replace("[broker]\n", f"[broker]\n{lines}", 1))
        node.ok("migrate")
        self.made.append(node)
        return node

    def depth(self, node: CliNode) -> int:
        return int(queue(self.server, self.url, f"rowferry.node.{node.node_id}").get("messages", 0))

    def purge(self, node: CliNode, least: int) -> None:
        """Take everything out of a node's queue, once `least` messages are in it."""
        wait_for(lambda: self.depth(node) >= least, 60, f"{least} messages for {node.node_id}")
        self._call("DELETE", node, "/contents")

    def delete(self, node: CliNode) -> None:
        """Take away a node's queue."""
        self._call("DELETE", node, "")

    def _call(self, method: str, node: CliNode, what: str) -> None:
        path = f"/api/queues/{vhost_of(self.url)}/rowferry.node.{node.node_id}{what}"
        try:
            self.server.management(method, path)
        except urllib.error.HTTPError as error:
            with error:
                if error.code == 404:
                    # Deleted already, and not made anew yet.
                    return
                raise AssertionError(f"{method} {path}: {error.code} {error.read()!r}") from error


@pytest.fixture(params=["rabbitmq", "rabbitmq310"])
def shops(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shops]:
    server = request.getfixturevalue(request.param)
    url = request.getfixturevalue(f"{request.param}_url")
    made = Shops(server, url, tmp_path, [])
    yield made
    for node in made.made:
        node.close()


def sell(shop: CliNode, first: int, count: int) -> None:
    """Write `count` sales, each its own transaction."""
    for number in range(first, first + count):
        shop.execute(f"INSERT INTO sale VALUES ('s-{number}', {number}.5, NULL)", "INSERT INTO rf_mark DEFAULT VALUES")


def published(shop: CliNode) -> bool:
    """Whether the broker has confirmed the whole log."""
    ((lsn,),) = shop.query("SELECT coalesce(max(lsn), 0) FROM rf_cursor WHERE sink = 'broker'")
    return bool(lsn) and lsn == shop.head() and shop.report("status")["unsealed_changes"] == 0


def healed(shop: CliNode, office: CliNode) -> None:
    """Whatever is wrong by now is mended by the nodes themselves: no gap, no doubles, nothing set aside."""
    wait_until_applied(shop, office, timeout_seconds=60)
    assert office.rows(["sale"]) == shop.rows(["sale"])
    assert office.query("SELECT count(*) FROM rf_dead_letter") == [(0,)]
    applied = office.query("SELECT tx_id, count(*) FROM rf_audit WHERE action = 'applied' GROUP BY tx_id")
    assert {count for _, count in applied} == {1}
    assert len(applied) == shop.query("SELECT count(*) FROM rf_tx")[0][0]
    found = office.report("status")
    assert (found["gaps"], found["state"]) == ([], "up to date"), found["reasons"]


def test_a_purged_queue(shops: Shops) -> None:
    shop, office = shops.add("shop"), shops.add("office")
    other = shops.add("other")
    shop.start(**QUICK)
    sell(shop, 0, 20)
    wait_for(lambda: published(shop), 60, "the first sales on the broker")
    shops.purge(office, least=1)
    sell(shop, 20, 5)
    wait_for(lambda: published(shop), 60, "the later sales on the broker")
    office.start(**QUICK)
    healed(shop, office)

    # What was asked for went to the asker alone: the third node's queue has each tx once.
    other.ok("run", "--once")
    assert other.rows(["sale"]) == shop.rows(["sale"])
    assert other.query("SELECT count(*) FROM rf_audit WHERE action NOT IN ('applied', 'capture')") == [(0,)]
    assert [row[0] for row in office.query("SELECT source_node FROM rf_audit WHERE action = 'gap-asked'")] == ["shop"]


def test_the_last_message_before_a_silence(shops: Shops) -> None:
    shop, office = shops.add("shop"), shops.add("office")
    office.start(**QUICK)
    shop.start(**QUICK)
    sell(shop, 0, 3)
    wait_until_applied(shop, office, timeout_seconds=60, txs=3)
    assert office.runs[-1].stop() == 0
    sell(shop, 3, 1)
    wait_for(lambda: published(shop), 60, "the last sale on the broker")
    shops.purge(office, least=1)
    office.start(**QUICK)
    healed(shop, office)
    (known,) = office.report("status")["peers"]
    assert (known["node"], known["head_lsn"], known["missing"]) == ("shop", shop.head(), 0)


def test_a_node_that_comes_later(shops: Shops) -> None:
    """The log began before its queue was made, and nothing newer comes."""
    shop, first = shops.add("shop"), shops.add("first")
    shop.start(**QUICK)
    first.start(**QUICK)
    sell(shop, 0, 8)
    wait_until_applied(shop, first, timeout_seconds=60, txs=8)
    late = shops.add("late")
    late.start(**QUICK)
    healed(shop, late)


def test_a_queue_that_is_deleted_while_both_run(shops: Shops) -> None:
    shop, office = shops.add("shop"), shops.add("office")
    # Else nobody would get what is sent meanwhile, and the source would keep it.
    shops.add("other")
    office.start(**QUICK)
    shop.start(**QUICK)
    sell(shop, 0, 3)
    wait_until_applied(shop, office, timeout_seconds=60, txs=3)
    assert office.runs[-1].stop() == 0
    sell(shop, 3, 5)
    wait_for(lambda: published(shop), 60, "the sales on the broker")
    office.start(**QUICK)
    for number in range(8, 14):
        shops.delete(office)
        sell(shop, number, 1)
    healed(shop, office)


def test_a_queue_that_drops_its_head(shops: Shops) -> None:
    shop, office = shops.add("shop"), shops.add("office", queue_max_bytes=1024 * 1024)
    # Else these would come to a few KB, and nothing would be dropped.
    shop.start(**QUICK, ROWFERRY_BROKER_COMPRESSION="none")
    for number in range(24):
        note = f"{number:04}" * 25_000
        shop.execute(f"INSERT INTO sale VALUES ('s-{number}', 1, '{note}')", "INSERT INTO rf_mark DEFAULT VALUES")
    wait_for(lambda: published(shop), 60, "the sales on the broker")
    office.start(**QUICK)
    healed(shop, office)
    assert office.query("SELECT source_node FROM rf_audit WHERE action = 'gap-asked'")[0] == ("shop",)


def is_routed(channel: Any, body: bytes, properties: pika.BasicProperties) -> bool:
    try:
        channel.basic_publish(CHANGES, "default.ctl.shop", body, properties, mandatory=True)
    except pika.exceptions.UnroutableError:
        return False
    return True


def test_each_node_has_its_own_account(shops: Shops) -> None:
    """With the least rights and proven senders; who asks in another's name is not answered."""
    shop, office = shops.add("shop"), shops.add("office")
    urls = {name: node_user(shops.server, shops.url, name) for name in ("shop", "office", "thief")}
    own = {
        name: QUICK | {"ROWFERRY_BROKER_URL": urls[name], "ROWFERRY_BROKER_VERIFY_USER": "true"}
        for name in ("shop", "office")
    }
    running = shop.start(**own["shop"])
    sell(shop, 0, 5)
    wait_for(lambda: published(shop), 60, "the sales on the broker")
    shops.purge(office, least=1)
    forged = Request(
        from_node="office",
        to_node="shop",
        incarnation=shop.report("status")["incarnation"],
        after_lsn=0,
        until_lsn=5,
        asked_at="2026-01-01T00:00:00Z",
    )
    with raw_channel(urls["thief"]) as channel:
        channel.confirm_delivery()
        for user_id in (None, "thief"):
            properties = pika.BasicProperties(user_id=user_id, headers={"source_node": "office"})
            # The queue of requests may come after the first sales.
            arrives = partial(is_routed, channel, encode_control(forged), properties)
            wait_for(arrives, 60, "the shop's queue of requests")
    wait_for(lambda: running.log.read_text().count("control_refused") == 2, 60, "the thief to be refused")
    assert shop.query("SELECT * FROM rf_request WHERE direction = 'in'") == []
    office.start(**own["office"])
    healed(shop, office)
