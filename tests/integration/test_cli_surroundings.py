"""What a command meets outside itself: a terminal without Unicode, a pipe, a full disk behind stdout, nobody there."""

from __future__ import annotations

import json
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.applying import Origin, Write
from tests.support.nodes import ROWFERRY, CliNode
from tests.support.waiting import wait_for

NAME = "наклад 😀"
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
WINDOWS = {"PYTHONIOENCODING": "cp1252"}
AWAY = "amqp://guest:secret@127.0.0.1:1/"


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CliNode]:
    tmp_path = tmp_path_factory.mktemp("shop")
    with closing(sqlite3.connect(tmp_path / "shop.db")) as connection:
        connection.execute("CREATE TABLE sale (id INTEGER PRIMARY KEY, note TEXT)")
    node = CliNode.init("shop", tmp_path, "sqlite:///shop.db")
    node.ok("migrate")
    body = Origin("a").tx(Write("I", NAME, {"id": 1, "name": "x", "price": "1"}, 10)).body
    (tmp_path / "unknown.jsonl").write_bytes(body)
    node.ok("import-change-log", "unknown.jsonl", code=4)
    yield node
    node.close()


@pytest.mark.parametrize("environment", [ASCII, WINDOWS], ids=["ascii", "cp1252"])
def test_a_name_that_the_terminal_can_not_show_is_escaped(shop: CliNode, environment: dict[str, str]) -> None:
    told = shop.call("dlq", "list", **environment)
    assert (told.returncode, "unknown-table" in told.stdout, "\\U0001f600" in told.stdout) == (0, True, True)
    printed = shop.call("dlq", "list", "--json", **environment)
    assert NAME in json.loads(printed.stdout)[0]["error"]


def test_in_a_pipe_a_row_is_a_line(shop: CliNode) -> None:
    (line,) = [line for line in shop.ok("dlq", "list").splitlines() if "unknown-table" in line]
    assert shop.report("dlq", "list")[0]["tx_id"] in line


@pytest.mark.parametrize(
    "arguments", [["status", "--json"], ["status"], ["--help"], ["dlq", "--help"], ["--version"]], ids=" ".join
)
def test_a_full_disk_behind_stdout_is_a_sentence(shop: CliNode, arguments: list[str]) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [str(ROWFERRY), *arguments],
            cwd=shop.folder,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    assert (done.returncode, "can't be written: No space left" in done.stderr) == (1, True)
    assert "Traceback" not in done.stderr
    assert "bug in Rowferry" not in done.stderr


def _with_closed(shop: CliNode, number: int, arguments: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a command that has no stdin (0), stdout (1) or stderr (2) at all, as under `>&-`."""
    script = f'"$@" {"<" if number == 0 else str(number) + ">"}&-'
    return subprocess.run(
        ["/bin/sh", "-c", script, "sh", str(ROWFERRY), *arguments],
        cwd=shop.folder,
        stdin=None if number == 0 else subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    "arguments",
    [["status"], ["dlq", "list", "--json"], ["dlq", "export", "--all", "--out", "-"], ["--version"]],
    ids=" ".join,
)
def test_a_closed_stdout_is_a_sentence(shop: CliNode, arguments: list[str]) -> None:
    done = _with_closed(shop, 1, arguments)
    assert (done.returncode, "the output can't be written" in done.stderr) == (1, True)
    assert "Traceback" not in done.stderr
    assert "bug in Rowferry" not in done.stderr


def test_a_service_needs_no_stdout(shop: CliNode) -> None:
    assert _with_closed(shop, 1, ["run", "--once"]).returncode == 0


def test_without_stderr_a_command_still_answers(shop: CliNode) -> None:
    done = _with_closed(shop, 2, ["dlq", "list", "--json"])
    assert (done.returncode, len(json.loads(done.stdout))) == (0, 1)


def test_without_stdin_nobody_says_yes(shop: CliNode) -> None:
    done = _with_closed(shop, 0, ["unmigrate"])
    assert (done.returncode, "--yes" in done.stderr) == (2, True)


def test_a_database_that_another_program_holds_is_told_as_that(tmp_path: Path) -> None:
    node = CliNode.init("held", tmp_path, f"sqlite:///{tmp_path / 'app.db'}")
    node.ok("migrate")
    with closing(sqlite3.connect(tmp_path / "app.db")) as application:
        application.execute("BEGIN EXCLUSIVE")
        told = node.call("status")
        running = node.start()
        wait_for(lambda: "run.can_not_start" in running.tail(), 60, "run to wait for the file")
    assert "another program holds the database" in told.stderr
    assert "migrate" not in told.stderr
    wait_for(lambda: "run.started" in running.tail(), 60, "run to begin")
    assert running.stop() == 0


@pytest.mark.parametrize("command", [["run", "--once"], ["migrate"], ["topology", "check"]], ids=" ".join)
def test_a_broker_that_is_away_is_one_sentence(shop: CliNode, command: list[str]) -> None:
    done = shop.call(*command, ROWFERRY_BROKER_URL=AWAY)
    assert (done.returncode, done.stdout) == (5, "")
    assert "out of reach" in done.stderr
    assert "Traceback" not in done.stderr
    assert "secret" not in done.stderr


@pytest.mark.parametrize(
    "command",
    [
        ["run", "--once"],
        ["status"],
        ["migrate"],
        ["migrate", "--dry-run"],
        ["unmigrate", "--yes"],
        ["seed"],
        ["export-change-log", "--out", "x"],
        ["push", "--file", "x"],
        ["import-change-log", "unknown.jsonl"],
        ["pull", "--file", "unknown.jsonl"],
        ["dlq", "list"],
        ["dlq", "replay", "--all"],
    ],
    ids=" ".join,
)
def test_a_database_that_is_away_is_one_sentence(shop: CliNode, command: list[str]) -> None:
    done = shop.call(*command, ROWFERRY_NODE_DATABASE="postgresql://me:secret@127.0.0.1:1/x")
    assert (done.returncode, done.stdout) == (5, "")
    assert "127.0.0.1" in done.stderr
    assert "Traceback" not in done.stderr
    assert "secret" not in done.stderr
