"""`topology export` without a broker: the document, the passwords and where they go."""

from __future__ import annotations

import base64
import hashlib
import json
import stat
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from common.transports.rabbitmq import RabbitSettings
from common.transports.rabbitmq.definitions import definitions, password_hash
from common.transports.rabbitmq.topology import permissions, queues
from tests.support.cli import document, rowferry

URL = "amqp://someone:s3cret@broker.invalid:5672/shop"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A node that was never migrated, whose account on the broker is somebody's."""
    return written(tmp_path, "main", URL)


def written(folder: Path, node_id: str, url: str) -> Path:
    file = folder / "rowferry.toml"
    document(file, "init", "--node", node_id, "--database", "sqlite:///app.db", "--broker", url, "--force")
    return file


def passwords(file: Path) -> dict[str, str]:
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    found: dict[str, str] = json.loads(file.read_text())
    return found


def matches(user: dict[str, Any], password: str) -> bool:
    """Whether RabbitMQ would let the user in with it."""
    return bool(user["password_hash"] == password_hash(password, base64.b64decode(user["password_hash"])[:4]))


def test_a_password_is_hashed_as_the_broker_does() -> None:
    salt = bytes.fromhex("908dc60a")
    assert (
        password_hash("test12", salt)
        == base64.b64encode(salt + hashlib.sha256(salt + b"test12").digest()).decode()
        == "kI3GCqW5JLMJa4iX1lo7X4D6XbYqlLgxIs30+P6tENUV2POR"
    )
    assert password_hash("test12") != password_hash("test12")


def test_every_node_has_its_queues_bindings_and_rights() -> None:
    settings = [RabbitSettings(URL, node, queue_max_bytes=5_000_000) for node in ("main", "store-1")]
    made = definitions(settings, "shop", {"main": "a"})
    specs = [spec for one in settings for spec in queues(one)]
    assert {one["name"]: one["arguments"] for one in made["queues"]} == {one.name: one.arguments for one in specs}
    assert {(one["source"], one["routing_key"], one["destination"]) for one in made["bindings"]} == {
        (binding.exchange, binding.routing_key, spec.name) for spec in specs for binding in spec.bindings
    }
    assert [one["name"] for one in made["exchanges"]] == ["rowferry.changes", "rowferry.dead", "rowferry.retry"]
    assert {one["user"]: one["write"] for one in made["permissions"]} == dict.fromkeys(
        ("main", "store-1"), permissions("main", "default").write
    )
    assert len(made["topic_permissions"]) == 6
    assert [one["name"] for one in made["users"]] == ["main"]
    assert {one["vhost"] for key in made if key not in ("users", "vhosts") for one in made[key]} == {"shop"}


def test_passwords_go_into_a_private_file_and_nowhere_else(config: Path) -> None:
    result = rowferry(config, "topology", "export", "--nodes", "main,store-1", "--nodes", "store-2")
    assert result.exit_code == 0, result.output
    file = config.parent / "rowferry-passwords.json"
    kept = passwords(file)
    assert list(kept) == ["main", "store-1", "store-2"]
    assert len(set(kept.values())) == 3
    users = json.loads(result.stdout)["users"]
    assert all(matches(user, kept[user["name"]]) for user in users)
    assert not any(secret in result.output for secret in (*kept.values(), "s3cret"))
    assert str(file) in result.stderr

    more = document(config, "topology", "export", "--nodes", "store-2,store-3")
    assert passwords(file).items() > kept.items()
    assert [matches(user, passwords(file)[user["name"]]) for user in more["users"]] == [True, True]


def test_a_file_for_the_definitions_is_private_too(config: Path, tmp_path: Path) -> None:
    out, secrets = tmp_path / "definitions.json", tmp_path / "secrets.json"
    asked = ("topology", "export", "--nodes", "main", "--out", str(out), "--passwords", str(secrets))
    report = document(config, *asked)
    assert report == {
        "file": str(out),
        "vhost": "shop",
        "nodes": ["main"],
        "passwords": str(secrets),
        "new_passwords": ["main"],
    }
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert matches(json.loads(out.read_text())["users"][0], passwords(secrets)["main"])
    assert document(config, *asked)["new_passwords"] == []
    assert "import_definitions" in rowferry(config, *asked).stdout


