"""Every document that `--json` prints, made by real commands and held against its published schema."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.cli import document, rowferry

ROWFERRY = Path(sys.executable).parent / "rowferry"


def node(folder: Path, name: str) -> Path:
    """Make a migrated node with one table, and return its configuration."""
    config = folder / f"{name}.toml"
    with closing(sqlite3.connect(folder / f"{name}.db")) as connection:
        connection.execute("CREATE TABLE sale (id TEXT PRIMARY KEY, note TEXT)")
    document(config, "init", "--node", name, "--database", f"sqlite:///{name}.db")
    document(config, "migrate")
    return config


def write(config: Path, sql: str) -> None:
    with closing(sqlite3.connect(config.with_suffix(".db"))) as connection:
        connection.execute(sql)
        connection.commit()


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    return node(tmp_path, "shop"), node(tmp_path, "office")


def test_the_file_way(pair: tuple[Path, Path], tmp_path: Path) -> None:
    shop, office = pair
    out = str(tmp_path / "out.jsonl")
    assert document(shop, "export-change-log", "--out", out)["txs"] == 0
    write(shop, "INSERT INTO sale VALUES ('s-1', 'new')")
    assert document(shop, "push", "--file", out)["changes"] == 1
    assert document(office, "import-change-log", out, "--dry-run")["txs"] == 1
    assert document(office, "pull", "--file", out)["applied"] == 1
    assert document(office, "import-change-log", out)["duplicates"] == 1
    (tmp_path / "torn.jsonl").write_bytes((tmp_path / "out.jsonl").read_bytes()[:-20])
    assert document(office, "import-change-log", str(tmp_path / "torn.jsonl"), code=3)["refused"]


def test_dead_letters(pair: tuple[Path, Path], tmp_path: Path) -> None:
    shop, office = pair
    out = str(tmp_path / "out.jsonl")
    write(shop, "ALTER TABLE sale ADD COLUMN price TEXT")
    document(shop, "migrate")
    write(shop, "INSERT INTO sale VALUES ('s-1', 'new', '7')")
    document(shop, "export-change-log", "--out", out)
    assert document(office, "import-change-log", out, code=4)["set_aside"][0]["reason"] == "unknown-column"

    (letter,) = document(office, "dlq", "list")
    assert (letter["source_node"], letter["reason"], letter["state"]) == ("shop", "unknown-column", "dead")
    assert document(office, "status")["state"] == "needs attention"
    tx_id = letter["tx_id"]
    assert document(office, "dlq", "show", tx_id)["blocked_by"]
    assert document(office, "dlq", "replay", tx_id, code=4)["results"][0]["outcome"] == "dead"
    assert document(office, "dlq", "export", tx_id, "--out", str(tmp_path / "dead.jsonl"))["exported"] == 1
    write(office, "ALTER TABLE sale ADD COLUMN price TEXT")
    assert document(office, "dlq", "show", tx_id)["rows"][0]["effect"] == "writes"
    assert document(office, "dlq", "replay", tx_id, "--dry-run")["dry_run"]
    assert document(office, "dlq", "discard", tx_id, "--reason", "a trial")["discarded"][0]["state"] == "discarded"
    assert document(office, "dlq", "list") == []
    assert len(document(office, "dlq", "list", "--all")) == 1


def test_migrate_tries_again_what_was_unknown(pair: tuple[Path, Path], tmp_path: Path) -> None:
    shop, office = pair
    write(shop, "ALTER TABLE sale ADD COLUMN price TEXT")
    document(shop, "migrate")
    write(shop, "INSERT INTO sale VALUES ('s-1', 'new', '7')")
    document(shop, "export-change-log", "--out", str(tmp_path / "out.jsonl"))
    document(office, "import-change-log", str(tmp_path / "out.jsonl"), code=4)
    write(office, "ALTER TABLE sale ADD COLUMN price TEXT")
    assert document(office, "migrate")["retried"] == 1
    assert document(office, "dlq", "list") == []
    assert document(office, "status")["state"] == "up to date"


def test_status_for_people(pair: tuple[Path, Path]) -> None:
    shop, office = pair
    write(shop, "INSERT INTO sale VALUES ('s-1', 'new')")
    document(shop, "run", "--once")
    document(office, "run", "--once")
    told = rowferry(office, "status").stdout.splitlines()
    assert told[:2] == ["up to date: nothing waits", "office (branch, sqlite), log up to LSN 0"]
    assert any("shop" in line and " 1 " in line for line in told)


def test_watch_and_json_exclude_each_other(pair: tuple[Path, Path]) -> None:
    result = rowferry(pair[0], "status", "--watch", "--json")
    assert (result.exit_code, result.stdout) == (2, "")


def test_watch_draws_until_ctrl_c(pair: tuple[Path, Path]) -> None:
    process = subprocess.Popen(
        [str(ROWFERRY), "--config", str(pair[0]), "status", "--watch"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    seen = next(line for line in iter(process.stdout.readline, "") if line.startswith("up to date"))
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert seen == "up to date: nothing waits\n"
    assert process.returncode == 130
    assert "Traceback" not in errors


def test_a_reader_that_leaves_is_no_traceback(pair: tuple[Path, Path]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as closed:
        command = [str(ROWFERRY), "--config", str(pair[0]), "status", "--json"]
        done = subprocess.run(command, stdout=closed, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "")
