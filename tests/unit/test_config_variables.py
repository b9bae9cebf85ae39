"""Variables: every setting has one, names in them are found, they win over the file, and errors name them."""

from __future__ import annotations

import os
import re
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from common.cli.main import sentence_for
from common.config.load import load_config
from common.config.model import Config, KeyRule, PeerSection, Policy
from common.config.variables import overlay, with_variables
from common.errors import ConfigError, OutageError, PreflightError
from tests.support.cli import document, rowferry
from tests.support.private import write_private

PLAIN = '[node]\nid = "store-1"\ndatabase = "sqlite:///store.db"\n'


def config(folder: Path, more: str = "", node: str = PLAIN) -> Path:
    return write_private(folder / "rowferry.toml", node + more)


def private(folder: Path, name: str, text: str) -> str:
    write_private(folder / name, text)
    return name


def told(file: Path, **environ: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(file, environ)
    return str(caught.value)


def plain_settings() -> list[tuple[str, str]]:
    found = []
    for section, field in Config.model_fields.items():
        kinds = [field.annotation, *getattr(field.annotation, "__args__", ())]
        models = [kind for kind in kinds if hasattr(kind, "model_fields") and section not in ("peers", "signers")]
        found += [(section, key) for model in models for key in model.model_fields]
    by_name = {("tables", "policy"), ("tables", "keys")}
    assert by_name < set(found)
    secret_files = [("node", "database_file"), ("node", "signing_key_file"), ("broker", "url_file")]
    return [*(one for one in found if one not in by_name), *secret_files]


def named_settings() -> list[tuple[str, ...]]:
    return [
        *(("peers", "main", key) for key in PeerSection.model_fields),
        ("signers", "main"),
        ("tables", "policy", "main"),
        ("tables", "keys", "main"),
    ]


@pytest.mark.parametrize("setting", [*plain_settings(), *named_settings()], ids=".".join)
def test_every_setting_has_a_variable(setting: tuple[str, ...]) -> None:
    tree: dict[str, Any] = {}
    name = f"ROWFERRY_{'__'.join(setting).upper()}"
    given = overlay(tree, {name: "x"})
    assert given[setting] == name
    found: Any = tree
    for step in setting:
        found = found[step]
    assert found in ("x", ["x"])
    if setting in plain_settings():
        short = f"ROWFERRY_{'_'.join(setting).upper()}"
        assert overlay({}, {short: "x"})[setting] == short


def test_the_variables_of_the_documentation_are_settings() -> None:
    page = Path(__file__).parents[2] / "docs" / "reference" / "configuration.md"
    names = set(re.findall(r"`(ROWFERRY_\w+[A-Z0-9])`", page.read_text(encoding="utf-8")))
    names -= {"ROWFERRY_CONFIG", "ROWFERRY_SECTION_KEY"}
    assert len(names) > 6
    known = {*plain_settings(), *named_settings()}
    for name in names:
        setting = list(max(overlay({}, {name: "x"}), key=len))
        if len(setting) == 3 or setting[0] == "signers":
            setting[2 if setting[0] == "tables" else 1] = "main"
        assert tuple(setting) in known, name


def test_nested_sections_are_reached(tmp_path: Path) -> None:
    file = config(tmp_path, '[peers.main]\nurl = "https://old"\n[tables.policy]\nsale = "lww"\n')
    loaded = load_config(
        file,
        {
            "ROWFERRY_PEERS__MAIN__URL": "https://new",
            "ROWFERRY_PEERS__MAIN__TRUSTED_FORWARDER": "false",
            "ROWFERRY_PEERS_NEW__URL": "https://other",
            "ROWFERRY_TABLES__POLICY__SALE": "manual",
            "ROWFERRY_TABLES_POLICY__COMPANY": "main-wins",
            "ROWFERRY_TABLES_KEYS__SALE": "shared",
        },
    )
    main = loaded.peers["main"]
    assert (main.url, main.trusted_forwarder, loaded.peers["new"].url) == ("https://new", False, "https://other")
    assert loaded.tables.policy == {"sale": Policy.MANUAL, "company": Policy.MAIN_WINS}
    assert loaded.tables.keys == {"sale": KeyRule.SHARED}


def test_several_public_keys_stand_with_commas(tmp_path: Path) -> None:
    key = "ed25519:" + "A" * 43 + "="
    other = "ed25519:" + "B" * 42 + "A="
    file = config(tmp_path, f'[signers]\nshop-2 = "{key}"\n')
    loaded = load_config(file, {"ROWFERRY_SIGNERS_SHOP_2": f"{key}, {other}", "ROWFERRY_SIGNERS__MAIN": key})
    assert loaded.signers == {"shop-2": (key, other), "main": (key,)}


NAMES = [
    ('[peers.store-042]\nurl = "https://x"\n', "PEERS__STORE_042__URL", ("peers", "store-042", "url")),
    ('[peers.Head_Office]\nurl = "https://x"\n', "PEERS__HEAD_OFFICE__URL", ("peers", "Head_Office", "url")),
    ('[peers.a__b]\nurl = "https://x"\n', "PEERS__A__B__URL", ("peers", "a__b", "url")),
    ('[peers._a_]\nurl = "https://x"\n', "PEERS___A___URL", ("peers", "_a_", "url")),
    ('[broker]\nurl = "amqp://h"\nlisten = ["shop-7"]\n', "PEERS__SHOP_7__URL", ("peers", "shop-7", "url")),
    ('[broker]\nurl = "amqp://h"\npeers = ["shop-7"]\n', "PEERS__SHOP_7__URL", ("peers", "shop-7", "url")),
    ('main = "the-main"\n', "PEERS__THE_MAIN__URL", ("peers", "the-main", "url")),
    ('[tables.policy]\n"My table" = "lww"\n', "TABLES_POLICY__MY_TABLE", ("tables", "policy", "My table")),
    ('[tables]\ninclude = ["a - b"]\n', "TABLES_POLICY__A___B", ("tables", "policy", "a - b")),
    ('[tables]\ninclude = ["shop.Sale"]\n', "TABLES__KEYS__SHOP_SALE", ("tables", "keys", "shop.Sale")),
    ('[tables]\nexclude = ["Größe"]\n', "TABLES__KEYS__GR__E", ("tables", "keys", "Größe")),
    ('[tables.keys]\nSALE = "shared"\n', "TABLES_POLICY__SALE", ("tables", "policy", "SALE")),
    ("", "TABLES_POLICY__SALE", ("tables", "policy", "sale")),
    ("", "PEERS__STORE_042__URL", ("peers", "store_042", "url")),
]


@pytest.mark.parametrize(("more", "name", "setting"), NAMES, ids=[one[1] for one in NAMES])
def test_names_are_spelt_as_in_the_file(tmp_path: Path, more: str, name: str, setting: tuple[str, ...]) -> None:
    file = config(tmp_path, more)
    values = {"url": "https://given", "policy": "manual", "keys": "main-only"}
    loaded = load_config(file, {f"ROWFERRY_{name}": values[setting[2] if setting[0] == "peers" else setting[1]]})
    if setting[0] == "peers":
        assert loaded.peers[setting[1]].url == "https://given"
    elif setting[1] == "policy":
        assert loaded.tables.policy[setting[2]] is Policy.MANUAL
    else:
        assert loaded.tables.keys[setting[2]] is KeyRule.MAIN_ONLY


def test_a_name_may_be_one_that_another_variable_gives(tmp_path: Path) -> None:
    environ = {
        "ROWFERRY_TABLES__INCLUDE": "Order Line,sale",
        "ROWFERRY_TABLES_KEYS__ORDER_LINE": "shared",
        "ROWFERRY_NODE__MAIN": "head-office",
        "ROWFERRY_PEERS__HEAD_OFFICE__URL": "https://main",
    }
    for order in (environ, dict(reversed(environ.items()))):
        loaded = load_config(config(tmp_path), order)
        assert (list(loaded.tables.keys), list(loaded.peers)) == (["Order Line"], ["head-office"])


@pytest.mark.parametrize(
    ("more", "name"),
    [
        ('[tables]\ninclude = ["my table", "My_Table"]\n', "TABLES_POLICY__MY_TABLE"),
        ('[tables.policy]\nmy_table = "lww"\n[tables.keys]\n"my.table" = "shared"\n', "TABLES__KEYS__MY_TABLE"),
        ('[peers.a-b]\nurl = "https://x"\n[peers.a_b]\nurl = "https://x"\n', "PEERS__A_B__URL"),
    ],
)
def test_a_name_that_may_be_two_is_refused(tmp_path: Path, more: str, name: str) -> None:
    text = told(config(tmp_path, more), **{f"ROWFERRY_{name}": "manual"})
    assert re.fullmatch(rf"variable ROWFERRY_{name}: it may mean '.*' or '.*'; set it in the file instead", text)


@given(names=st.sets(st.text("aA-_. 1", min_size=1, max_size=4), min_size=1, max_size=5), data=st.data())
@example(names={"a_", "a-"}, data=None)
def test_never_another_name_than_the_one_that_is_meant(names: set[str], data: Any) -> None:
    meant = data.draw(st.sampled_from(sorted(names))) if data else "a_"
    alike = {one for one in names if re.sub("[^a-z1]", "_", one.lower()) == re.sub("[^a-z1]", "_", meant.lower())}
    variable = "ROWFERRY_TABLES__POLICY__" + re.sub("[^A-Z1]", "_", meant.upper())
    tree: dict[str, Any] = {"tables": {"include": sorted(names)}}
    try:
        overlay(tree, {variable: "manual"})
    except ConfigError:
        assert len(alike) > 1
    else:
        assert (tree["tables"]["policy"], alike) == ({meant: "manual"}, {meant})


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("NOWHERE_ID", "there is no section [nowhere]"),
        ("NODE", "it must be ROWFERRY_SECTION_KEY"),
        ("NODE_", "it must be ROWFERRY_SECTION_KEY"),
        ("NODE_COLOUR", "node.colour: there is no such setting"),
        ("NODE_AUTO__MIGRATE", "node.auto__migrate: there is no such setting"),
        ("TABLES_POLICY_SALE", "tables.policy_sale: there is no such setting"),
        ("TABLES_POLICY", "it must be ROWFERRY_TABLES__POLICY__TABLE"),
        ("TABLES__KEYS__", "it must be ROWFERRY_TABLES__KEYS__TABLE"),
        ("PEERS_MAIN", "it must be ROWFERRY_PEERS__NAME__KEY"),
        ("PEERS_MAIN_URL", "it must be ROWFERRY_PEERS__NAME__KEY"),
        ("PEERS__MAIN__", "it must be ROWFERRY_PEERS__NAME__KEY"),
        ("PEERS__MAIN__TOKEN", "peers.main.token: there is no such setting"),
    ],
)
def test_a_variable_that_is_no_setting_is_named(tmp_path: Path, name: str, remedy: str) -> None:
    file = config(tmp_path, '[peers.main]\nurl = "https://main"\n')
    assert told(file, **{f"ROWFERRY_{name}": "S3cret"}).startswith(f"variable ROWFERRY_{name}: ")
    text = told(file, **{f"ROWFERRY_{name}": "S3cret"})
    assert (remedy in text, str(file) in text, "S3cret" in text) == (True, False, False)


