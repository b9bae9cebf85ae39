"""`rowferry status`: one line that says how the node stands, then where and why."""

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import click

from common.clock import to_iso
from common.console import Console, counted, listed, size
from common.errors import UsageError
from common.ops.status import SourceStanding, Standing, State
from common.ops.status_reading import read_standing
from common.runtime.host import ExitCode, Host, current_host
from common.runtime.parts import load_parts
from common.runtime.signals import stop_on_signals

REDRAW_SECONDS = 2.0
_STYLES = {State.UP_TO_DATE: "bold green", State.BEHIND: "bold yellow", State.NEEDS_ATTENTION: "bold red"}


@click.command(short_help="Show what was sent, applied, waits or needs a person.")
@click.option("--watch", is_flag=True, help="Refresh every two seconds until Ctrl-C.")
@click.option("--check", is_flag=True, help="For monitoring: exit code 1 when work waits without progress.")
def status(watch: bool, check: bool) -> None:
    """Show the state of this node: what was sent, what was applied, what is waiting and what needs attention.

    Exit code 0 whatever the state, 5 if the database can't be reached. With --check also 1 if work has been waiting
    for limits.stall_seconds and none of it was done.
    """
    host = current_host()
    if watch and check:
        raise UsageError("--watch never ends, so it has no exit code for --check: leave out --check")
    if not watch:
        standing = show(host)
        if check and standing.stalled:
            host.exit_code = ExitCode.FAILED
        return
    if host.console.json:
        raise UsageError("--watch is for a terminal, --json prints one document: use one of them")
    # An event, for a KeyboardInterrupt can come while a library's callback runs, which loses it.
    stop = threading.Event()
    with stop_on_signals(stop):
        while not stop.is_set():
            click.clear()
            show(host)
            stop.wait(REDRAW_SECONDS)
    raise KeyboardInterrupt


def show(host: Host) -> Standing:
    """Read and report once. Raises ConfigError, OutageError."""
    with host.node() as node:
        shares: dict[str, Any] = {}
        for part in load_parts():
            shares |= part.status(node)
        standing = read_standing(node.database, node.config, node.facts, node.clock.now_us(), shares)
    host.emit(document(standing), lambda console: _tell(console, standing))
    if standing.own_keys:
        numbers = "numbers its own keys" if len(standing.own_keys) == 1 else "number their own keys"
        clash = "which clash with other nodes': name it in [tables.keys]"
        host.console.warn(f"{listed(standing.own_keys)} {numbers}, {clash}")
    return standing


