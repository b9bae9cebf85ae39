"""The program round the commands: exit codes, sentences, where output goes, options before and after the name."""

from __future__ import annotations

import errno
import json
import logging
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import pytest
import sqlalchemy as sa
from click.testing import CliRunner, Result

from common.cli.demo_nodes import DemoNode
from common.cli.entry import INTERRUPTED
from common.cli.main import build, sentence_for
from common.errors import (
    ConfigError,
    ContentionError,
    EarlyError,
    OutageError,
    PoisonError,
    PreflightError,
    Reason,
    RowferryError,
    UsageError,
)
from common.ports.part import Commands, Service
from common.runtime.host import ExitCode, current_host
from common.runtime.node import Node


class OneCommand:
    """A part that brings one command, `try`."""

    name = "consumer"

    def __init__(self, callback: Callable[[], None], *, group: bool = False) -> None:
        command = click.Command("try", callback=callback, help="Tries something.")
        self._command = click.Group("more", commands=[command], help="More.") if group else command

    def commands(self) -> Commands:
        return {str(self._command.name): lambda: self._command}

    def services(self, node: Node, stop: threading.Event) -> Sequence[Service]:
        return []

    def status(self, node: Node) -> Mapping[str, Any]:
        return {}


def call(callback: Callable[[], None], *arguments: str) -> Result:
    line = arguments or ("try",)
    return CliRunner().invoke(build([OneCommand(callback, group="more" in line)]), line)


def raising(error: BaseException) -> Callable[[], None]:
    def callback() -> None:
        raise error

    return callback


def emit() -> None:
    current_host().emit({"answer": 42}, lambda console: console.say("The answer is 42."))


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("wrong"), 2),
        (UsageError("wrong"), 2),
        (click.UsageError("wrong"), 2),
        (PreflightError("wrong"), 3),
        (OutageError("wrong"), 5),
        (RowferryError("wrong"), 1),
        (ContentionError("wrong"), 1),
        (EarlyError("wrong"), 1),
        (PoisonError(Reason.FORMAT, "wrong"), 1),
        (sa.exc.InvalidRequestError("wrong"), 1),
        (ValueError("wrong"), 1),
        (PermissionError(errno.EACCES, "wrong", "a.jsonl"), 1),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
def test_an_error_is_one_sentence_on_stderr_and_its_exit_code(error: Exception, code: int) -> None:
    result = call(raising(error))
    assert result.exit_code == code
    assert result.stdout == ""
    assert "wrong" in result.stderr
    assert "Traceback" not in result.stderr


def test_an_error_leaves_stdout_empty_with_json_too() -> None:
    result = call(raising(OutageError("the database is away")), "--json", "try")
    assert (result.exit_code, result.stdout) == (5, "")
    assert "the database is away" in result.stderr


def test_debug_adds_the_traceback() -> None:
    result = call(raising(OutageError("away")), "--debug", "try")
    assert result.exit_code == 5
    assert "Traceback" in result.stderr


def test_ctrl_c_ends_quietly() -> None:
    result = call(raising(KeyboardInterrupt()))
    assert (result.exit_code, result.stdout) == (130, "")
    assert "Traceback" not in result.stderr


def test_ctrl_c_in_a_step_of_the_demo_ends_the_demo(tmp_path: Path) -> None:
    def step() -> None:
        if click.get_current_context().find_root().params["config"] is None:
            DemoNode("main", tmp_path).rowferry("try")
        raise KeyboardInterrupt

    result = call(step)
    assert (result.exit_code, result.output) == (130, "")


def test_a_reader_that_went_away_is_no_error_message() -> None:
    result = call(raising(BrokenPipeError(errno.EPIPE, "Broken pipe")))
    assert (result.exit_code, result.output) == (1, "")


def test_a_command_may_end_with_set_aside() -> None:
    def callback() -> None:
        current_host().exit_code = ExitCode.SET_ASIDE

    assert call(callback).exit_code == 4


@pytest.mark.parametrize(
    "line",
    [
        ("--json", "try"),
        ("try", "--json"),
        ("more", "try", "--json"),
        ("--json", "more", "try"),
        ("more", "--json", "try"),
    ],
    ids=" ".join,
)
def test_json_stands_before_or_after_the_name(line: tuple[str, ...]) -> None:
    result = call(emit, *line)
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout) == {"answer": 42}