@pytest.mark.parametrize("name", ["ROWFERRY_CONFIG", "ROWFERRY_TEST_X", "ROWFERRY_REQUIRE_SERVICES", "ROWFERRY"])
def test_other_variables_of_that_name_are_no_settings(tmp_path: Path, name: str) -> None:
    assert load_config(config(tmp_path), {name: "x"}).node.id == "store-1"


@pytest.mark.parametrize(
    ("section", "key", "secret"),
    [
        ("node", "database", "postgresql://shop:S3cret@db/shop"),
        ("node", "signing_key", "ed25519-private:3xRVUFkKrVZcMvA1BqBq1yqM7eHq0yMZ9lKp2l8x0aA="),
        ("broker", "url", "amqp://shop:S3cret@host/"),
    ],
)
def test_a_secret_in_a_variable_wins_in_either_form_over_both_in_the_file(
    tmp_path: Path, section: str, key: str, secret: str
) -> None:
    private(tmp_path, "named-by-variable", secret + "\n")
    node = {"id": '"store-1"', "database": '"sqlite:///store.db"'} if key != "database" else {"id": '"store-1"'}
    for stands in (f'{key} = "of the file"', f'{key}_file = "gone"', ""):
        lines = "".join(f"{name} = {value}\n" for name, value in node.items())
        text = f"[node]\n{lines}{stands}\n" if section == "node" else f"[node]\n{lines}[{section}]\n{stands}\n"
        file = write_private(tmp_path / "rowferry.toml", text)
        plain, in_file = (f"ROWFERRY_{section}_{key}{end}".upper() for end in ("", "_file"))
        for environ in (
            {plain: secret},
            {in_file: "named-by-variable"},
            {in_file: str(tmp_path / "named-by-variable")},
        ):
            assert getattr(getattr(load_config(file, environ), section), key) == secret
        for second in (in_file, in_file.replace("_", "__", 2).replace("ROWFERRY__", "ROWFERRY_")):
            both = told(file, **{plain: secret, second: "named-by-variable"})
            assert both in (
                f"variables {plain} and {second} both set the same setting: remove one of them",
                f"variables {second} and {plain} both set the same setting: remove one of them",
            )


