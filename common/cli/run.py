"""`rowferry run`: the node at work, until it is told to stop; or, with `--once`, until everything is drained."""

import logging
import threading
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import click

from common.console import counted
from common.errors import ContentionError, OutageError, UsageError
from common.ops.incarnation import settle_incarnation
from common.ops.progress import sides_of
from common.ops.sampling import Sampler
from common.ports.part import BeforeRun, Part, Service
from common.retry import OUTAGE, Backoff
from common.runtime.host import ExitCode, Host, current_host
from common.runtime.node import Node
from common.runtime.parts import load_parts
from common.runtime.signals import stop_on_signals
from common.runtime.supervisor import Outcome, Supervisor

log = logging.getLogger(__name__)


@click.command(short_help="Run the node: seal, publish and apply.")
@click.option("--only", type=click.Choice(["producer", "consumer"]), help="Run only this side.")
@click.option("--once", is_flag=True, help="Seal, send and apply what is there now, then exit.")
def run(only: str | None, once: bool) -> None:
    """Run the node: seal, publish and apply, until SIGTERM or Ctrl-C.

    The first signal stops cleanly within ten seconds, a second one exits at once; neither loses anything. If a
    database or broker is unreachable, run waits for it. With --once, it drains what was there at the start, and what
    others send until five seconds after that; exit code 4 if there were dead letters, 5 if a database, broker or peer
    could not be reached, after the rest is drained.
    """
    host = current_host()
    host.is_service = not once
    parts = _chosen(load_parts(), only)
    stop = threading.Event()
    with stop_on_signals(stop):
        outcome = _run_once(host, parts, stop) if once else _run_on(host, parts, stop)
    if once and not outcome.drained:
        host.exit_code = ExitCode.FAILED
    elif once and outcome.set_aside:
        host.exit_code = ExitCode.SET_ASIDE
    document = {"drained": outcome.drained, "set_aside": outcome.set_aside, "stopped_late": list(outcome.late)}
    host.emit(document, lambda console: console.say(_sentence(outcome, once=once)))


def _run_once(host: Host, parts: Sequence[Part[Node]], stop: threading.Event) -> Outcome:
    set_aside = 0
    while True:
        outcome = _run_opened(host, parts, stop, once=True)
        set_aside += outcome.set_aside
        if not outcome.reopen:
            return replace(outcome, set_aside=set_aside)


def _run_on(host: Host, parts: Sequence[Part[Node]], stop: threading.Event) -> Outcome:
    """Run until `stop`; also a database that is away at the start, after a power cut for example, is waited for."""
    backoff = Backoff(OUTAGE)
    outcome = Outcome()
    while not stop.is_set():
        try:
            outcome = _run_opened(host, parts, stop, once=False)
            backoff.reset()
        except (OutageError, ContentionError) as error:
            seconds = backoff.next_seconds()
            log.warning("run.can_not_start", extra={"error": str(error), "again_in_seconds": round(seconds, 1)})
            stop.wait(seconds)
    return outcome


def _run_opened(host: Host, parts: Sequence[Part[Node]], stop: threading.Event, *, once: bool) -> Outcome:
    """Open the node, run its services, close it again."""
    with host.node() as opened:
        facts = settle_incarnation(opened.database, opened.facts, opened.clock)
        node = replace(opened, facts=facts)
        _say_facts(node, parts, once=once)
        # Also with --only: what is sealed now would cover up that the database was put back.
        for part in load_parts():
            if isinstance(part, BeforeRun):
                part.before_run(node)
        services: list[Service] = [service for part in parts for service in part.services(node, stop)]
        # Of both sides, also with --only: what it tells is of the node.
        look = partial(sides_of, load_parts(), node)
        services.append(Sampler(node.database, node.config, node.facts, node.clock, look))
        supervisor = Supervisor(services, stop)
        outcome = supervisor.run_once() if once else supervisor.run()
        log.info("run.ended", extra={"reopen": outcome.reopen, "crashes": outcome.crashes, "late": outcome.late})
        return replace(outcome, set_aside=outcome.set_aside + node.database.own_letters)


def _chosen(parts: Sequence[Part[Node]], only: str | None) -> list[Part[Node]]:
    chosen = [part for part in parts if only in (None, part.name)]
    if not chosen:
        there = ", ".join(part.name for part in parts) or "none"
        raise UsageError(f"run: nothing to run; the installed parts are: {there}")
    return chosen


def _say_facts(node: Node, parts: Sequence[Part[Node]], *, once: bool) -> None:
    broker, directory = node.config.broker, node.config.directory
    facts = {
        "node": node.facts.node_id,
        "role": node.facts.role,
        "incarnation": node.facts.incarnation,
        "database": node.database.features.name,
        "broker": broker.url.partition("://")[0] if broker else None,
        "directory": str(directory.path) if directory else None,
        "peers": sorted(node.config.peers),
        "parts": [part.name for part in parts],
        "once": once,
    }
    log.info("run.started", extra=facts)


def _sentence(outcome: Outcome, *, once: bool) -> str:
    many = counted(outcome.set_aside, "batch or conflict waits", "batches or conflicts wait")
    aside = f" {many} for you: see `rowferry status`." if outcome.set_aside else ""
    if not once:
        return f"Stopped.{aside}"
    if not outcome.drained:
        return f"Stopped before everything was drained.{aside}"
    what = "What was there is drained; others are still sending." if outcome.more_comes else "Everything is drained."
    return f"{what}{aside}"
