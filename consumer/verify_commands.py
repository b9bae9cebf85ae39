"""`verify`: this node's tables compared with a peer's, by digests."""

from pathlib import Path

import click

from common.console import Console, counted
from common.errors import UsageError
from common.ops.export_files import checked_file, own_files
from common.runtime.host import ExitCode, Host, current_host
from consumer.verifying.differences import Difference, Kind, State
from consumer.verifying.exporting import Written, export_digests
from consumer.verifying.fitting import NotCompared
from consumer.verifying.options import FILE, most_option, names_in, settings_for, tables_option, token_file_option
from consumer.verifying.report import Report
from consumer.verifying.sides import FileSide
from consumer.verifying.telling import NOT_COMPARED, key_text
from consumer.verifying.verification import Wanted, verify_with_file, verify_with_peer

_KINDS = {
    Kind.MISSING_HERE: "missing here",
    Kind.MISSING_THERE: "missing at {peer}",
    Kind.VALUES: "same version, other values",
    Kind.VERSION: "other version",
}
_STATES = {
    State.DIFFERENT: "different",
    State.IN_FLIGHT: "on its way",
    State.EXPLAINED: "explained",
    State.BEFORE_FIRST_SYNC: "from before the first sync",
    State.REPAIRED: "repaired",
}
_CAUSES = {
    "stepped-back": "has stepped back",
    "conflict": "a change waits for a choice",
    "dead-letter": "a change is a dead letter",
}


@click.command(short_help="Compare this node's tables with a peer's.")
@click.argument("peer", required=False)
@click.option("--url", metavar="URL", help="Compare with the node at this URL, such as https://main.example:8443.")
@token_file_option
@click.option("--file", "file", metavar="FILE", type=FILE, help="Compare with what another node wrote with --export.")
@click.option(
    "--export",
    "out",
    metavar="FILE",
    type=FILE,
    help="Write this node's digests to FILE: .jsonl, .jsonl.gz, .jsonl.zst.",
)
@click.option(
    "--like", "like", metavar="FILE", type=FILE, help="With --export: so that the node that wrote FILE can compare."
)
@tables_option
@click.option("--repair", is_flag=True, help="Send rows that differ again, with their versions, in both directions.")
@click.option(
    "--overtake",
    "overtakes",
    is_flag=True,
    help="With --repair: also rows that are on their way, for changes that a log no longer has and that never come.",
)
@click.option(
    "--wait",
    "wait_seconds",
    metavar="SECONDS",
    type=click.FloatRange(0, 3600),
    default=10.0,
    show_default=True,
    help="How long to wait for what is on its way.",
)
@most_option
def verify(
    peer: str | None,
    url: str | None,
    token_file: Path | None,
    file: Path | None,
    out: Path | None,
    like: Path | None,
    tables: tuple[str, ...],
    repair: bool,
    overtakes: bool,
    wait_seconds: float,
    most: int,
) -> None:
    """Compare this node's tables with those of PEER (from [peers]) by digests, and list the rows that differ.

    Exit code 0: all rows are equal. 4: some differ, or a table can't be compared; rows on their way count too."""
    if sum(one is not None for one in (peer, url, file, out)) != 1:
        raise UsageError("say what to compare with: PEER, --url URL or --file FILE; or write a file with --export FILE")
    if repair and peer is None and url is None:
        raise UsageError("--repair works only over HTTP: a file holds digests, not rows")
    if overtakes and not repair:
        raise UsageError("--overtake needs --repair")
    if like is not None and out is None:
        raise UsageError("--like needs --export")
    names = names_in(tables)
    host = current_host()
    if out is not None:
        _export(host, out, like, names)
        return
    with host.node() as node, host.progress(None, "rows") as bar:
        wanted = Wanted(names, wait_seconds, most, repair, overtakes, host.actor, bar.advance)
        if file is not None:
            report = verify_with_file(node, file, wanted)
        else:
            report = verify_with_peer(node, settings_for(node.config, peer or "", url, token_file), wanted)
    if not report.is_equal:
        host.exit_code = ExitCode.SET_ASIDE
    host.emit(report.document(), lambda console: _tell(console, report))


def _export(host: Host, out: Path, like: Path | None, names: list[str] | None) -> None:
    with host.node() as node, host.progress(None, "rows") as bar:
        path = checked_file(out, own_files(node.database, host.config_file))
        head = None if like is None else FileSide(like, node.config.trust()).head()
        done = export_digests(node, path, names, head, bar.advance)
    host.emit(done.document(), lambda console: _tell_export(console, done))


def _tell_export(console: Console, done: Written) -> None:
    document = done.document()
    console.say(f"{done.file}: digests of {done.rows} rows and tombstones of {len(document['tables'])} tables")
    for one in document["left_out"]:
        console.warn(f"{one['table']} is left out: {NOT_COMPARED[NotCompared(one['reason'])]}")
    console.say("At the other node: rowferry verify --file FILE")


def _tell(console: Console, report: Report) -> None:
    here, there = report.comparison.heads
    peer = there.source_node
    rows = [
        (one.table, key_text(one), _KINDS[one.kind].format(peer=peer), _what(one, peer), one.repair or "")
        for one in report.sorted_rows()
    ]
    if rows:
        console.table("", ("table", "key", "difference", "explanation", "repair"), rows)
    for name, one in report.comparison.fit.tables.items():
        for columns, whose in ((one.only_here, "this node"), (one.only_there, peer)):
            if columns:
                console.warn(f"{name}: {', '.join(columns)} exists only on {whose}, and was not compared")
    for name, why in report.comparison.fit.left_out.items():
        console.warn(f"{name} was not compared: {NOT_COMPARED[why].format(peer=peer)}")
    repaired, left = report.total(State.REPAIRED), report.differing
    if repaired:
        console.say(f"{counted(repaired, 'row', 'rows')} repaired")
    if report.is_equal:
        count = sum(one.rows_here for one in report.comparison.tables.values())
        tables = counted(len(report.comparison.tables), "table", "tables")
        console.say(f"equal: {counted(count, 'row', 'rows')} of {tables}, {here.source_node} and {peer}, at {there.at}")
        return
    more = "" if report.is_complete else " at least (--most lists more)"
    console.say(f"{counted(left, 'row differs', 'rows differ')}{more} between {here.source_node} and {peer}")
    if report.total(State.BEFORE_FIRST_SYNC):
        console.say("Rows from before the first sync: `rowferry adopt` decides them, or a write to such a row.")


def _what(one: Difference, peer: str) -> str:
    told = [
        f"{_CAUSES[line.cause]} {where}"
        for line, where in ((one.here, "here"), (one.there, f"at {peer}"))
        if line is not None and line.cause is not None
    ]
    return "; ".join(told) or _STATES[one.state]
