"""`snapshot`: a new node begins with the rows of another one."""

from pathlib import Path

import click

from common.console import Console
from common.ops.export_files import checked_file, own_files
from common.runtime.host import Host, current_host
from consumer.snapshots.exporting import Exported, export_snapshot
from consumer.snapshots.importing import Imported, SnapshotImport

_FILE = click.Path(dir_okay=False, path_type=Path)


@click.group(short_help="Start a node from another node's rows.")
def snapshot() -> None:
    """Start a node from another node's rows, with their versions and watermarks."""


@snapshot.command("export", short_help="Write a consistent snapshot of the captured tables.")
@click.option(
    "--out", "out", metavar="FILE", required=True, type=_FILE, help="File to write: .jsonl, .jsonl.gz, .jsonl.zst."
)
def snapshot_export(out: Path) -> None:
    """Write a consistent snapshot of the captured tables to FILE, while others keep writing."""
    host = current_host()
    with host.node() as node, host.progress(None, "rows") as bar:
        path = checked_file(out, own_files(node.database, host.config_file))
        done = export_snapshot(node, path, host.actor, bar.advance)
    host.emit(done.as_dict(), lambda console: _tell_export(console, done))


@snapshot.command("import", short_help="Load a snapshot, on a new node or in place of its rows.")
@click.argument("file", metavar="FILE", type=_FILE)
@click.option("--create-tables", is_flag=True, help="Create tables that this database lacks, as the snapshot says.")
@click.option("--replace", is_flag=True, help="Delete all rows of the captured tables, and put these in their place.")
@click.option("--dry-run", is_flag=True, help="Check the file and this node; write nothing.")
def snapshot_import(file: Path, create_tables: bool, replace: bool, dry_run: bool) -> None:
    """Load the rows in FILE: on a node that has none yet, or in place of those it has.

    All at once, or not at all. The application and rowferry run have to wait meanwhile, so preferably stop them. Exit
    code 3: the file is torn or altered, or does not fit this node's tables; nothing was done."""
    host = current_host()
    done = _take(host, file, create_tables=create_tables, replace=replace, dry_run=dry_run)
    host.emit(done.as_dict(), lambda console: _tell_import(console, done))
    for what in done.left_out:
        host.console.warn(f"not made with {what}")
    for note in done.key_notes:
        host.console.warn(note)


def _take(host: Host, file: Path, *, create_tables: bool, replace: bool, dry_run: bool) -> Imported:
    with host.node() as node:
        work = SnapshotImport(node, file, host.actor, replace=replace)
        with host.progress(None, "checking") as bar:
            found = work.look(bar.advance, may_make_tables=create_tables)
        if dry_run:
            return Imported.of(found, dry_run=True)
        if found.missing_tables:
            work.make_tables(found)
        with host.progress(found.rows + found.tombstones, "writing") as bar:
            return work.apply(found, bar.advance)


def _tell_export(console: Console, done: Exported) -> None:
    console.say(
        f"{done.file}: {done.rows} rows and {done.tombstones} tombstones of {done.tables} tables, up to LSN"
        f" {done.last_lsn} of {done.source_node}, sha256 {done.sha256}"
    )
    _tell_rest(console, done)
    console.say("On the new node: rowferry migrate, then rowferry snapshot import FILE, then rowferry run")


def _tell_import(console: Console, done: Imported) -> None:
    begins = "would be taken" if done.dry_run else "taken"
    console.say(
        f"{begins}: {done.rows} rows and {done.tombstones} tombstones of {done.source_node}, {done.exported_at}"
    )
    if done.made_tables:
        console.say(f"{'tables to be made' if done.dry_run else 'tables made'}: {', '.join(done.made_tables)}")
    _tell_rest(console, done)
    if not done.dry_run:
        console.say("What others wrote since then arrives with rowferry run")


def _tell_rest(console: Console, done: Exported | Imported) -> None:
    if done.stepped_back:
        console.say(f"{done.stepped_back} rows that have stepped back")
    if done.dead_letters:
        console.say(f"{done.dead_letters} dead letters: what they hold is not in the rows")
    if done.waiting_conflicts:
        console.say(f"{done.waiting_conflicts} conflicts that wait for a choice")
