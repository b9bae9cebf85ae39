"""`rowferry node`: the nodes that this one knows, and taking leave of one."""

import sys

import click

from common.clock import to_iso
from common.console import Console
from common.errors import UsageError
from common.ops.nodes import KnownNode, Nodes, Retired
from common.runtime.host import Host, current_host
from common.runtime.node import Node


@click.group()
def node() -> None:
    """Nodes known to this one: list, retire."""


@node.command("list", short_help="List this node and its peers.")
def list_() -> None:
    """List this node and its peers: when each was last heard, its watermark here, how far it has this node's log."""
    host = current_host()
    with host.node() as opened:
        found = _nodes(opened).known()
    host.emit([one.as_dict() for one in found], lambda console: _tell_all(console, found))


@node.command()
@click.argument("node_id", metavar="ID")
@click.option("--yes", is_flag=True, help="Don't ask for confirmation.")
def retire(node_id: str, yes: bool) -> None:
    """Stop keeping data for a node that will not come back.

    Tombstones and the log no longer wait for it, and its tokens are revoked. If it speaks again, it counts again from
    then on, but may lack what was purged in the meantime. Its queue on the broker is removed by itself once it has
    been unused for broker.queue_expires_seconds."""
    host = current_host()
    with host.node() as opened:
        nodes = _nodes(opened)
        if not yes and _is_watched(host):
            _ask(nodes, node_id)
        retired = nodes.retire(node_id, host.actor)
    host.emit(retired.as_dict(), lambda console: _tell_retired(console, retired))


def _nodes(opened: Node) -> Nodes:
    return Nodes(opened.database, opened.config, opened.facts, opened.clock)


def _is_watched(host: Host) -> bool:
    return sys.stdin.isatty() and not host.console.json


def _ask(nodes: Nodes, node_id: str) -> None:
    known = {one.node: one for one in nodes.known()}
    heard = known[node_id].last_heard_us if node_id in known else None
    last = f", last heard {to_iso(heard)}" if heard else ""
    if not click.confirm(f"Retire {node_id}{last}? What is purged from now on it can't get any more"):
        raise UsageError(f"{node_id} is not retired")


def _tell_retired(console: Console, retired: Retired) -> None:
    if retired.already:
        console.say(f"{retired.node} has been retired since {to_iso(retired.at_us)}")
    else:
        console.say(f"{retired.node} is retired: nothing waits for it any more.")
    tokens = retired.freed.get("tokens", 0)
    if tokens:
        console.say(
            f"{tokens} of its tokens {'is' if tokens == 1 else 'are'} revoked: it can't come over HTTP any more."
        )


def _tell_all(console: Console, found: list[KnownNode]) -> None:
    names = ("node", "role", "state", "last heard", "watermark", "has of this node", "incarnation")
    rows = [
        (
            one.node,
            one.role or "",
            one.state.value,
            to_iso(one.last_heard_us) if one.last_heard_us else "",
            "" if one.watermark is None else one.watermark,
            "" if one.passed_lsn is None else one.passed_lsn,
            one.incarnation or "",
        )
        for one in found
    ]
    console.table("", names, rows)