def document(standing: Standing) -> dict[str, Any]:
    """Return the JSON document: the parts' shares, and what only the whole node can tell."""
    facts = standing.facts
    return {
        **standing.shares,
        "state": standing.state.value,
        "reasons": [*standing.attention, *standing.waiting],
        "at": to_iso(standing.at_us),
        "node": facts.node_id,
        "role": facts.role,
        "incarnation": facts.incarnation,
        "dialect": standing.dialect,
        "sources": [_source(one) for one in standing.sources],
        "oldest_unpublished_seconds": max((one["oldest_seconds"] for one in standing.unpublished), default=0.0),
        "oldest_unapplied_seconds": max((one["oldest_seconds"] for one in standing.unapplied), default=0.0),
        "unapplied": [dict(one) for one in standing.unapplied],
        "stalled": [dict(one) for one in standing.stalled],
        "queues": {"depths": dict(standing.queues.depths), "error": standing.queues.error},
        "dead_letters": dict(standing.dead_letters),
        "conflicts": dict(standing.conflicts),
        "oldest_early_seconds": standing.oldest_early_seconds or 0.0,
        "rewound_since": None if standing.rewound is None else to_iso(standing.rewound.since_us),
        "drifted": list(standing.drifted),
        "clocks_ahead": [
            {"node": one.node, "ahead_seconds": one.ahead_us / 1_000_000, "seen_at": to_iso(one.seen_us)}
            for one in standing.clocks_ahead
        ],
        "run": {
            "active": standing.is_running,
            "seen_at": None if standing.run_seen_us is None else to_iso(standing.run_seen_us),
        },
        "peers": [peer.document for peer in standing.peers],
        "verified": [{"node": node, "at": to_iso(at_us)} for node, at_us in standing.verified.items()],
        "clashing_keys": [{"table": one.table, "conflicts": one.conflicts} for one in standing.clashing_keys],
        "own_keys": list(standing.own_keys),
        "paused": [{"table": name, "since": to_iso(since_us)} for name, since_us in standing.paused.items()],
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


def _tell(console: Console, standing: Standing) -> None:
    reasons = [*standing.attention, *standing.waiting] or ["nothing waits"]
    console.say(f"{standing.state}: {reasons[0]}", style=_STYLES[standing.state])
    for reason in reasons[1:]:
        console.say(f"  also: {reason}")
    if not standing.is_running:
        seen_us = standing.run_seen_us
        was = "" if seen_us is None else f" (one was {_age((standing.at_us - seen_us) / 1e6)} ago)"
        console.say(f"no `rowferry run` is active here{was}: nothing is sent or fetched by itself")
    facts, head = standing.facts, standing.shares.get("head_lsn", 0)
    console.say(f"{facts.node_id} ({facts.role}, {standing.dialect}), log up to LSN {head}")
    _tell_sinks(console, standing.shares.get("sinks", ()))
    if folder := standing.shares.get("folder"):
        held = f"{counted(folder['files'], 'file', 'files')}, {size(folder['bytes'])} of {size(folder['max_bytes'])}"
        console.say(f"own folder in the shared folder: {held}, kept for nodes that have not read them")
    _tell_sources(console, standing)
    _tell_peers(console, standing)
    for node, at_us in standing.verified.items():
        console.say(f"verified equal with {node} at {to_iso(at_us)}")
    for name, depth in standing.queues.depths.items():
        console.say(f"queue {name}: {'not there yet' if depth is None else depth}")
    console.say(f"dead letters: {_counts(standing.dead_letters)}; conflicts: {_counts(standing.conflicts)}")
    if stepped_back := standing.shares.get("stepped_back"):
        rows = ", ".join(f"{count} of {table}" for table, count in stepped_back.items())
        console.say(f"rows that have stepped back: {rows}; see `rowferry conflicts list`")


def _tell_sinks(console: Console, sinks: Sequence[Mapping[str, Any]]) -> None:
    rows = [
        (
            one["sink"],
            one["cursor_lsn"],
            one["lag_changes"],
            _age(one["oldest_unpublished_seconds"]),
            f"{counted(one['kept_txs'], 'tx', 'txs')}, {size(one['kept_bytes'])}",
        )
        for one in sinks
    ]
    if rows:
        console.table("Sent", ("sink", "up to LSN", "changes waiting", "oldest", "kept for it in the log"), rows)


def _tell_sources(console: Console, standing: Standing) -> None:
    rows = [
        (one.peer, one.watermark, one.behind, f"{_age((standing.at_us - one.updated_us) / 1e6)} ago")
        for one in standing.sources
    ]
    if rows:
        console.table("Applied", ("source", "watermark", "changes waiting", "last moved"), rows)
    else:
        console.say("No batch of another node has arrived yet.")


def _tell_peers(console: Console, standing: Standing) -> None:
    rows = [
        (one.node, f"{_age((standing.at_us - one.heard_us) / 1e6)} ago", one.head_lsn, one.missing, one.release)
        for one in standing.peers
    ]
    if rows:
        console.table("Heard", ("node", "last heartbeat", "its log ends at", "missing here", "release"), rows)


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {state}" for state, count in counts.items() if count) or "none"


def _age(seconds: float) -> str:
    for length, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= length:
            return f"{int(seconds // length)} {unit}"
    return f"{max(0, int(seconds))} s"
