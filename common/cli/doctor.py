"""`rowferry doctor`: what this node stands on, and how to mend it."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from common.clock import SystemClock
from common.config.load import exposed_secrets
from common.config.model import Config
from common.console import Console, set_in
from common.errors import ConfigError, ContentionError, OutageError
from common.ops.doctor.examining import Knowing, examine, runtime_finding
from common.ops.opened import opened_database
from common.ports.dialect import Database, NodeFacts
from common.ports.health import Finding, Level
from common.runtime.host import ExitCode, current_host
from common.runtime.node import Node, read_facts
from common.runtime.parts import load_parts

_STYLES = {Level.OK: "green", Level.NOTE: None, Level.WARN: "yellow", Level.FAIL: "bold red"}


@click.command(short_help="Check this node, and say how to fix each problem.")
def doctor() -> None:
    """Check configuration, database, tables, triggers, broker, folder and clocks, and say how to fix each problem.

    Changes nothing. Exit code 1 if a check fails, 5 if the database or the broker can't be reached.
    """
    host = current_host()
    config = host.config
    found = [runtime_finding(), *_exposed(host.config_file)]
    try:
        # An examination makes nothing, not the database either.
        with opened_database(config, create=False) as database:
            found += examine(config, database, _knowing(config, database))
    except ConfigError as error:
        found.append(Finding("database", Level.FAIL, str(error)))
    except ContentionError as error:
        remedy = "end the transaction that holds it, then look again"
        found.append(Finding("database", Level.FAIL, str(error), remedy))
    except OutageError as error:
        has_server = not config.node.database.startswith("sqlite")
        # Of a file the error itself says what helps: its disk, its rights, its folder.
        remedy = "start the server, or correct node.database" if has_server else "as told, or correct node.database"
        found.append(Finding("database", Level.FAIL, f"can't be reached: {error}", remedy, unreachable=True))
    if any(one.unreachable for one in found):
        host.exit_code = ExitCode.UNREACHABLE
    elif any(one.level is Level.FAIL for one in found):
        host.exit_code = ExitCode.FAILED
    host.emit(document(config, found), lambda console: _tell(console, found))


def _exposed(file: Path) -> Iterator[Finding]:
    for setting, remedy in exposed_secrets(file):
        text = f"{setting} holds a secret, and others can read {file}"
        yield Finding("configuration", Level.WARN, text, remedy)


def document(config: Config, found: Sequence[Finding]) -> dict[str, Any]:
    """Return the JSON document."""
    return {
        "node": config.node.id,
        "ok": not any(one.level is Level.FAIL for one in found),
        "findings": [
            {"area": one.area, "level": one.level.value, "message": one.message, "remedy": one.remedy} for one in found
        ],
    }


def _knowing(config: Config, database: Database) -> Knowing:
    clock = SystemClock()

    def shares(facts: NodeFacts) -> Mapping[str, Any]:
        node = Node(config, database, facts, clock)
        told: dict[str, Any] = {}
        for part in load_parts():
            told |= part.status(node)
        return told

    return Knowing(lambda: read_facts(database, config), shares, clock.now_us)


def _tell(console: Console, found: Sequence[Finding]) -> None:
    for one in found:
        console.say(set_in(f"{one.level.value:4}  {one.area}: {one.message}", 6), style=_STYLES[one.level])
        if one.remedy:
            said = f"to fix it: {one.remedy}" if one.level is not Level.NOTE else one.remedy
            console.say(set_in(f"      {said}", 6))
    counts = {level: sum(one.level is level for one in found) for level in (Level.FAIL, Level.WARN)}
    console.say(f"{counts[Level.FAIL]} to fix, {counts[Level.WARN]} to look at.")
