"""`rowferry migrate` and `rowferry unmigrate`."""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from common.clock import SystemClock
from common.console import Console, listed
from common.errors import OutageError, UsageError
from common.ops import directories, migration
from common.ops.opened import opened_database
from common.ops.status_words import counted
from common.ops.table_choice import vain_names
from common.ports.part import AfterMigrate
from common.runtime.host import Host, current_host
from common.runtime.node import Node
from common.runtime.parts import load_parts
from common.runtime.transports import make_queue
from common.visible import resume_command


@dataclass(frozen=True, slots=True)
class _Beside:
    """What `migrate` does beside the database."""

    folder: Path | None
    """The shared folder where it was missing."""
    retried: int
    """Txs that were applied now."""


@click.command(short_help="Set up this database as a node, or bring it up to date.")
@click.option("--dry-run", is_flag=True, help="Print the SQL that would run, and change nothing.")
def migrate(dry_run: bool) -> None:
    """Set up the database as a node: create the rf_ tables and the node's own row, capture the chosen tables.

    Safe to repeat. Run it again after tables were added or changed, and after upgrading Rowferry."""
    host = current_host()
    with opened_database(host.config) as database:
        work = migration.plan if dry_run else migration.migrate
        report = work(database, host.config, SystemClock())
    beside = _Beside(directories.missing_root(host.config), 0)
    if not dry_run:
        beside = replace(beside, retried=_follow_up(host, beside.folder))
    host.emit(_document(host, report, beside), lambda console: _tell(console, host, report, beside))
    warn_about_own_keys(host.console, report)
    for what, remedy in vain_names(host.config.tables, report.choice):
        host.console.warn(f"{what}: {remedy}")
    if report.had_rows:
        have = "have" if len(report.had_rows) > 1 else "has"
        host.console.warn(
            f"{listed(report.had_rows)} {have} rows already: they are not sent, only changes to them from now on. To"
            " start an empty node with them use `rowferry snapshot`; if both nodes have rows, `rowferry adopt`"
        )


@click.command(short_help="Remove Rowferry from the database; the rows stay.")
@click.option("--yes", is_flag=True, help="Don't ask for confirmation.")
@click.option("--force", is_flag=True, help="Proceed even if changes are not sent yet or dead letters are open.")
def unmigrate(yes: bool, force: bool) -> None:
    """Remove Rowferry from the database: triggers, functions and all rf_ tables. The rows stay."""
    host = current_host()
    if not yes:
        _ask(host.config.node.id)
    with opened_database(host.config, create=False) as database:
        removed = migration.unmigrate(database, host.config, force=force)
    document = {"node": host.config.node.id, "changed": bool(removed), "sql": removed}
    host.emit(document, lambda console: _tell_removed(console, removed))


def warn_about_own_keys(console: Console, report: migration.MigrationReport) -> None:
    """Warn about tables whose keys two nodes would give out twice."""
    tables = report.choice.own_keys
    if tables:
        numbers = "number their own keys" if len(tables) > 1 else "numbers its own keys"
        console.warn(
            f"{listed(tables)} {numbers}: two nodes would give the same number to different rows. List each in "
            '[tables.keys]: "stride", each node has its own share of the numbers; "main-only", only the main node '
            'gives numbers; "shared", the application takes care of it'
        )
    for note in (*report.choice.loose_keys, *report.choice.rounded, *report.choice.fed, *report.choice.key_notes):
        console.warn(note)


def _follow_up(host: Host, folder: Path | None) -> int:
    """Make the shared folder where it is missing, and the node's queue, so that nothing sent from now on is missed; let
    the parts try again what waited.

    Returns how many txs were applied. Raises OutageError when the broker is away: the database is ready by then."""
    if folder is not None:
        directories.make_root(folder)
    parts = [part for part in load_parts() if isinstance(part, AfterMigrate)]
    with host.node() as node:
        _make_queue(node)
        return sum(part.after_migrate(node) for part in parts)


def _make_queue(node: Node) -> None:
    try:
        make_queue(node)
    except OutageError as error:
        raise OutageError(
            f"the database is ready, but the node's queue could not be created: {error}. Run rowferry migrate again "
            "before other nodes send, otherwise their changes until then are not kept for this node"
        ) from error


def _ask(node_id: str) -> None:
    if not sys.stdin.isatty():
        raise UsageError("unmigrate removes Rowferry from the database; add --yes when nobody can be asked")
    click.confirm(f"Remove Rowferry from the database of {node_id}?", abort=True, err=True)


def _document(host: Host, report: migration.MigrationReport, beside: _Beside) -> dict[str, Any]:
    return {
        "node": host.config.node.id,
        "role": host.config.node.role,
        "incarnation": report.incarnation,
        "dialect": report.dialect,
        "revision": report.revision,
        "dry_run": report.dry_run,
        "changed": report.changed,
        "tables": [shape.name for shape in report.choice.captured if shape.name not in report.paused],
        "left_out": dict(report.choice.left_out),
        "own_keys": list(report.choice.own_keys),
        "had_rows": list(report.had_rows),
        "paused": list(report.paused),
        "sql": list(report.sql),
        "retried": beside.retried,
        "directory": str(beside.folder) if beside.folder else None,
    }


def _tell(console: Console, host: Host, report: migration.MigrationReport, beside: _Beside) -> None:
    captured = [shape.name for shape in report.choice.captured if shape.name not in report.paused]
    names = ", ".join(captured)
    if report.dry_run:
        _tell_plan(console, report, beside.folder)
    elif report.changed:
        console.say(f"Node {host.config.node.id} ({host.config.node.role}) is ready on {report.dialect}.")
        console.say(f"Capturing {counted(len(captured), 'table', 'tables')}: {names}" if names else _NO_TABLES)
    else:
        console.say(f"Nothing to do: everything is in place already ({names or 'no tables'}).")
    for name in report.paused:
        console.warn(f"{name} is paused: its changes are not captured until {resume_command(name)}")
    if beside.folder is not None and not report.dry_run:
        console.say(f"Created the folder {beside.folder}; the nodes exchange batches through it.")
    for name, why in report.choice.left_out:
        console.say(f"Left out: {name} ({why})")
    if beside.retried:
        console.say(
            f"Applied {counted(beside.retried, 'dead letter', 'dead letters')} that had waited for these tables."
        )


_NO_TABLES = "No tables to capture yet: create them, then run rowferry migrate again."


def _tell_plan(console: Console, report: migration.MigrationReport, folder: Path | None) -> None:
    if folder is not None:
        console.say(f"-- Would create the folder {folder}.")
    if not report.changed:
        console.say("-- Nothing to do: everything is in place already.")
    for statement in report.sql:
        console.say(statement if statement.rstrip().endswith(";") else f"{statement};")


def _tell_removed(console: Console, removed: list[str]) -> None:
    for statement in removed:
        console.say(statement)
    console.say("Rowferry is removed from this database; its rows are unchanged." if removed else "Nothing to do.")
