"""`topology export` imported into real brokers, nodes with users of their own on it, and `topology check`."""

from __future__ import annotations

import base64
import json
import logging
import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pika
import pika.exceptions
import pytest
import sqlalchemy as sa

from common.transports.rabbitmq.topology import QueueSpec, queues
from tests.support.cli import document, rowferry
from tests.support.container_server import PASSWORD, USER
from tests.support.nodes import CliNode
from tests.support.rabbit_server import RabbitServer
from tests.support.rabbitmq import raw_channel, settings
from tests.support.waiting import wait_for

pytestmark = pytest.mark.containers

CREATE = "CREATE TABLE sale (id TEXT PRIMARY KEY)"


@dataclass(frozen=True)
class Broker:
    """A vhost that nothing was declared in, and two node ids that no other test uses: users are the whole broker's."""

    server: RabbitServer
    url: str
    vhost: str
    nodes: tuple[str, str]

    def url_of(self, node: str, password: str) -> str:
        return f"amqp://{node}:{password}@{self.server.host}:{self.server.port}/{self.vhost}"

    def import_(self, definitions: Path) -> None:
        """`rabbitmqctl import_definitions`, in the broker's container."""
        coded = base64.b64encode(definitions.read_bytes()).decode()
        file = f"/tmp/{self.vhost}.json"
        self.server.exec("sh", "-c", f"echo {coded} | base64 -d > {file} && rabbitmqctl import_definitions {file}")

    def put(self, path: str, body: object) -> None:
        self.server.management("PUT", f"/api/{path}", body)

    def post(self, path: str, body: object) -> None:
        self.server.management("POST", f"/api/{path}", body)

    def delete(self, path: str) -> None:
        self.server.management("DELETE", f"/api/{path}")

    def queue_names(self) -> set[str]:
        return {one["name"] for one in self.server.management("GET", f"/api/queues/{self.vhost}")}

    def queue(self, name: str) -> Any:
        return self.server.management("GET", f"/api/queues/{self.vhost}/{name}")

    def specs(self) -> tuple[QueueSpec, ...]:
        return queues(settings(self.url, self.nodes[0]))


@pytest.fixture(params=["rabbitmq", "rabbitmq310"])
def broker(request: pytest.FixtureRequest) -> Iterator[Broker]:
    server: RabbitServer = request.getfixturevalue(request.param)
    mark = uuid.uuid4().hex[:8]
    vhost = server.create_vhost(f"test-{mark}")
    made = Broker(server, server.url(vhost), vhost, (f"shop-{mark}", f"office-{mark}"))
    yield made
    server.delete_vhost(vhost)
    for user in server.management("GET", "/api/users"):
        if user["name"].endswith(mark):
            made.delete(f"users/{user['name']}")


def node(folder: Path, node_id: str, url: str, *, verify: bool = True) -> Path:
    """Write a configuration; sign in as `url` says."""
    folder.mkdir(exist_ok=True)
    config = folder / "rowferry.toml"
    document(config, "init", "--node", node_id, "--database", "sqlite:///app.db", "--broker", url, "--force")
    if verify:
        config.write_text(config.read_text().replace("[broker]", "[broker]\nverify_user = true", 1))
    return config


def exported(broker: Broker, folder: Path) -> dict[str, str]:
    """Export as an administrator would, import, and return the nodes' passwords."""
    config = node(folder / "admin", "admin", broker.url)
    out = folder / "definitions.json"
    document(config, "topology", "export", "--nodes", ",".join(broker.nodes), "--out", str(out))
    broker.import_(out)
    found: dict[str, str] = json.loads((folder / "admin" / "rowferry-passwords.json").read_text())
    return found


def query(config: Path, statement: str) -> list[tuple[Any, ...]]:
    engine = sa.create_engine(f"sqlite:///{config.parent / 'app.db'}", poolclass=sa.NullPool)
    with engine.begin() as connection:
        found = connection.exec_driver_sql(statement)
        return [tuple(row) for row in found] if found.returns_rows else []