def test_people_get_sentences() -> None:
    assert call(emit).stdout == "The answer is 42.\n"


@pytest.mark.parametrize(
    ("options", "seen"),
    [((), False), (("--verbose",), True), (("-v",), True), (("--log-level", "info"), True)],
)
@pytest.mark.parametrize("after", [False, True])
def test_verbosity_stands_before_or_after_the_name(options: tuple[str, ...], seen: bool, after: bool) -> None:
    def callback() -> None:
        logging.getLogger("common.somewhere").info("step.done", extra={"rows": 7})

    result = call(callback, *(("try", *options) if after else (*options, "try")))
    assert ("step.done rows=7" in result.stderr) == seen
    assert result.stdout == ""


@pytest.mark.parametrize("line", [("--log-format", "json", "-v", "try"), ("try", "-v", "--log-format", "json")])
def test_the_logs_format_stands_before_or_after_the_name(line: tuple[str, ...]) -> None:
    result = call(lambda: logging.getLogger("common.somewhere").info("step.done", extra={"rows": 7}), *line)
    (logged,) = result.stderr.splitlines()
    assert (json.loads(logged)["event"], json.loads(logged)["rows"]) == ("step.done", 7)


def test_the_log_ends_with_the_program() -> None:
    before = list(logging.getLogger().handlers)
    call(emit, "--debug", "try")
    assert logging.getLogger().handlers == before


def test_no_command_and_an_unknown_one_are_usage_errors() -> None:
    runner = CliRunner()
    assert runner.invoke(build([]), []).exit_code == 2
    unknown = runner.invoke(build([]), ["stauts"])
    assert unknown.exit_code == 2
    assert "stauts" in unknown.stderr


def test_commands_are_listed_in_the_order_of_a_nodes_life() -> None:
    program = build([OneCommand(emit)])
    assert program.list_commands(click.Context(program)) == [
        "init",
        "migrate",
        "unmigrate",
        "seed",
        "run",
        "try",
        "pause",
        "resume",
        "status",
        "doctor",
        "why",
        "purge",
        "backup",
        "restore",
        "node",
        "token",
        "key",
        "serve",
        "topology",
        "demo",
    ]


def test_two_commands_of_one_name_are_refused() -> None:
    with pytest.raises(RuntimeError, match="two commands are called 'try'"):
        build([OneCommand(emit), OneCommand(emit)])


def test_a_missing_configuration_names_the_remedy() -> None:
    result = CliRunner().invoke(build([]), ["--config", "nowhere/rowferry.toml", "status"])
    assert result.exit_code == 2
    assert "nowhere/rowferry.toml: no such file" in result.stderr
    assert "rowferry init" in result.stderr


def test_passwords_are_masked_in_every_sentence() -> None:
    sentence = sentence_for(OutageError("amqp://shop:s3cret@host/ can't be reached"))
    assert "s3cret" not in sentence
    assert "amqp://shop:***@host/" in sentence


def test_the_version_is_told() -> None:
    result = CliRunner().invoke(build([]), ["--version"])
    assert result.exit_code == 0
    assert result.stdout.startswith("rowferry, version ")


@pytest.mark.parametrize(
    ("imports", "without"),
    [
        ("common.cli.main", ("alembic", "sqlglot", "fastapi", "httpx", "pika", "psycopg", "consumer.intake")),
        ("producer.services, consumer.services", ("alembic", "sqlglot", "fastapi", "httpx", "pika", "psycopg")),
    ],
)
def test_no_command_waits_for_what_others_need(imports: str, without: tuple[str, ...]) -> None:
    program = f"import sys; import {imports}; from common.cli.main import build; build(); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert not set(without).intersection(loaded)


@pytest.mark.parametrize("amid", ["common.cli.main", "common.runtime.parts", "producer.part"])
def test_ctrl_c_while_the_program_is_being_loaded_ends_it_without_a_traceback(amid: str) -> None:
    program = f"""
import signal, sys
class Interrupting:
    def find_spec(self, name, path, target=None):
        if name == {amid!r}:
            signal.raise_signal(signal.SIGINT)
sys.meta_path.insert(0, Interrupting())
from common.cli.entry import main
sys.argv = ["rowferry", "--version"]
main()
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (INTERRUPTED, "", "")
