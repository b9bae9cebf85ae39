"""`rowferry pause` and `rowferry resume`."""

from collections.abc import Iterator
from contextlib import contextmanager

import click

from common.clock import to_iso
from common.console import Console
from common.ops.pausing import PauseReport, Pausing, ResumeReport, paused_tables
from common.ports.part import AfterMigrate
from common.runtime.host import Host, current_host
from common.runtime.node import Node
from common.runtime.parts import load_parts
from common.visible import resume_command


@click.command(short_help="Stop capturing tables while their owner alters them.")
@click.argument("tables", nargs=-1, required=True, metavar="TABLE...")
def pause(tables: tuple[str, ...]) -> None:
    """Stop capturing tables while their owner alters or repairs them.

    Until rowferry resume, their changes stay here; changes from other nodes are still applied. status lists paused
    tables."""
    host = current_host()
    with _pausing(host) as (node, pausing):
        report = pausing.pause(tables)
        since = paused_tables(node.database)
    document = {
        "node": host.config.node.id,
        "paused": [{"table": name, "since": to_iso(since[name])} for name in report.paused],
        "already": [{"table": name, "since": to_iso(since[name])} for name in report.already],
    }
    host.emit(document, lambda console: _tell_pause(console, report))


@click.command(short_help="Capture paused tables again.")
@click.argument("tables", nargs=-1, required=True, metavar="TABLE...")
def resume(tables: tuple[str, ...]) -> None:
    """Capture paused tables again, and seal what was written to them in the meantime.

    Safe to repeat; if it is killed halfway, run it again."""
    host = current_host()
    with _pausing(host) as (node, pausing):
        report = pausing.resume(tables)
        retried = sum(part.after_migrate(node) for part in load_parts() if isinstance(part, AfterMigrate))
    document = {
        "node": host.config.node.id,
        "resumed": list(report.resumed),
        "not_paused": list(report.not_paused),
        "gone": list(report.gone),
        "sealed": report.sealed,
        "retried": retried,
    }
    host.emit(document, lambda console: _tell_resume(console, report, retried))


@contextmanager
def _pausing(host: Host) -> Iterator[tuple[Node, Pausing]]:
    with host.node() as node:
        yield node, Pausing(node.database, node.config, node.facts, node.clock, host.actor)


def _tell_pause(console: Console, report: PauseReport) -> None:
    for name in report.paused:
        console.say(f"{name} is paused: its changes are not captured until {resume_command(name)}")
    for name in report.already:
        console.say(f"{name} is paused already")


def _tell_resume(console: Console, report: ResumeReport, retried: int) -> None:
    for name in report.resumed:
        gone = (
            " it is no longer among the captured tables, and what was written to it during the pause is not sent"
            " (under another name: rowferry verify --repair, with a peer)"
        )
        console.say(f"{name}:{gone if name in report.gone else ' it is captured again'}")
    for name in report.not_paused:
        console.say(f"{name} was not paused")
    console.say(f"{report.sealed} changes sealed")
    if retried:
        console.say(f"Applied {retried} transactions that had waited for it")