def standing(config: Path, *options: str, code: int = 0) -> dict[tuple[str, str], dict[str, Any]]:
    findings = document(config, "topology", "check", *options, code=code)
    return {(one["kind"], one["name"]): one for one in findings["findings"]}


def wrong(findings: dict[tuple[str, str], dict[str, Any]]) -> dict[tuple[str, str], str]:
    return {key: one["state"] for key, one in findings.items() if one["state"] not in ("ok", "unchecked")}


def management(broker: Broker) -> tuple[str, ...]:
    return ("--management", broker.server.management_url.replace("//", f"//{USER}:{PASSWORD}@"))


def test_two_nodes_with_their_own_users_sync(broker: Broker, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    passwords = exported(broker, tmp_path)
    configs = [node(tmp_path / one, one, broker.url_of(one, passwords[one])) for one in broker.nodes]
    for config, row in zip(configs, ("one", "two"), strict=True):
        query(config, CREATE)
        document(config, "migrate")
        query(config, f"INSERT INTO sale VALUES ('{row}')")
    caplog.set_level(logging.WARNING)
    for config in (*configs, *configs):
        outcome = document(config, "run", "--once")
        assert (outcome["drained"], outcome["set_aside"]) == (True, 0)
    for config in configs:
        assert query(config, "SELECT id FROM sale ORDER BY id") == [("one",), ("two",)]
        assert wrong(standing(config, *management(broker))) == {}
        assert wrong(standing(config)) == {}


def test_a_queue_that_a_running_node_may_not_read_is_a_stall(broker: Broker, tmp_path: Path) -> None:
    passwords = exported(broker, tmp_path)
    shop, office = (
        CliNode(
            one,
            node(tmp_path / one, one, broker.url_of(one, passwords[one])).parent,
            f"sqlite:///{tmp_path / one / 'app.db'}",
        )
        for one in broker.nodes
    )
    for one in (shop, office):
        one.execute(CREATE)
        one.ok("migrate")
    (rights,) = (
        one
        for one in broker.server.management("GET", f"/api/vhosts/{broker.vhost}/permissions")
        if one["user"] == office.node_id
    )
    broker.put(f"permissions/{broker.vhost}/{office.node_id}", rights | {"read": "^$"})
    shop.execute("INSERT INTO sale VALUES ('one')")
    shop.ok("run", "--once")
    with (office.folder / "rowferry.toml").open("a") as file:
        file.write("\n[limits]\nstall_seconds = 1\n")
    office.start()
    try:
        wait_for(lambda: office.call("status", "--check").returncode == 1, 60, "the queue to count as a stall")
        told = office.ok("status")
        assert f"messages wait in rowferry.node.{office.node_id}, and the running node can't take them" in told
        serve = office.start("--port", "0", command="serve")
        url = wait_for(lambda: re.search(r"http://127\.0\.0\.1:\d+", serve.tail()), 60, "serve to listen")[0]
        # By what the broker was asked once a minute.
        wait_for(lambda: httpx.get(f"{url}/readyz").status_code == 503, 120, "/readyz to say so too")
        assert "the running node can't take them" in httpx.get(f"{url}/readyz").json()["reason"]
        assert "rowferry_stalled 1.0" in httpx.get(f"{url}/metrics").text
        broker.put(f"permissions/{broker.vhost}/{office.node_id}", rights)
        wait_for(lambda: office.call("status", "--check").returncode == 0, 60, "the stall to end")
        assert office.query("SELECT id FROM sale") == [("one",)]
    finally:
        office.close()


def test_nodes_can_not_speak_for_each_other(broker: Broker, tmp_path: Path) -> None:
    passwords = exported(broker, tmp_path)
    shop, office = broker.nodes
    url = broker.url_of(shop, passwords[shop])
    allowed = [("rowferry.changes", f"default.{shop}"), ("rowferry.changes", f"default.ctl.{office}")]
    for exchange, key in allowed:
        publish(url, exchange, key)
    refused = [
        ("rowferry.changes", f"default.{office}"),
        ("rowferry.changes", f"default.x.{shop}"),
        ("rowferry.changes", f"other.{shop}"),
        ("rowferry.changes", f"other.ctl.{office}"),
        ("rowferry.dead", office),
        ("rowferry.retry", office),
        ("", f"rowferry.node.{office}"),
        ("amq.topic", f"default.{shop}"),
    ]
    for exchange, key in refused:
        with pytest.raises(pika.exceptions.ChannelClosedByBroker, match="403"):
            publish(url, exchange, key)
    with pytest.raises(pika.exceptions.ChannelClosedByBroker, match="406"):
        publish(url, "rowferry.changes", f"default.{shop}", user_id=office)
    with raw_channel(url) as channel, pytest.raises(pika.exceptions.ChannelClosedByBroker, match="403"):
        channel.basic_get(f"rowferry.dead.{office}")
    with raw_channel(url) as channel, pytest.raises(pika.exceptions.ChannelClosedByBroker, match="403"):
        channel.queue_declare(f"rowferry.node.{shop}.more", durable=True)
    with pytest.raises(pika.exceptions.ProbableAuthenticationError):
        publish(broker.url_of(office, passwords[shop]), "rowferry.changes", f"default.{office}")


def publish(url: str, exchange: str, key: str, user_id: str | None = None) -> None:
    with raw_channel(url) as channel:
        channel.confirm_delivery()
        channel.basic_publish(exchange, key, b"x", pika.BasicProperties(user_id=user_id))


def test_an_import_makes_the_vhost_and_may_be_repeated(broker: Broker, tmp_path: Path) -> None:
    broker.server.delete_vhost(broker.vhost)
    passwords = exported(broker, tmp_path)
    # The administrator's own rights in the vhost are not in the definitions.
    broker.server.create_vhost(broker.vhost)
    first = broker.queue_names()
    assert len(first) == 6
    assert exported(broker, tmp_path) == passwords
    assert broker.queue_names() == first
    config = node(tmp_path / "shop", broker.nodes[0], broker.url_of(broker.nodes[0], passwords[broker.nodes[0]]))
    assert wrong(standing(config, *management(broker))) == {}


def test_users_that_stand_may_be_left_as_they_are(broker: Broker, tmp_path: Path) -> None:
    for one in broker.nodes:
        broker.put(f"users/{one}", {"password": "mine", "tags": ""})
    config = node(tmp_path / "admin", "admin", broker.url)
    out = tmp_path / "definitions.json"
    document(config, "topology", "export", "--nodes", ",".join(broker.nodes), "--no-users", "--out", str(out))
    broker.import_(out)
    shop = broker.nodes[0]
    assert wrong(standing(node(tmp_path / "shop", shop, broker.url), *management(broker))) == {}
    publish(broker.url_of(shop, "mine"), "rowferry.changes", f"default.{shop}")


def test_everything_that_differs_is_found(broker: Broker, tmp_path: Path) -> None:
    exported(broker, tmp_path)
    shop = broker.nodes[0]
    own, dead, retry = broker.specs()
    config = node(tmp_path / "shop", shop, broker.url)
    broker.delete(f"queues/{broker.vhost}/{retry.name}")
    broker.delete(f"queues/{broker.vhost}/{own.name}")
    broker.put(
        f"queues/{broker.vhost}/{own.name}",
        {"durable": True, "arguments": {**own.arguments, "x-max-length-bytes": 5_000_000, "x-message-ttl": 1000}},
    )
    broker.post(f"bindings/{broker.vhost}/e/rowferry.changes/q/{own.name}", {"routing_key": "default.*"})
    broker.post(f"bindings/{broker.vhost}/e/amq.topic/q/{own.name}", {"routing_key": "#"})
    broker.put(
        f"policies/{broker.vhost}/small",
        {"pattern": "dead", "definition": {"max-length": 5}, "apply-to": "queues"},
    )
    broker.put(f"users/{shop}", {"password": "x", "tags": "monitoring"})
    broker.put(f"permissions/{broker.vhost}/{shop}", {"configure": ".*", "write": ".*", "read": ".*"})
    broker.put(
        f"topic-permissions/{broker.vhost}/{shop}", {"exchange": "rowferry.changes", "write": ".*", "read": ".*"}
    )
    # The broker tells a queue's policy with its statistics, every few seconds.
    wait_for(lambda: broker.queue(dead.name).get("effective_policy_definition"), 30, "the policy to be seen")
    findings = standing(config, *management(broker), code=1)
    assert wrong(findings) == {
        ("queue", own.name): "differs",
        ("queue", retry.name): "missing",
        ("binding", f"rowferry.retry to {retry.name} by {shop}"): "missing",
        ("binding", f"rowferry.changes to {own.name} by default.ctl.{shop}"): "missing",
        ("binding", f"amq.topic to {own.name} by #"): "extra",
        ("policy", dead.name): "differs",
        ("user", shop): "differs",
        ("permissions", shop): "differs",
        ("topic-permissions", f"{shop} on rowferry.changes"): "differs",
    }
    detail = findings["queue", own.name]["detail"]
    assert "x-max-length-bytes is 5000000, should be 8589934592" in detail
    assert "x-message-ttl is 1000, should be not set" in detail
    remedy = findings["permissions", shop]["remedy"]
    assert remedy.startswith(f"rabbitmqctl set_permissions -p {broker.vhost} {shop} '^$' ")
    told = rowferry(config, "topology", "check", *management(broker))
    assert told.exit_code == 1
    assert f"missing: queue {retry.name}: it doesn't exist" in told.stdout
    assert "9 to fix, 0 not checked" in told.stdout


def test_what_the_remedies_say_mends_the_rights(broker: Broker, tmp_path: Path) -> None:
    exported(broker, tmp_path)
    shop = broker.nodes[0]
    config = node(tmp_path / "shop", shop, broker.url)
    broker.delete(f"permissions/{broker.vhost}/{shop}")
    broker.delete(f"topic-permissions/{broker.vhost}/{shop}")
    findings = standing(config, *management(broker), code=1)
    assert set(wrong(findings).values()) == {"missing"}
    for one in findings.values():
        if one["state"] != "ok":
            broker.server.exec("sh", "-c", one["remedy"])
    assert wrong(standing(config, *management(broker))) == {}


def test_a_missing_user_is_found(broker: Broker, tmp_path: Path) -> None:
    config = node(tmp_path / "shop", broker.nodes[0], broker.url)
    document(config, "migrate")
    findings = standing(config, *management(broker), code=1)
    assert findings["user", broker.nodes[0]]["state"] == "missing"
    shared = node(tmp_path / "shop", broker.nodes[0], broker.url, verify=False)
    assert wrong(standing(shared, *management(broker))) == {}


def test_over_amqp_what_is_missing_is_found_and_not_made(broker: Broker, tmp_path: Path) -> None:
    config = node(tmp_path / "shop", broker.nodes[0], broker.url)
    findings = standing(config, code=1)
    assert set(wrong(findings)) == {
        *(("exchange", name) for name in ("rowferry.changes", "rowferry.dead", "rowferry.retry")),
        *(("queue", spec.name) for spec in broker.specs()),
    }
    assert set(wrong(findings).values()) == {"missing"}
    assert broker.queue_names() == set()

    document(config, "migrate")
    findings = standing(config)
    assert {one["state"] for key, one in findings.items() if key[0] in ("exchange", "queue")} == {"ok"}
    assert {one["state"] for key, one in findings.items() if key[0] in ("binding", "permissions")} == {"unchecked"}
    assert "not checked: binding" in rowferry(config, "topology", "check").stdout


def test_over_amqp_other_arguments_are_found(broker: Broker, tmp_path: Path) -> None:
    config = node(tmp_path / "shop", broker.nodes[0], broker.url)
    own = broker.specs()[0]
    with raw_channel(broker.url) as channel:
        channel.exchange_declare("rowferry.dead", "fanout", durable=True)
        channel.queue_declare(own.name, durable=True, arguments={**own.arguments, "x-expires": 1_000_000})
    findings = standing(config, code=1)
    queue, exchange = findings["queue", own.name], findings["exchange", "rowferry.dead"]
    assert (queue["state"], exchange["state"]) == ("differs", "differs")
    assert queue["detail"].startswith("x-expires: received")
    assert "queue_expires_seconds" in queue["remedy"]
    assert f"rabbitmqctl delete_queue -p {broker.vhost} {own.name}" in queue["remedy"]
    assert exchange["detail"].startswith("type: received")
    assert "management page" in exchange["remedy"]


def test_an_account_that_may_not_declare_says_what_it_can_not_see(broker: Broker, tmp_path: Path) -> None:
    passwords = exported(broker, tmp_path)
    shop = broker.nodes[0]
    config = node(tmp_path / "shop", shop, broker.url_of(shop, passwords[shop]))
    findings = standing(config)
    assert {one["state"] for one in findings.values()} == {"unchecked"}
    broker.delete(f"queues/{broker.vhost}/rowferry.node.{shop}")
    assert wrong(standing(config, code=1)) == {("queue", f"rowferry.node.{shop}"): "missing"}


def test_the_management_account(broker: Broker, tmp_path: Path) -> None:
    """Its password from a file; rights stay unchecked for one that is no administrator."""
    exported(broker, tmp_path)
    admin = f"admin-{broker.vhost.removeprefix('test-')}"
    broker.put(f"users/{admin}", {"password": "look", "tags": "management"})
    broker.put(f"permissions/{broker.vhost}/{admin}", {"configure": "", "write": "", "read": ""})
    config = node(tmp_path / "shop", broker.nodes[0], broker.url)
    secret = tmp_path / "secret"
    secret.write_text("look\n")
    secret.chmod(0o600)
    asked = ("--management", broker.server.management_url.replace("//", f"//{quote(admin)}@") + "/")
    findings = standing(config, *asked, "--password-file", str(secret))
    assert findings["permissions", broker.nodes[0]]["state"] == "unchecked"
    assert {one["state"] for key, one in findings.items() if key[0] != "permissions"} == {"ok"}

    secret.write_text("other")
    refused = rowferry(config, "topology", "check", *asked, "--password-file", str(secret))
    assert refused.exit_code == 5, refused.output
    assert f"refuses user '{admin}'" in refused.stderr
    # Without a user: the account of the broker's own URL, which is an administrator here.
    assert wrong(standing(config, "--management", broker.server.management_url)) == {}


def test_a_policy_that_an_argument_overrules_is_fine(broker: Broker, tmp_path: Path) -> None:
    config = node(tmp_path / "shop", broker.nodes[0], broker.url, verify=False)
    document(config, "migrate")
    own = broker.specs()[0].name
    policy = {"pattern": "node", "definition": {"max-length-bytes": 5_000_000, "expires": 1_000_000}}
    broker.put(f"policies/{broker.vhost}/small", policy | {"apply-to": "queues"})
    wait_for(lambda: broker.queue(own).get("effective_policy_definition"), 30, "the policy to be seen")
    assert wrong(standing(config, *management(broker))) == {}
    broker.delete(f"policies/{broker.vhost}/small")
    broker.put(f"operator-policies/{broker.vhost}/small", policy | {"apply-to": "queues"})
    wait_for(lambda: broker.queue(own).get("operator_policy"), 30, "the operator's policy to be seen")
    assert wrong(standing(config, *management(broker), code=1)) == {("policy", own): "differs"}


def test_an_import_leaves_a_queue_with_other_arguments_and_the_check_tells(broker: Broker, tmp_path: Path) -> None:
    own = broker.specs()[0]
    with raw_channel(broker.url) as channel:
        channel.queue_declare(own.name, durable=True, arguments={**own.arguments, "x-expires": 1_000_000})
    exported(broker, tmp_path)
    config = node(tmp_path / "shop", broker.nodes[0], broker.url)
    findings = standing(config, *management(broker), code=1)
    assert wrong(findings) == {("queue", own.name): "differs"}
    assert "queue_expires_seconds" in findings["queue", own.name]["remedy"]
