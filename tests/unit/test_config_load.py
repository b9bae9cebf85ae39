"""Reading the configuration: every wrong value names its key, secrets stay secret, variables win over the file."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from common.config.load import config_path, load_config
from common.config.model import Config, Policy
from common.dialects import open_database
from common.errors import ConfigError
from tests.support.private import write_private

GOOD: dict[str, dict[str, Any]] = {
    "node": {"id": "store-1", "database": "sqlite:///store.db"},
    "broker": {"url": "amqp://user:password@host/"},
    "directory": {"path": "exchange"},
}

WRONG: list[tuple[str, Any]] = [
    ("node.id", "a b"),
    ("node.id", ""),
    ("node.id", "x" * 65),
    ("node.id", 7),
    ("node.role", "boss"),
    ("node.database", ""),
    ("node.database", "store.db"),
    ("node.main", "a b"),
    ("node.auto_migrate", "perhaps"),
    ("tables.include", "sale"),
    ("tables.exclude", 1),
    ("tables.policy", "lww"),
    ("tables.foreign_keys", "maybe"),
    ("broker.url", ""),
    ("broker.url", "host"),
    ("broker.url", "localhost:5672"),
    ("broker.channel", "a.b"),
    ("broker.listen", "main"),
    ("broker.prefetch_bytes", 1),
    ("broker.prefetch", 0),
    ("broker.max_message_bytes", 1),
    ("broker.queue_max_bytes", 0),
    ("broker.queue_max_bytes", 2**63),
    ("broker.queue_expires_seconds", 0),
    ("broker.verify_user", "sure"),
    ("broker.compression", "lzma"),
    ("broker.blocked_timeout_seconds", -1),
    ("broker.heartbeat_seconds", 0),
    ("broker.tls_ca_file", "ca.pem"),
    ("broker.tls_cert_file", 1),
    ("broker.tls_key_file", "key.pem"),
    ("broker.peers", "main"),
    ("directory.path", 1),
    ("directory.path", ""),
    ("directory.path", "a\0b"),
    ("directory.settle", 0),
    ("directory.max_bytes", 1),
    ("directory.keep_days", -1),
    ("directory.compression", 3),
    ("directory.poll_seconds", 0),
    ("fallback.after", 0),
    ("server.host", ""),
    ("server.port", -1),
    ("server.port", True),
    ("fallback.after", True),
    ("node.number", True),
    ("retention.log_max_days", True),
    ("server.tls_cert_file", 1),
    ("server.tls_key_file", "key.pem"),
    ("server.proxies", "10.0.0.1"),
    ("server.proxies", ["*"]),
    ("server.proxies", ["10.0.0.1", ""]),
    ("server.proxies", ["proxy.example"]),
    ("server.proxies", ["10.0.0.1:443"]),
    ("server.proxies", ["10.0.0.1/24"]),
    ("server.proxies", ["0.0.0.0/0"]),
    ("server.proxies", ["::/0"]),
    ("server.plain_http", "perhaps"),
    ("server.max_body_bytes", 10),
    ("server.max_stream_bytes", 10),
    ("server.slow_seconds", 0),
    ("server.body_seconds", 0),
    ("server.max_connections", 0),
    ("tracing.enabled", "perhaps"),
    ("peers.main", {"url": "main.example"}),
    ("peers.main", {"url": "https://main.example", "tokens": "x"}),
    ("tables.policy", {"company": "mine"}),
    ("tables.keys", {"sale": "strides"}),
    ("node.database", "sqlite://"),
    ("node.database", "sqlite:///:memory:"),
    ("tables.key_nodes", 1),
    ("tables.key_bits", 64),
    ("node.number", 0),
    ("node.forward", "perhaps"),
    ("node.signing_key", "ed25519:AAAA"),
    ("node.require_signed", "maybe"),
    ("signers.main", ["ed25519-private:AAAA"]),
    ("signers.main", []),
    ("limits.relay_days", 0),
    ("limits.relay_max_bytes", 1),
    ("limits.max_batch_bytes", 1),
    ("limits.message_bytes", 0),
    ("limits.group_changes", 0),
    ("limits.early_seconds", 0),
    ("limits.seal_interval_seconds", "soon"),
    ("limits.stall_seconds", 0),
    ("limits.tombstone_days", 0),
    ("limits.future_seconds", 0),
    ("retention.every_hours", -1),
    ("retention.log_days", 0),
    ("retention.log_max_days", 0.5),
    ("retention.dedup_days", 0),
    ("retention.conflict_days", "year"),
    ("retention.dead_letter_days", 0),
    ("retention.part_days", -1),
    ("retention.audit_days", -1),
    ("limits.gap_seconds", 0),
    ("limits.announce_seconds", -1),
]


def toml(value: Any) -> str:
    match value:
        case bool():
            return str(value).lower()
        case str():
            return '"' + value.replace("\\", "\\\\").replace('"', '\\"').replace("\0", "\\u0000") + '"'
        case dict():
            return "{" + ", ".join(f"{toml(key)} = {toml(one)}" for key, one in value.items()) + "}"
        case list() | tuple():
            return "[" + ", ".join(toml(one) for one in value) + "]"
        case _:
            return str(value)


def write(folder: Path, tree: dict[str, dict[str, Any]]) -> Path:
    file = folder / "rowferry.toml"
    sections = [
        f"[{name}]\n" + "".join(f"{key} = {toml(value)}\n" for key, value in section.items())
        for name, section in tree.items()
    ]
    return write_private(file, "\n".join(sections))


def changed(key: str, value: Any) -> dict[str, dict[str, Any]]:
    section, _, name = key.partition(".")
    tree = {one: dict(settings) for one, settings in GOOD.items()}
    tree.setdefault(section, {})[name] = value
    return tree


@pytest.mark.parametrize(
    ("section", "line", "right"),
    [
        ("node", "signing_key_file = true", "must be a path"),
        ("node", 'signing_key_file = ""', "must be a path"),
        ("node", "forward = 7.5", "must be true or false"),
        ("tables", 'foreign_keys = "off"', "must be 'check' or 'ignore'"),
        ("node", 'number = "one"', "must be a whole number"),
        ("node", "number = 1.5", "must be a whole number"),
        ("node", "main = 7", "must be text, in quotes"),
        ("server", "tls_cert_file = 7", "must be a path"),
        ("server", 'host = ""', "must not be empty"),
        ("server", 'slow_seconds = "soon"', "must be a number"),
        ("signers", "store-1 = []", "must not be empty"),
    ],
)
def test_a_value_of_the_wrong_type_is_told_with_the_right_one(
    tmp_path: Path, section: str, line: str, right: str
) -> None:
    file = tmp_path / "rowferry.toml"
    node = '[node]\nid = "a"\ndatabase = "sqlite:///a.db"\n'
    file.write_text(f"{node}{line}\n" if section == "node" else f"{node}[{section}]\n{line}\n")
    file.chmod(0o600)
    key = line.partition(" ")[0]
    with pytest.raises(ConfigError, match=rf"{section}\.{key}: {right}"):
        load_config(file, {})


def test_the_smallest_configuration(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, {"node": GOOD["node"]}), {})
    assert (config.node.role, config.broker, config.directory) == ("branch", None, None)
    assert config.tables.wants("anything")
    assert config.tables.policy_for("anything") is Policy.LWW


@pytest.mark.parametrize(("key", "value"), WRONG, ids=[f"{key}={value!r:.12}" for key, value in WRONG])
def test_a_wrong_value_names_file_and_key(tmp_path: Path, key: str, value: Any) -> None:
    file = write(tmp_path, changed(key, value))
    with pytest.raises(ConfigError) as caught:
        load_config(file, {})
    assert str(file) in str(caught.value)
    assert key in str(caught.value)


def test_every_setting_has_a_wrong_value_here() -> None:
    tried = {key for key, _ in WRONG}
    there = {"peers.main", "signers.main"}
    for name, field in Config.model_fields.items():
        kinds = [field.annotation, *getattr(field.annotation, "__args__", ())]
        models = [kind for kind in kinds if hasattr(kind, "model_fields") and name != "peers"]
        there |= {f"{name}.{setting}" for model in models for setting in model.model_fields}
    assert there == tried


@given(
    section=st.sampled_from(sorted(Config.model_fields.keys() - {"peers", "signers"})),
    name=st.from_regex(r"zz[a-z_]{1,20}", fullmatch=True),
)
def test_an_unknown_key_is_refused_by_name(tmp_path_factory: pytest.TempPathFactory, section: str, name: str) -> None:
    file = write(tmp_path_factory.mktemp("config"), changed(f"{section}.{name}", 1))
    with pytest.raises(ConfigError, match=f"{section}.{name}: there is no such setting"):
        load_config(file, {})


def test_several_faults_are_told_at_once(tmp_path: Path) -> None:
    file = write(tmp_path, {"node": {"id": "a b", "database": "x"}, "fallback": {"after": 0}})
    with pytest.raises(ConfigError) as caught:
        load_config(file, {})
    assert len(str(caught.value).splitlines()) == 3


@pytest.mark.parametrize("key", ["node.database", "broker.url"])
def test_a_wrong_secret_is_not_repeated(tmp_path: Path, key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, changed(key, "hunter2")), {})
    assert "hunter2" not in str(caught.value)


def test_batches_must_fit_into_messages(tmp_path: Path) -> None:
    tree = changed("broker.max_message_bytes", 1024 * 1024)
    with pytest.raises(ConfigError, match=r"limits\.max_batch_bytes"):
        load_config(write(tmp_path, tree), {})


@pytest.mark.parametrize("content", [b"[node", b"\xff\xfe", b"[node]\nid = 1\nid = 2\n"])
def test_what_is_no_toml_is_named(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "rowferry.toml"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match="can't be read as TOML"):
        load_config(file, {})


def test_a_folder_is_no_configuration(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=str(tmp_path)):
        load_config(tmp_path, {})


CONTRACT = """
[node]
id = "store-042"                  # letters, digits, - and _
role = "branch"                   # main | branch
database = "sqlite:///store.db"   # any SQLAlchemy URL of a supported dialect
[tables]
include = ["*"]
exclude = []
[tables.policy]
company = "main-wins"
[broker]
url = "amqp://user:password@host:5672/vhost"
channel = "default"
[directory]
path = "exchange"
[fallback]
after = 60
[peers.main]
url = "https://main.example:8443"
token_file = "main.token"
[server]
host = "127.0.0.1"
port = 8765
"""


def test_a_peers_files_count_from_the_files_folder(tmp_path: Path) -> None:
    file = tmp_path / "rowferry.toml"
    write_private(
        file, CONTRACT.replace('token_file = "main.token"', 'token_file = "main.token"\ntls_ca_file = "ca.pem"')
    )
    peer = load_config(file, {}).peers["main"]
    assert (peer.token_file, peer.tls_ca_file) == (tmp_path / "main.token", tmp_path / "ca.pem")


def test_the_contracts_own_example_loads(tmp_path: Path) -> None:
    file = tmp_path / "rowferry.toml"
    write_private(file, "\ufeff" + CONTRACT.replace("\n", "\r\n"))
    config = load_config(file, {})
    assert config.peers["main"].token_file == tmp_path / "main.token"
    (tmp_path / "main.token").write_text("secret")
    (tmp_path / "main.token").chmod(0o644)
    with pytest.raises(ConfigError, match=r"peers\.main\.token_file: .*chmod 600"):
        load_config(file, {})


def test_a_policy_that_there_is_not_is_never_taken_for_lww(tmp_path: Path) -> None:
    file = tmp_path / "rowferry.toml"
    write_private(file, CONTRACT.replace('company = "main-wins"', 'company = "newest"'))
    with pytest.raises(ConfigError, match=r"tables\.policy\.company: .*lww.*main-wins.*append-only.*manual.*newest"):
        load_config(file, {})


def test_a_secret_stands_in_one_place(tmp_path: Path) -> None:
    (tmp_path / "url").write_text("sqlite:///elsewhere.db\n")
    (tmp_path / "url").chmod(0o600)
    file = write(tmp_path, {"node": {"id": "a", "database_file": "url"}})
    assert load_config(file, {}).node.database.endswith("elsewhere.db")
    assert load_config(file, {"ROWFERRY_NODE_DATABASE": "sqlite:////x.db"}).node.database == "sqlite:////x.db"
    with pytest.raises(ConfigError, match=r"node\.database and node\.database_file"):
        load_config(write(tmp_path, {"node": {"id": "a", "database_file": "url", "database": "sqlite:///y.db"}}), {})


def test_variables_win_over_the_file(tmp_path: Path) -> None:
    environ = {
        "ROWFERRY_NODE_ID": "store-9",
        "ROWFERRY_TABLES_INCLUDE": "sale, store",
        "ROWFERRY_LIMITS_TOMBSTONE_DAYS": "7",
        "ROWFERRY_CONFIG": "elsewhere",
        "UNRELATED": "x",
    }
    config = load_config(write(tmp_path, GOOD), environ)
    assert (config.node.id, config.tables.include, config.limits.tombstone_days) == ("store-9", ("sale", "store"), 7)


@pytest.mark.parametrize("name", ["ROWFERRY_NOWHERE_ID", "ROWFERRY_NODE", "ROWFERRY_NODE_COLOUR"])
def test_a_variable_that_means_nothing_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"(?i)nowhere|node"):
        load_config(write(tmp_path, GOOD), {name: "x"})


def test_a_secret_may_stand_in_a_private_file(tmp_path: Path) -> None:
    secret = tmp_path / "broker.url"
    secret.write_text("amqp://user:s3cret@host/\n")
    secret.chmod(0o600)
    file = write(tmp_path, {"node": GOOD["node"], "broker": {"url_file": "broker.url"}})
    config = load_config(file, {})
    assert config.broker is not None
    assert config.broker.url == "amqp://user:s3cret@host/"


def test_a_secret_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    secret = tmp_path / "database.url"
    secret.write_text("sqlite:///store.db")
    secret.chmod(0o640)
    file = write(tmp_path, {"node": {"id": "store-1", "database_file": "database.url"}})
    with pytest.raises(ConfigError, match=r"node\.database_file.*chmod 600"):
        load_config(file, {})


def tls(tmp_path: Path, **files: str) -> Path:
    """A configuration with TLS files beside it, `key.pem` private, the others not."""
    for name, mode in (("ca.pem", 0o644), ("cert.pem", 0o644), ("key.pem", 0o600), ("both.pem", 0o600)):
        (tmp_path / name).touch()
        (tmp_path / name).chmod(mode)
    return write(tmp_path, {"node": GOOD["node"], "broker": {"url": "amqps://u:s3cret@host/", **files}})


def test_a_secret_file_whose_name_no_file_can_have_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"node\.signing_key_file.*can't be read.*null byte"):
        load_config(write(tmp_path, {"node": {**GOOD["node"], "signing_key_file": "a\0b"}}), {})


@pytest.mark.parametrize(
    ("given", "from_folder"),
    [
        ("filesystem://share", "filesystem://{}/share"),
        ("filesystem://a%20share/x?y=1", "filesystem://{}/a%20share/x?y=1"),
        ("filesystem:///srv/share", "filesystem:///srv/share"),
        ("filesystem://", "filesystem://"),
        ("sqla+sqlite:///queue.db", "sqla+sqlite:///{}/queue.db"),
        ("sqla+sqlite:////srv/queue.db", "sqla+sqlite:////srv/queue.db"),
        ("redis://host/0", "redis://host/0"),
    ],
)
def test_what_a_broker_is_made_of_counts_from_the_files_folder(tmp_path: Path, given: str, from_folder: str) -> None:
    broker = load_config(write(tmp_path, GOOD | {"broker": {"url": given}}), {}).broker
    assert broker is not None
    assert broker.url == from_folder.format(tmp_path)


def test_tls_files_count_from_the_files_folder(tmp_path: Path) -> None:
    file = tls(tmp_path, tls_ca_file="ca.pem", tls_cert_file="cert.pem", tls_key_file=str(tmp_path / "key.pem"))
    broker = load_config(file, {}).broker
    assert broker is not None
    found = (broker.tls_ca_file, broker.tls_cert_file, broker.tls_key_file)
    assert found == tuple(tmp_path / name for name in ("ca.pem", "cert.pem", "key.pem"))


def test_a_certificate_and_its_key_may_be_one_private_file(tmp_path: Path) -> None:
    assert load_config(tls(tmp_path, tls_cert_file="both.pem"), {}).broker
    with pytest.raises(ConfigError, match=r"broker\.tls_cert_file.*chmod 600"):
        load_config(tls(tmp_path, tls_cert_file="cert.pem"), {})


def test_a_certificate_without_its_key_is_not_told_to_be_private(tmp_path: Path) -> None:
    file = tls(tmp_path, tls_cert_file="cert.pem")
    (tmp_path / "cert.pem").write_text("-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n")
    with pytest.raises(ConfigError, match=r"cert\.pem holds no private key: set broker\.tls_key_file$"):
        load_config(file, {})


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"broker\.tls_key_file: .*cert\.pem can be read by others; chmod 600"):
        load_config(tls(tmp_path, tls_cert_file="ca.pem", tls_key_file="cert.pem"), {})


@pytest.mark.parametrize("name", ["tls_ca_file", "tls_cert_file"])
def test_a_missing_tls_file_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=rf"broker\.{name}: .*gone\.pem can't be read"):
        load_config(tls(tmp_path, **{name: "gone.pem"}), {})


def test_a_key_needs_its_certificate(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="set tls_cert_file") as caught:
        load_config(tls(tmp_path, tls_key_file="key.pem"), {})
    assert "s3cret" not in str(caught.value)


def test_a_section_that_is_wrong_as_a_whole_is_not_repeated(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, {"node": GOOD["node"], "broker": {"url": {"password": "s3cret"}}}), {})
    assert "s3cret" not in str(caught.value)


def test_peers_may_stand_in_a_variable(tmp_path: Path) -> None:
    broker = load_config(write(tmp_path, GOOD), {"ROWFERRY_BROKER_PEERS": "a,b"}).broker
    assert broker is not None
    assert broker.peers == ("a", "b")


def test_a_missing_secret_file_is_named(tmp_path: Path) -> None:
    file = write(tmp_path, {"node": {"id": "store-1", "database_file": "gone"}})
    with pytest.raises(ConfigError, match=r"node\.database_file: .*gone"):
        load_config(file, {})


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("sqlite:///store.db", "sqlite:///{folder}/store.db"),
        ("sqlite:////var/store.db", "sqlite:////var/store.db"),
        ("postgresql://host/db", "postgresql://host/db"),
    ],
)
def test_relative_paths_count_from_the_files_folder(tmp_path: Path, url: str, expected: str) -> None:
    config = load_config(write(tmp_path, changed("node.database", url)), {})
    assert config.node.database == expected.format(folder=tmp_path)
    assert config.directory is not None
    assert config.directory.path == tmp_path / "exchange"


@pytest.mark.parametrize("name", ["what?", "a%41", "100%", "a&b #1", "é"])
def test_a_relative_database_is_found_in_a_folder_of_any_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    config = load_config(write(tmp_path / name, changed("node.database", "sqlite:///my%20store.db?timeout=3")), {})
    url = sa.make_url(config.node.database)
    assert (url.database, dict(url.query)) == (str(tmp_path / name / "my store.db"), {"timeout": "3"})


@pytest.mark.parametrize(
    ("given", "environ", "expected"),
    [
        ("a.toml", {"ROWFERRY_CONFIG": "b.toml"}, "a.toml"),
        (None, {"ROWFERRY_CONFIG": "b.toml"}, "b.toml"),
        (None, {}, "rowferry.toml"),
    ],
)
def test_which_file_is_read(given: str | None, environ: dict[str, str], expected: str) -> None:
    assert config_path(given, environ) == Path(expected)


PRIVATE = "ed25519-private:3xRVUFkKrVZcMvA1BqBq1yqM7eHq0yMZ9lKp2l8x0aA="


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("signers.main", PRIVATE),
        ("node.signing_kye", PRIVATE),
        ("server.token", "rf_k3xabc_s3cretS3cret"),
        ("node.passwrod", "hunter2"),
        ("limits.early_seconds", "rf_k3xabc_s3cretS3cret"),
    ],
)
def test_a_secret_in_the_wrong_place_is_not_told(tmp_path: Path, setting: str, value: str) -> None:
    with pytest.raises(ConfigError, match=setting.split(".")[0]) as caught:
        load_config(write(tmp_path, changed(setting, value)), {})
    assert value not in str(caught.value)


def test_keys_for_one_node_under_two_spellings_are_refused(tmp_path: Path) -> None:
    public = "ed25519:" + base64.b64encode(bytes(32)).decode()
    with pytest.raises(ConfigError, match="main and MAIN are the same node"):
        load_config(write(tmp_path, GOOD | {"signers": {"main": public, "MAIN": public}}), {})


@pytest.mark.parametrize("url", ["postgresql://u:s3cret@h:x/d", "u:s3cret@h/d"])
def test_a_database_url_that_is_none_is_named_without_its_password(url: str) -> None:
    with pytest.raises(ConfigError, match=r"node\.database") as caught:
        open_database(url)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("given", ["*", "0.0.0.0/0", "proxy.example"])
def test_who_is_believed_as_a_proxy_is_named_by_address(tmp_path: Path, given: str) -> None:
    with pytest.raises(ConfigError, match=r"server\.proxies: .* name the proxy's own address"):
        load_config(write(tmp_path, changed("server.proxies", [given])), {})
    with pytest.raises(ConfigError, match=r"server\.proxies: .* name the proxy's own address"):
        load_config(write(tmp_path, GOOD), {"ROWFERRY_SERVER_PROXIES": f"10.0.0.1, {given}"})


def test_proxies_are_addresses_and_networks(tmp_path: Path) -> None:
    named = ["10.0.0.1", "10.1.0.0/16", "2001:db8::1", "fd00::/8"]
    assert load_config(write(tmp_path, changed("server.proxies", named)), {}).server.proxies == tuple(named)
