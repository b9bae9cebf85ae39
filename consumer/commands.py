"""`import-change-log` and `pull`: batches from files. The other commands stand in modules of their own."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from common.console import Console, counted
from common.errors import UsageError
from common.preflight.report import Report
from common.runtime.host import ExitCode, current_host
from consumer.files import FileImport, Imported, ImportRules

if TYPE_CHECKING:
    from consumer.pulling import PullReport

_PATHS = click.Path(path_type=Path)


@click.command("import-change-log", short_help="Apply the batches in files.")
@click.argument("files", nargs=-1, required=True, type=_PATHS)
@click.option("--dry-run", is_flag=True, help="Check the files and report; write nothing.")
@click.option("--strict", is_flag=True, help="Refuse files that leave a gap in the LSNs.")
@click.option("--allow-ddl", is_flag=True, help="Apply CREATE TABLE and ADD COLUMN from the files.")
@click.option("--allow-destructive-ddl", is_flag=True, help="Also apply DROP and changes of type.")
def import_change_log(
    files: tuple[Path, ...], dry_run: bool, strict: bool, allow_ddl: bool, allow_destructive_ddl: bool
) -> None:
    """Apply the batches in FILES (.jsonl, .jsonl.gz, .jsonl.zst, or folders of them).

    Everything is checked first; files that are torn or altered anywhere are refused before a row is written.
    """
    _import(list(files), ImportRules(dry_run, strict, allow_ddl, allow_destructive_ddl))


@click.command(short_help="Apply other nodes' batches from files or a peer.")
@click.option("--file", "files", multiple=True, type=_PATHS, help="File to pull from; repeatable.")
@click.option("--url", metavar="URL", help="Peer to pull from, such as https://main.example:8443.")
@click.option("--token-file", type=_PATHS, help="File with the token. Default: from [peers] with this url.")
@click.option("--dry-run", is_flag=True, help="Check the file and report; write nothing.")
@click.option("--strict", is_flag=True, help="Refuse a file that leaves a gap in the LSNs.")
def pull(files: tuple[Path, ...], url: str | None, token_file: Path | None, dry_run: bool, strict: bool) -> None:
    """Apply other nodes' batches, from files or from a peer over HTTP, and move their watermarks in rf_sync_state."""
    if bool(files) == (url is not None):
        raise UsageError("say where to pull from: --file FILE or --url URL")
    if url is None:
        _import(list(files), ImportRules(dry_run, strict))
        return
    if dry_run or strict:
        raise UsageError("--dry-run and --strict are for files: a stream can't be checked first")
    _pull_from(url, token_file)


def _pull_from(url: str, token_file: Path | None) -> None:
    # Not at the top: what reads files needs no HTTP.
    from common.transports.http.settings import settings_for_url
    from consumer.pulling import pull_from

    host = current_host()
    with host.node() as node:
        report = pull_from(node, settings_for_url(node.config, url, token_file))
    if report.waiting or report.waiting_conflicts:
        host.exit_code = ExitCode.SET_ASIDE
    host.emit(report.document(), lambda console: _tell_applied(console, report))


def _import(paths: list[Path], rules: ImportRules) -> None:
    host = current_host()
    with host.node() as node:
        work = FileImport(node, rules)
        with host.progress(None, "checking") as bar:
            files, report = work.look(paths, bar.advance)
        if report.refused:
            host.exit_code = ExitCode.REFUSED
        if report.refused or rules.dry_run:
            host.emit(report.as_dict(), lambda console: _tell_preflight(console, report))
            return
        with host.progress(report.changes, "applying") as bar:
            done = work.apply(files, report, bar.advance)
    if done.waiting or done.waiting_conflicts or report.rewound:
        # Own batches that the node has lost are left where they are, until it has rejoined.
        host.exit_code = ExitCode.SET_ASIDE
    host.emit(done.as_dict(), lambda console: _tell_import(console, done))


def _tell_preflight(console: Console, report: Report) -> None:
    txs, changes = counted(report.txs, "transaction", "transactions"), counted(report.changes, "change", "changes")
    console.say(f"{txs} with {changes} in {counted(len(report.files), 'file', 'files')}")
    console.say(f"{report.already_applied} applied before, {report.own_txs} of this node itself")
    for finding in report.findings:
        place = f"{finding.place}: " if finding.place else ""
        (console.error if finding.refuses else console.warn)(f"{place}{finding.message}")
    if report.more_findings:
        console.warn(f"and {report.more_findings} more findings")
    if report.refused:
        console.error("The whole input is refused; nothing was written.")


def _tell_import(console: Console, done: Imported) -> None:
    _tell_preflight(console, done.preflight)
    _tell_applied(console, done)


def _tell_applied(console: Console, done: "Imported | PullReport") -> None:
    conflicts = counted(done.conflicts, "conflict", "conflicts")
    console.say(f"{done.applied} applied, {done.duplicates} skipped as seen before, {conflicts}")
    if done.waiting_conflicts:
        console.warn(f"{done.waiting_conflicts} of them wait: see `rowferry conflicts list --state waiting`")
    for result in done.waiting.values():
        console.warn(f"{result.incoming.tx_id} is {result.outcome.value} ({result.reason}): {result.error}")
    if done.waiting:
        console.say("See `rowferry dlq list`.")
