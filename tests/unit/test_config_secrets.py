"""What a secret is, and that somebody is told of a configuration which holds one in sight."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from common.config import secrets
from common.config.load import exposed_secrets, load_config
from common.config.secrets import holds_secret
from tests.support.cli import document, rowferry
from tests.support.private import write_private

TOKEN = "rf_" + "a" * 12 + "_" + "B" * 43
PRIVATE = "ed25519-private:3xRVUFkKrVZcMvA1BqBq1yqM7eHq0yMZ9lKp2l8x0aA="

SECRET = [
    "postgresql://shop:S3cret@db/shop",
    "postgresql+psycopg://shop:S3cret@db:5432/shop",
    "postgresql://shop:S3/cret@db/shop",
    "postgresql://shop:S3?cret@db/shop",
    "postgresql://shop@db/shop?password=S3cret",
    "postgresql://shop@db/shop?sslmode=require&sslpassword=S3cret",
    "postgresql://shop@db/shop?PassWord=S3cret",
    "postgresql://shop@db/shop?pass%77ord=S3cret",
    "amqp://shop:S3cret@host:5672/vhost",
    "amqp://shop@host/?ssl_options={'password':'S3cret'}",
    "redis://:S3cret@host:6379/0",
    "sqla+postgresql://shop:S3cret@db/queue",
    "sentinel://one:26379;sentinel://:S3cret@two:26379",
    "sqs://AKIA:S3cret@",
    "azurestoragequeues://S3/cret=@account",
    "redis://host/0?access_key=S3cret",
    PRIVATE,
    TOKEN,
]
PLAIN = [
    "sqlite:///store.db",
    "sqlite:////var/lib/a:b@c.db",
    "sqlite:///C:/Users/me@home/store.db",
    "postgresql://db/shop",
    "postgresql://shop@db:5432/shop",
    "postgresql:///shop?host=/run/postgresql&passfile=/etc/pgpass",
    "postgresql://shop:@db/shop",
    "postgresql://shop@db/shop?password=",
    "postgresql://shop@db/shop?application_name=a@b",
    "amqp://host:5672/vhost",
    "amqp://shop@host/",
    "sentinel://one:26379;sentinel://shop@two:26379",
    "azurestoragequeues://DefaultAzureCredential@account",
    "memory://",
    "https://main.example:8443",
    "password",
    "rf_change_log",
    "ed25519:3xRVUFkKrVZcMvA1BqBq1yqM7eHq0yMZ9lKp2l8x0aA=",
    "",
]


@pytest.mark.parametrize("text", SECRET)
def test_a_secret_is_known(text: str) -> None:
    assert holds_secret(text)


@pytest.mark.parametrize("text", PLAIN)
def test_what_holds_no_secret_is_none(text: str) -> None:
    assert not holds_secret(text)


def config(folder: Path, more: str = "", database: str = "sqlite:///store.db", *, mode: int = 0o600) -> Path:
    """A configuration of this mode; `more` follows on the node's section."""
    file = write_private(folder / "rowferry.toml", f'[node]\nid = "a"\ndatabase = {json.dumps(database)}\n{more}')
    file.chmod(mode)
    return file


HOLDING = [
    ("node.database", "", "postgresql://shop:S3cret@db/shop"),
    ("node.database", "", "postgresql://shop@db/shop?password=S3cret"),
    ("node.signing_key", f'signing_key = "{PRIVATE}"\n', "sqlite:///store.db"),
    ("broker.url", '[broker]\nurl = "amqp://shop:S3cret@host/"\n', "sqlite:///store.db"),
    ("peers.main.url", '[peers.main]\nurl = "https://shop:S3cret@main"\n', "sqlite:///store.db"),
    ("signers.main", f'[signers]\nmain = ["{PRIVATE}"]\n', "sqlite:///store.db"),
    ("server.tokens", f'[server]\ntokens = [{{any = "{TOKEN}"}}]\n', "sqlite:///store.db"),
]


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o620, 0o601])
@pytest.mark.parametrize(("setting", "more", "database"), HOLDING, ids=[one[0] for one in HOLDING])
def test_a_file_with_a_secret_that_others_can_read_is_told(
    tmp_path: Path, setting: str, more: str, database: str, mode: int
) -> None:
    file = config(tmp_path, more, database, mode=mode)
    ((found, remedy),) = exposed_secrets(file)
    assert found == setting
    assert remedy.startswith("chmod 600 the file")
    assert all(secret not in remedy for secret in ("S3cret", PRIVATE, TOKEN))
    file.chmod(0o600)
    assert exposed_secrets(file) == []


@pytest.mark.parametrize("name", ["database", "signing_key"])
def test_the_other_remedies_are_named_and_are_some(tmp_path: Path, name: str) -> None:
    database = "postgresql://shop:S3cret@db/shop"
    file = config(tmp_path, f'signing_key = "{PRIVATE}"\n', database, mode=0o644)
    remedy = dict(exposed_secrets(file))[f"node.{name}"]
    assert remedy.endswith(f"(node.{name}_file) or in the variable ROWFERRY_NODE_{name.upper()}")
    secret = {"database": database, "signing_key": PRIVATE}
    write_private(tmp_path / "elsewhere", secret[name])
    given = {one: f"ROWFERRY_NODE_{one.upper()}" for one in secret}
    file.write_text(f'[node]\nid = "a"\n{name}_file = "elsewhere"\n')
    assert exposed_secrets(file) == []
    for environ in (
        {given[one]: secret[one] for one in secret if one != name},
        {given[one]: secret[one] for one in secret},
    ):
        node = load_config(file, environ).node
        assert (node.database, node.signing_key) == (database, PRIVATE)


def test_a_file_without_secrets_may_be_read_by_everybody(tmp_path: Path) -> None:
    more = '# url = "amqp://user:password@host:5672/vhost"\n[broker]\nurl = "amqp://host/"\n'
    assert exposed_secrets(config(tmp_path, more, "postgresql://shop@db/shop", mode=0o644)) == []


def test_a_link_is_judged_by_what_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    file = config(tmp_path / "kept", database="postgresql://shop:S3cret@db/shop")
    link = tmp_path / "rowferry.toml"
    link.symlink_to(file)
    assert exposed_secrets(link) == []
    file.chmod(0o644)
    assert len(exposed_secrets(link)) == 1


def test_windows_says_nothing_by_a_mode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = config(tmp_path, database="postgresql://shop:S3cret@db/shop", mode=0o644)
    with monkeypatch.context() as patched:
        patched.setattr(secrets, "IS_POSIX", False)
        assert exposed_secrets(file) == []


def test_doctor_warns_of_it_and_goes_on(tmp_path: Path) -> None:
    more = '[broker]\nurl = "amqp://shop:S3cret@127.0.0.1:1/"\n'
    file = config(tmp_path, more, mode=0o644)
    done = rowferry(file, "doctor", "--json")
    assert "S3cret" not in done.output
    (found,) = [one for one in json.loads(done.stdout)["findings"] if "secret" in one["message"]]
    assert (found["level"], found["message"].split()[0]) == ("warn", "broker.url")
    assert "chmod 600" in found["remedy"]


@pytest.mark.parametrize("broker", ["redis://host/0?password=S3cret", "redis://:S3cret@host/0"])
def test_what_init_writes_is_private_where_it_has_to_be(tmp_path: Path, broker: str) -> None:
    file = tmp_path / "rowferry.toml"
    report = document(file, "init", "--node", "a", "--database", "sqlite:///a.db", "--broker", broker)
    assert report["private"]
    assert file.stat().st_mode & 0o777 == 0o600
    assert load_config(file, {}).broker