def test_a_node_keeps_the_password_of_its_broker_url(tmp_path: Path) -> None:
    config = written(tmp_path, "main", "amqp://main:p%40ss@broker.invalid/")
    made = document(config, "topology", "export", "--nodes", "main,store-1")
    assert matches(made["users"][0], "p@ss")
    assert passwords(tmp_path / "rowferry-passwords.json")["main"] == "p@ss"
    assert made["vhosts"] == [{"name": "/"}]


def test_without_users_nothing_secret_is_made(config: Path) -> None:
    made = document(config, "topology", "export", "--nodes", "main", "--no-users")
    assert made["users"] == []
    assert [one["user"] for one in made["permissions"]] == ["main"]
    assert not (config.parent / "rowferry-passwords.json").exists()


def test_only_this_node_listens_as_it_is_configured(config: Path) -> None:
    config.write_text(config.read_text().replace("[broker]", '[broker]\nlisten = ["store-1"]\nchannel = "c1"', 1))
    config.write_text(config.read_text().replace('channel = "default"', ""))
    made = document(config, "topology", "export", "--nodes", "main,store-1", "--no-users")
    ways = {(one["destination"], one["routing_key"]) for one in made["bindings"] if one["source"] == "rowferry.changes"}
    assert ways == {
        ("rowferry.node.main", "c1.store-1"),
        ("rowferry.node.main", "c1.ctl.main"),
        ("rowferry.node.store-1", "c1.*"),
        ("rowferry.node.store-1", "c1.ctl.store-1"),
    }


def test_nodes_are_this_one_and_its_peers_unless_named(tmp_path: Path) -> None:
    """Migrated beside a folder, since no broker is here."""
    config = tmp_path / "rowferry.toml"
    document(config, "init", "--node", "main", "--database", "sqlite:///app.db")
    document(config, "migrate")
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'app.db'}", poolclass=sa.NullPool)
    with engine.begin() as connection:
        for peer, direction in (("store-7", "in"), ("store-2", "in"), ("file", "out")):
            values = f"'{peer}', '{direction}', 'i1', 1, 1, 1"
            connection.exec_driver_sql(
                "INSERT INTO rf_sync_state (peer, direction, incarnation, last_lsn, highest_lsn, updated_us) "
                f"VALUES ({values})"
            )
    written(tmp_path, "main", URL)
    config.write_text(config.read_text().replace("[broker]", '[broker]\npeers = ["store-3", "main"]', 1))
    made = document(config, "topology", "export", "--no-users")
    assert [one["user"] for one in made["permissions"]] == ["main", "store-2", "store-3", "store-7"]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--nodes", "a.b"), 2, "'a.b'"),
        (("--nodes", "a,,b"), 2, "''"),
        (("--nodes", "a", "--no-users", "--passwords", "x"), 2, "give one of them"),
        ((), 2, "rowferry migrate"),
        (
            ("--nodes", "a", "--out", "gone/definitions.json"),
            1,
            "definitions.json: No such file or directory; mount the share, or create the folder",
        ),
        (
            ("--nodes", "a", "--passwords", "gone/passwords.json"),
            1,
            "passwords.json: No such file or directory; mount the share, or create the folder",
        ),
    ],
)
def test_what_can_not_be_is_said(config: Path, arguments: tuple[str, ...], code: int, said: str) -> None:
    result = rowferry(config, "topology", "export", *arguments)
    assert result.exit_code == code, result.output
    assert said in result.stderr


@pytest.mark.parametrize("content", ["[]", '{"a": 1}', "secret", '{"a": ""}'])
def test_a_file_that_holds_no_passwords_is_left_alone(config: Path, content: str) -> None:
    file = config.parent / "mine"
    file.write_text(content)
    file.chmod(0o600)
    result = rowferry(config, "topology", "export", "--nodes", "a", "--passwords", str(file))
    assert result.exit_code == 2
    assert "not a file of passwords" in result.stderr
    assert file.read_text() == content


def test_passwords_that_others_can_read_are_refused(config: Path) -> None:
    file = config.parent / "mine"
    file.write_text("{}")
    file.chmod(0o644)
    result = rowferry(config, "topology", "export", "--nodes", "a", "--passwords", str(file))
    assert result.exit_code == 2
    assert "chmod 600" in result.stderr


@pytest.mark.parametrize("command", ["export", "check"])
def test_only_rabbitmq_has_a_topology(tmp_path: Path, command: str) -> None:
    config = written(tmp_path, "main", "redis://host/0")
    result = rowferry(config, "topology", command)
    assert result.exit_code == 2
    assert "amqp://" in result.stderr
