"""`rowferry status`: one line that says how the node stands, then where and why."""

import threading
from collections.abc import Mapping
from typing import Any

import click

from common.clock import to_iso
from common.console import Console
from common.errors import UsageError
from common.ops.status import SinkStanding, SourceStanding, Standing, State, read_standing
from common.runtime.host import Host, current_host
from common.runtime.parts import load_parts

REDRAW_SECONDS = 2.0
_STYLES = {State.IN_SYNC: "bold green", State.BEHIND: "bold yellow", State.NEEDS_ATTENTION: "bold red"}


@click.command()
@click.option("--watch", is_flag=True, help="Draw it again every two seconds until Ctrl-C.")
def status(watch: bool) -> None:
    """Show how this node stands: what was sent, what was applied, what waits and what needs a person."""
    host = current_host()
    if not watch:
        show(host)
        return
    if host.console.json:
        raise UsageError("--watch draws for a person, --json prints one document: use one of them")
    never = threading.Event()
    while True:
        click.clear()
        show(host)
        never.wait(REDRAW_SECONDS)


def show(host: Host) -> None:
    """Read and report once. Raises ConfigError, OutageError."""
    with host.node() as node:
        standing = read_standing(node.database, node.config, node.facts, node.clock.now_us())
        parts = {part.name: dict(part.status(node)) for part in load_parts()}
    host.emit(document(standing, parts), lambda console: _tell(console, standing, parts))


def document(standing: Standing, parts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the JSON document."""
    return {
        "state": standing.state.value,
        "reasons": [*standing.attention, *standing.waiting],
        "at": to_iso(standing.at_us),
        "node": {
            "id": standing.facts.node_id,
            "role": standing.facts.role,
            "incarnation": standing.facts.incarnation,
            "dialect": standing.dialect,
        },
        "log": {"last_lsn": standing.head_lsn, "last_tx_id": standing.head_tx_id},
        "sinks": [_sink(one) for one in standing.sinks],
        "sources": [_source(one) for one in standing.sources],
        "queues": {"depths": dict(standing.queues.depths), "error": standing.queues.error},
        "dead_letters": dict(standing.dead_letters),
        "conflicts": dict(standing.conflicts),
        "waiting": {
            "unpublished_seconds": max((_seconds(one) for one in standing.sinks), default=0.0),
            "early_seconds": standing.oldest_early_seconds or 0.0,
        },
        "drifted": list(standing.drifted),
        "parts": {name: dict(share) for name, share in parts.items()},
    }


def _seconds(sink: SinkStanding) -> float:
    return sink.oldest_waiting_seconds or 0.0


def _sink(sink: SinkStanding) -> dict[str, Any]:
    return {
        "sink": sink.sink,
        "lsn": sink.lsn,
        "behind": sink.behind,
        "oldest_waiting_seconds": sink.oldest_waiting_seconds,
        "updated_at": to_iso(sink.updated_us),
    }


def _source(source: SourceStanding) -> dict[str, Any]:
    return {
        "peer": source.peer,
        "incarnation": source.incarnation,
        "watermark": source.watermark,
        "highest_lsn": source.highest_lsn,
        "behind": source.behind,
        "last_tx_id": source.last_tx_id,
        "updated_at": to_iso(source.updated_us),
    }


def _tell(console: Console, standing: Standing, parts: Mapping[str, Mapping[str, Any]]) -> None:
    reasons = [*standing.attention, *standing.waiting] or ["nothing waits"]
    console.say(f"{standing.state}: {reasons[0]}", style=_STYLES[standing.state])
    for reason in reasons[1:]:
        console.say(f"  also: {reason}")
    facts = standing.facts
    console.say(f"{facts.node_id} ({facts.role}, {standing.dialect}), log up to LSN {standing.head_lsn}")
    _tell_ways(console, standing)
    for name, depth in standing.queues.depths.items():
        console.say(f"queue {name}: {'not there yet' if depth is None else depth}")
    console.say(f"dead letters: {_counts(standing.dead_letters)}; conflicts: {_counts(standing.conflicts)}")
    for name, share in parts.items():
        for key, value in share.items():
            console.say(f"{name} {key.replace('_', ' ')}: {_plain(value)}")


def _tell_ways(console: Console, standing: Standing) -> None:
    now = standing.at_us
    if standing.sinks:
        rows = [(one.sink, one.lsn, one.behind, _age(now - one.updated_us)) for one in standing.sinks]
        console.table("Sent", ("sink", "LSN", "behind", "last moved"), rows)
    if standing.sources:
        applied = [(one.peer, one.watermark, one.behind, _age(now - one.updated_us)) for one in standing.sources]
        console.table("Applied", ("source", "watermark", "behind", "last moved"), applied)
    else:
        console.say("No batch of another node has come yet.")


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {state}" for state, count in counts.items() if count) or "none"


def _age(microseconds: int) -> str:
    seconds = max(0, microseconds // 1_000_000)
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit} ago"
    return f"{seconds} s ago"


def _plain(value: object) -> str:
    match value:
        case Mapping():
            return ", ".join(f"{key} {one}" for key, one in value.items()) or "none"
        case list() | tuple():
            return ", ".join(_plain(one) for one in value) or "none"
        case None:
            return "none"
        case _:
            return str(value)
