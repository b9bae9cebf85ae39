"""`rowferry purge`: what is old enough and needed by nobody goes. `run` does the same by itself."""

from collections.abc import Sequence
from typing import Any

import click

from common.console import Console
from common.ports.part import Purges
from common.ports.retention import Purged
from common.runtime.host import current_host
from common.runtime.parts import load_parts


@click.command(short_help="Delete what is past its retention.")
@click.option("--dry-run", is_flag=True, help="Only show what would be deleted.")
def purge(dry_run: bool) -> None:
    """Delete what is past its retention: log, dedup, tombstones, conflicts, unfinished parts, audit.

    The settings are in [retention], and limits.tombstone_days. What may still be needed is kept and reported. Works in
    short steps: it can be stopped or killed at any moment and run again, also while the node is running."""
    host = current_host()
    with host.node() as node:
        purged = [
            one
            for part in load_parts()
            if isinstance(part, Purges)
            for one in part.purge(node, host.actor, dry_run=dry_run)
        ]
    document: dict[str, Any] = {"dry_run": dry_run, "purged": [one.as_dict() for one in purged]}
    host.emit(document, lambda console: _tell(console, purged, dry_run=dry_run))


def _tell(console: Console, purged: Sequence[Purged], *, dry_run: bool) -> None:
    title = "would be deleted" if dry_run else "deleted"
    rows = [(one.what, one.rows, one.as_dict()["older_than"]) for one in purged]
    console.table("", ("what", title, "older than"), rows)
    for one in purged:
        for text in one.waits:
            console.say(f"{one.what}: {text}")
        for text in one.overridden:
            console.warn(f"{one.what}: {text} (retention.log_max_days)")
