"""`rowferry init`: what it writes loads again, is commented, private where it must be, and overwrites nothing."""

from __future__ import annotations

import json
import stat
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from common.cli.init import Choices, render
from common.cli.main import build
from common.config.load import load_config
from common.config.toml import toml_text


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "rowferry.toml"


def init(file: Path, *options: str, node: str = "store-1", database: str = "sqlite:///store.db") -> Result:
    line = ["--config", str(file), "init", "--node", node, "--database", database, *options]
    return CliRunner().invoke(build([]), line)


def test_the_default_carries_batches_through_a_folder(file: Path) -> None:
    result = init(file)
    assert result.exit_code == 0, result.stderr
    config = load_config(file, {})
    assert (config.node.id, config.node.role, config.broker) == ("store-1", "branch", None)
    assert config.node.database == f"sqlite:///{file.parent / 'store.db'}"
    assert config.directory is not None
    assert config.directory.path == file.parent / "exchange"
    assert config.directory.path.is_dir()
    assert config.tables.include == ("*",)


def test_with_a_broker_the_folder_stays_a_comment(file: Path) -> None:
    assert init(file, "--broker", "amqp://host/").exit_code == 0
    config = load_config(file, {})
    assert config.directory is None
    assert config.broker is not None
    assert config.broker.url == "amqp://host/"
    assert "# [directory]" in file.read_text()
    assert not (file.parent / "exchange").exists()


def test_a_broker_and_a_folder(file: Path) -> None:
    assert init(file, "--broker", "amqp://host/", "--directory", "/mnt/share").exit_code == 0
    config = load_config(file, {})
    assert config.broker is not None
    assert config.directory is not None
    assert config.directory.path == Path("/mnt/share")


def test_tables_are_repeatable_or_with_commas(file: Path) -> None:
    assert init(file, "--tables", "sale, store", "--tables", 'odd "name"', "--tables", "sale").exit_code == 0
    assert load_config(file, {}).tables.include == ("sale", "store", 'odd "name"')


def test_policies(file: Path) -> None:
    assert init(file, "--policy", "sale=lww", "--policy", "a=b=lww").exit_code == 0
    assert {name: str(policy) for name, policy in load_config(file, {}).tables.policy.items()} == {
        "sale": "lww",
        "a=b": "lww",
    }


@pytest.mark.parametrize("policy", ["sale", "sale=", "=lww"])
def test_a_policy_without_its_two_sides_is_a_usage_error(file: Path, policy: str) -> None:
    result = init(file, "--policy", policy)
    assert result.exit_code == 2
    assert "TABLE=POLICY" in result.stderr
    assert not file.exists()


@pytest.mark.parametrize(
    ("options", "node", "database", "key"),
    [
        ((), "store 1", "sqlite:///store.db", "node.id"),
        ((), "store-1", "store.db", "node.database"),
        (("--broker", "nonsense"), "store-1", "sqlite:///store.db", "broker.url"),
        (("--policy", "sale=fastest"), "store-1", "sqlite:///store.db", "tables.policy.sale"),
    ],
)
def test_what_would_not_load_is_never_written(
    file: Path, options: tuple[str, ...], node: str, database: str, key: str
) -> None:
    result = init(file, *options, node=node, database=database)
    assert result.exit_code == 2
    assert key in result.stderr
    assert str(file) in result.stderr
    assert ".tmp" not in result.stderr
    assert list(file.parent.iterdir()) == []


def test_nothing_is_overwritten_without_force(file: Path) -> None:
    file.write_text("mine")
    result = init(file)
    assert (result.exit_code, file.read_text()) == (2, "mine")
    assert "--force" in result.stderr
    assert init(file, "--force").exit_code == 0
    assert load_config(file, {}).node.id == "store-1"


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    result = init(tmp_path / "away" / "rowferry.toml")
    assert result.exit_code == 2
    assert str(tmp_path / "away") in result.stderr


@pytest.mark.parametrize(
    ("options", "database", "mode"),
    [
        ((), "sqlite:///store.db", 0o644),
        ((), "postgresql://u:secret@host/db", 0o600),
        (("--broker", "amqp://u:secret@host/"), "sqlite:///store.db", 0o600),
        (("--broker", "amqp://u@host/"), "sqlite:///store.db", 0o644),
    ],
)
def test_a_file_with_a_password_is_private(file: Path, options: tuple[str, ...], database: str, mode: int) -> None:
    result = init(file, *options, database=database)
    assert result.exit_code == 0
    assert stat.S_IMODE(file.stat().st_mode) == mode
    assert "secret" not in result.output


def test_the_environment_does_not_hide_a_fault(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROWFERRY_NODE_ID", "fine")
    assert init(file, node="not fine").exit_code == 2


def test_json(file: Path) -> None:
    assert json.loads(init(file, "--json").stdout) == {
        "config": str(file),
        "node": "store-1",
        "role": "branch",
        "sink": "directory",
        "directory": str(file.parent / "exchange"),
        "private": False,
    }


def test_every_setting_stands_beside_its_meaning() -> None:
    lines = render(Choices("store-1", "sqlite:///store.db")).splitlines()
    bare = [line for line in lines if "=" in line and "  # " not in line]
    assert [line.lstrip("# ") for line in bare] == ["exclude = []", 'channel = "default"']


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_comes_back_from_toml(text: str) -> None:
    assert tomllib.loads(f"key = {toml_text(text)}") == {"key": text}


def test_what_to_do_next_names_the_configuration_that_was_written(tmp_path: Path) -> None:
    file = tmp_path / "shop.toml"
    arguments = ["--config", str(file), "init", "--node", "shop", "--database", "sqlite:///shop.db"]
    done = CliRunner().invoke(build([]), arguments)
    assert f"rowferry --config {file} migrate" in done.stdout


def test_a_database_that_this_release_does_not_know_is_refused_at_once(tmp_path: Path) -> None:
    file = tmp_path / "shop.toml"
    arguments = ["--config", str(file), "init", "--node", "shop", "--database", "mysql://user@host/shop"]
    done = CliRunner().invoke(build([]), arguments)
    assert done.exit_code == 2
    assert "sqlite and postgresql" in done.stderr
    assert not file.exists()