def test_two_variables_for_one_setting_are_refused(tmp_path: Path) -> None:
    text = told(config(tmp_path), ROWFERRY_NODE_ID="a", ROWFERRY_NODE__ID="b")
    assert text == "variables ROWFERRY_NODE_ID and ROWFERRY_NODE__ID both set the same setting: remove one of them"
    file = config(tmp_path, '[tables]\ninclude = ["my table"]\n')
    if os.name == "posix":
        names = {"ROWFERRY_TABLES_KEYS__MY_TABLE": "shared", "ROWFERRY_TABLES_KEYS__my table": "shared"}
        assert "both set the same setting" in told(file, **names)


def test_a_secret_file_that_others_can_read_is_refused_by_the_variables_name(tmp_path: Path) -> None:
    file = config(tmp_path)
    (tmp_path / "open").write_text("sqlite:///x.db")
    (tmp_path / "open").chmod(0o644)
    text = told(file, ROWFERRY_NODE_DATABASE_FILE="open")
    start = f"variable ROWFERRY_NODE_DATABASE_FILE: node.database_file: {tmp_path}"
    assert text == f"{start}/open can be read by others; chmod 600 it"
    assert told(file, ROWFERRY_NODE_DATABASE_FILE="gone").startswith(f"{start}/gone can't be read")


