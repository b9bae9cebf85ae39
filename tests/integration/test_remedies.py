"""What is said to help does help: each remedy is one that can be followed."""

from __future__ import annotations

import os
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from common.cli.main import build
from common.config.load import load_config
from common.errors import ConfigError
from tests.support.applying import Origin
from tests.support.cli import call, document, ok, rowferry
from tests.support.nodes import ROWFERRY, CliNode, sqlite_database

INIT = ("init", "--node", "x", "--database", "sqlite:///x.db", "--force")


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[CliNode]:
    ddl = [
        "CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT, price NUMERIC(12, 2))",
        'CREATE TABLE "Order Line" (id INTEGER PRIMARY KEY AUTOINCREMENT)',
    ]
    made = CliNode.init("b", tmp_path / "b", sqlite_database(tmp_path, "b.db", ddl))
    ok(made, "migrate")
    monkeypatch.chdir(made.folder)
    yield made
    made.close()


@pytest.mark.skipif(os.name != "posix", reason="modes of files")
def test_a_folder_is_no_secret_file(tmp_path: Path) -> None:
    config = tmp_path / "rowferry.toml"
    folder = tmp_path / "secrets"
    folder.mkdir(mode=0o755)
    config.write_text(f'[node]\nid = "b"\ndatabase_file = "{folder}"\n')
    with pytest.raises(ConfigError, match=r"node\.database_file: .*is a folder") as told:
        load_config(config, {})
    assert "chmod" not in str(told.value)
    config.write_text(
        f'[node]\nid = "b"\ndatabase = "sqlite:///b.db"\n[peers.m]\nurl = "https://m"\ntoken_file = "{folder}"\n'
    )
    with pytest.raises(ConfigError, match=r"peers\.m\.token_file: .*is a folder"):
        load_config(config, {})


def test_a_configuration_that_can_not_be_read_is_no_matter_of_toml(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(ConfigError, match=r"folder: can't be read: Is a directory") as told:
        load_config(tmp_path / "folder", {})
    assert "TOML" not in str(told.value)
    (tmp_path / "wrong").write_text("= 1")
    with pytest.raises(ConfigError, match="can't be read as TOML"):
        load_config(tmp_path / "wrong", {})


def test_what_doctor_says_to_write_into_the_configuration_is_toml(node: CliNode) -> None:
    (finding,) = [one for one in document(node.folder / "rowferry.toml", "doctor")["findings"] if one["remedy"]
                  and "Order Line" in one["remedy"]]  # fmt: skip
    written = finding["remedy"].replace("[tables.keys] ", "").partition(" |")[0]
    assert tomllib.loads(f"[tables.keys]\n{written}\n") == {"tables": {"keys": {"Order Line": "stride"}}}


def test_one_table_has_one_policy(node: CliNode) -> None:
    for command in (INIT, ("conflicts", "simulate")):
        done = call(node, *command, "--policy", "item=lww", "--policy", "item=manual")
        assert done.exit_code == 2, done.output
        assert "--policy" in done.stderr
        assert "item" in done.stderr
        assert "TOML" not in done.stderr
    ok(node, *INIT, "--policy", "item=lww", "--policy", "item=lww")


def test_init_takes_an_address_that_is_none_for_wrong_and_not_for_a_fault(node: CliNode) -> None:
    done = call(node, *INIT, "--broker", "amqp://user:[S3cret@host/")
    assert (done.exit_code, "broker.url" in done.stderr, "S3cret" in done.output) == (2, True, False), done.output


@pytest.fixture
def letter(node: CliNode, tmp_path: Path) -> bytes:
    body = Origin("a").put(1, "x", 10).body.replace(b'"item"', b'"nowhere"')
    (tmp_path / "in.jsonl").write_bytes(body)
    body = _sealed_anew(tmp_path / "in.jsonl")
    assert call(node, "import-change-log", str(tmp_path / "in.jsonl")).exit_code == 4
    return body


def _sealed_anew(file: Path) -> bytes:
    """Make the checksum of a batch that was altered good again."""
    import hashlib
    import json

    *lines, end = file.read_bytes().splitlines(keepends=True)
    trailer = json.loads(end) | {"sha256": hashlib.sha256(b"".join(lines)).hexdigest()}
    file.write_bytes(b"".join(lines) + json.dumps(trailer, separators=(",", ":")).encode() + b"\n")
    return file.read_bytes()


def test_dead_letters_are_written_to_stdout(node: CliNode, letter: bytes) -> None:
    line = ["--config", str(node.folder / "rowferry.toml"), "dlq", "export", "--all", "--out", "-"]
    done = CliRunner().invoke(build(), line)
    assert (done.exit_code, done.stdout_bytes) == (0, letter), done.output
    assert not (node.folder / "-").exists()
    assert [one["action"] for one in document(node.folder / "rowferry.toml", "audit")][-1] == "exported"
    assert call(node, "dlq", "export", "--all", "--out", "-", "--json").exit_code == 2


@pytest.mark.parametrize(
    "command",
    [
        ("export-change-log", "--out"),
        ("push", "--file"),
        ("snapshot", "export", "--out"),
        ("verify", "--export"),
        ("dlq", "export", "--all", "--out"),
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("ending", [".bz2", ".XZ", ".zip", ".lz4"])
def test_no_file_says_to_be_wrapped_in_what_it_is_not(node: CliNode, command: tuple[str, ...], ending: str) -> None:
    done = call(node, *command, f"x.jsonl{ending}")
    assert done.exit_code == 2, done.output
    assert ending.lower() in done.stderr.lower()
    assert not (node.folder / f"x.jsonl{ending}").exists()


@pytest.mark.parametrize("ending", [".gz", ".zst"])
def test_dead_letters_are_not_wrapped(node: CliNode, ending: str) -> None:
    done = call(node, "dlq", "export", "--all", "--out", f"x.jsonl{ending}")
    assert (done.exit_code, ending in done.stderr) == (2, True), done.output


def test_the_configuration_as_a_folder(tmp_path: Path) -> None:
    done = rowferry(tmp_path, "status")
    assert done.exit_code == 2
    assert "fault" not in done.output


@pytest.mark.skipif(os.name != "posix", reason="limits of a process")
@pytest.mark.parametrize(
    ("file", "command"),
    [
        ("new.toml", ["--config", "new.toml", *INIT]),
        ("b.key", ["key", "create", "--out", "b.key"]),
        ("rowferry-passwords.json", ["topology", "export", "--out", "definitions.json"]),
    ],
    ids=["init", "key create", "topology export"],
)
def test_a_file_that_can_not_be_written_is_named_with_what_helps(node: CliNode, file: str, command: list[str]) -> None:
    environment = {**os.environ, "ROWFERRY_BROKER_URL": "amqp://b:b@127.0.0.1:1/"}
    # As a full disk does: the file can be made, and nothing can be written to it.
    done = subprocess.run(
        ["sh", "-c", 'ulimit -f 0 && exec "$@"', "sh", str(ROWFERRY), *command],
        cwd=node.folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert f"{node.folder / file}: " in done.stderr or f" {file}: " in done.stderr
    assert "ulimit -f" in done.stderr
    assert not (node.folder / file).exists()
