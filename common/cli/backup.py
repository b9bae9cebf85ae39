"""`rowferry backup` and `rowferry restore`."""

from pathlib import Path

import click

from common.clock import SystemClock
from common.console import Console, size
from common.ops.backup import Manifest, Restored, back_up, put_back
from common.runtime.host import current_host

_FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command(short_help="Write a consistent copy of the whole database.")
@click.argument("folder", metavar="DIR", type=_FOLDER)
def backup(folder: Path) -> None:
    """Write a consistent copy of the whole database to DIR, with its checksum, while the database stays in use.

    DIR must be new or empty: each backup has its own folder. SQLite: uses its online backup. PostgreSQL: uses pg_dump,
    in one snapshot."""
    host = current_host()
    with host.node() as node, host.progress(None, "copying") as bar:
        made = back_up(node.database, folder, node.clock, host.actor, bar.advance)
    host.emit({"dir": str(folder), **made.as_dict()}, lambda console: _tell_backup(console, folder, made))


@click.command(short_help="Put a backup back, under a new incarnation.")
@click.argument("folder", metavar="DIR", type=_FOLDER)
@click.option("--discard-present", is_flag=True, help="Don't back up the present database first.")
def restore(folder: Path, discard_present: bool) -> None:
    """Replace the database with the backup in DIR, and start a new incarnation.

    All at once, or not at all. The present database is backed up first, next to DIR. Stop the application, and
    preferably `rowferry run` too; if it is left running, it notices. Then run rowferry rejoin. Exit code 3: the backup
    is torn or altered; nothing was done."""
    host = current_host()
    with host.progress(None, "restoring") as bar:
        done = put_back(host.config, folder, SystemClock(), host.actor, bar.advance, keep=not discard_present)
    host.emit(done.as_dict(), lambda console: _tell_restore(console, done))


def _tell_backup(console: Console, folder: Path, made: Manifest) -> None:
    console.say(f"{folder}: node {made.node} up to LSN {made.last_lsn}, {size(made.bytes)}, sha256 {made.sha256}")
    console.say(f"To restore it: rowferry restore {folder}")


def _tell_restore(console: Console, done: Restored) -> None:
    console.say(f"{done.manifest.node} is as it was at {done.manifest.made_at}, up to LSN {done.manifest.last_lsn}")
    console.say(f"incarnation {done.manifest.incarnation} ends, {done.to_incarnation} begins")
    if done.kept is not None:
        console.say(f"The previous database is in {done.kept}; rowferry restore brings it back")
    console.say("Next: rowferry rejoin, then rowferry run")