FAULTS = [
    ({"NODE_ID": "a b"}, "node.id: use 1 to 64 letters, digits, '-' or '_' (given: 'a b')"),
    ({"NODE__ID": "a b"}, "node.id: use 1 to 64"),
    ({"NODE_DATABASE": "S3cret"}, "node.database: must be an SQLAlchemy URL"),
    ({"NODE_DATABASE_FILE": "wrong"}, "node.database: must be an SQLAlchemy URL"),
    ({"LIMITS_EARLY_SECONDS": "soon"}, "limits.early_seconds: "),
    ({"BROKER_LISTEN": "a,b c"}, "broker.listen.1: use 1 to 64"),
    ({"SERVER_PROXIES": "*"}, "server.proxies: "),
    ({"TABLES_POLICY__SALE": "newest"}, "tables.policy.sale: "),
    ({"PEERS__MAIN__URL": "main"}, "peers.main.url: must be a URL"),
    ({"PEERS__OTHER__TOKEN_FILE": "x"}, "peers.other.url: it is required, and missing"),
    ({"SIGNERS_MAIN": "ed25519-private:S3cret"}, "signers.main.0: "),
    ({"BROKER_TLS_CA_FILE": "gone.pem"}, "broker.tls_ca_file: "),
    ({"SERVER_TLS_CERT_FILE": "gone.pem"}, "server.tls_cert_file: "),
    ({"PEERS__MAIN__TOKEN_FILE": "open"}, "peers.main.token_file: "),
]


@pytest.mark.parametrize(("given", "fault"), FAULTS, ids=[next(iter(one)) for one, _ in FAULTS])
def test_an_error_about_a_variables_value_names_it(tmp_path: Path, given: dict[str, str], fault: str) -> None:
    more = '[broker]\nurl = "amqps://host/"\n[peers.main]\nurl = "https://main"\n'
    file = config(tmp_path, more)
    private(tmp_path, "wrong", "S3cret")
    (tmp_path / "open").write_text("S3cret")
    (tmp_path / "open").chmod(0o644)
    ((name, value),) = given.items()
    text = told(file, **{f"ROWFERRY_{name}": value})
    assert text.startswith(f"variable ROWFERRY_{name}: {fault}")
    assert (f"{file}: " in text, "S3cret" in text, "\n" in text) == (False, False, False)


def test_an_error_about_the_files_value_still_names_the_file(tmp_path: Path) -> None:
    file = config(tmp_path, "[fallback]\nafter = 0\n")
    lines = told(file, ROWFERRY_NODE_ID="a b", ROWFERRY_NODE_ROLE="main").splitlines()
    assert [line.partition(": ")[0] for line in lines] == ["variable ROWFERRY_NODE_ID", str(file)]


def test_a_section_that_variables_begin_is_theirs(tmp_path: Path) -> None:
    text = told(config(tmp_path), ROWFERRY_BROKER_CHANNEL="x", ROWFERRY_BROKER_PREFETCH="5")
    assert text.startswith("variable ROWFERRY_BROKER_CHANNEL, ROWFERRY_BROKER_PREFETCH: broker.url: it is required")


def test_where_settings_do_not_fit_together_the_variable_is_named_too(tmp_path: Path) -> None:
    file = config(tmp_path, '[broker]\nurl = "amqps://host/"\ntls_ca_file = "x"\n[retention]\nlog_max_days = 50\n')
    for name, value, setting in (
        ("ROWFERRY_BROKER_MAX_MESSAGE_BYTES", "65536", "broker.max_message_bytes"),
        ("ROWFERRY_RETENTION_LOG_DAYS", "60", "retention.log_days"),
        ("ROWFERRY_BROKER_URL", "amqp://host/", "broker.url"),
        ("ROWFERRY_TABLES_KEYS__SALE", "stride", "tables.keys.sale"),
    ):
        text = told(file, **{name: value})
        assert f"({setting} is given by the variable {name})" in text


def test_a_neighbour_in_the_section_is_not_blamed() -> None:
    environ = {"ROWFERRY_PEERS__MAIN__URL": "x", "ROWFERRY_TABLES_KEYS__SALE": "stride"}
    for text in ("peers.main.token_file: gone", "tables.key_nodes", "tables.keys.item"):
        assert with_variables(text, environ) == text
    assert "(tables.keys.sale is given by" in with_variables("[tables.keys] names no table; set tables.keys", environ)


def test_later_errors_name_the_variable_too() -> None:
    environ = {"ROWFERRY_NODE_DATABASE": "x", "ROWFERRY_BROKER_URL_FILE": "y", "ROWFERRY_NOWHERE_X": "z"}
    assert with_variables("node.database: it has no host", environ) == (
        "node.database: it has no host (node.database is given by the variable ROWFERRY_NODE_DATABASE)"
    )
    assert with_variables("[broker] url is wrong", environ).endswith(
        "(broker.url_file is given by the variable ROWFERRY_BROKER_URL_FILE)"
    )
    for text in (
        "node.database_kind",
        "x.node.database",
        "node.database.x",
        "node.data",
        "variable ROWFERRY_NODE_DATABASE: node.database",
        "all",
    ):
        assert with_variables(text, environ) == text


def test_sentences_of_commands_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROWFERRY_NODE_DATABASE", "postgresql://u:S3cret@h/d")
    note = " (node.database is given by the variable ROWFERRY_NODE_DATABASE)"
    for error in (ConfigError("node.database: no"), OutageError("node.database: no")):
        assert sentence_for(error) == f"node.database: no{note}"
    assert sentence_for(PreflightError("node.database: no")) == "node.database: no"


def test_commands_take_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(sqlite3.connect(tmp_path / "store.db")) as connection:
        connection.execute('CREATE TABLE "Order Line" (id TEXT PRIMARY KEY)')
    file = config(tmp_path, '[tables]\ninclude = ["Order Line"]\n[directory]\npath = "."\n')
    assert rowferry(file, "migrate").exit_code == 0
    monkeypatch.setenv("ROWFERRY_TABLES__POLICY__ORDER_LINE", "manual")
    assert document(file, "doctor")["ok"]
    monkeypatch.setenv("ROWFERRY_TABLES__POLICY__ORDER_LINES", "manual")
    assert "tables.policy names 'order_lines', which is not a captured table" in rowferry(file, "doctor").output
    done = rowferry(file, "push", "--url", "http://127.0.0.1:1")
    assert (done.exit_code, "no [peers] section has this url" in done.stderr) == (2, True)
    monkeypatch.setenv("ROWFERRY_PEERS__MAIN__URL", "http://127.0.0.1:1")
    monkeypatch.setenv(
        "ROWFERRY_PEERS__MAIN__TOKEN_FILE", private(tmp_path, "token", "rf_" + "a" * 12 + "_" + "b" * 43)
    )
    assert rowferry(file, "push", "--url", "http://127.0.0.1:1").exit_code == 5
    monkeypatch.setenv("ROWFERRY_NODE_DATABASE", "postgresql://u:S3cret@h@h/d")
    done = rowferry(file, "status")
    assert (done.exit_code, "S3cret" in done.output) == (2, False)
    assert "given by the variable ROWFERRY_NODE_DATABASE" in done.stderr
