"""`adopt`: the first sync of databases that both have rows."""

from collections.abc import Iterator
from pathlib import Path

import click

from common.config.model import Config
from common.console import Console, counted
from common.errors import UsageError
from common.runtime.host import ExitCode, current_host
from consumer.adopting.adoption import Wanted, adopt_with_file, adopt_with_peer
from consumer.adopting.choosing import From
from consumer.adopting.giving import Given, Outcome
from consumer.adopting.report import Adopted, Report
from consumer.verifying.differences import Kind, State
from consumer.verifying.options import FILE, most_option, names_in, settings_for, tables_option, token_file_option
from consumer.verifying.telling import NOT_COMPARED, key_text

_KINDS = {
    Kind.MISSING_HERE: "only at {peer}",
    Kind.MISSING_THERE: "only here",
    Kind.VALUES: "other values",
}
_OUTCOMES = {
    Outcome.GIVEN: "given {where}",
    Outcome.HAS_ONE: "has a version {where}",
    Outcome.GONE: "gone {where}",
    Outcome.REFUSED: "refused {where}: {why}",
}


@click.command(short_help="First sync of two nodes that both have rows.")
@click.argument("peer", required=False)
@click.option(
    "--from",
    "side",
    type=click.Choice([one.value for one in From]),
    required=True,
    help="Whose image wins where both have a row: main's, or the one that the table's policy chooses.",
)
@click.option("--dry-run", "is_dry", is_flag=True, help="Only show what would be done.")
@click.option("--url", metavar="URL", help="Adopt with the node at this URL, such as https://main.example:8443.")
@token_file_option
@click.option(
    "--file",
    "file",
    metavar="FILE",
    type=FILE,
    help="Compare with what the other node wrote with `verify --export`; does this node's part only.",
)
@tables_option
@most_option
def adopt(
    peer: str | None,
    side: str,
    is_dry: bool,
    url: str | None,
    token_file: Path | None,
    file: Path | None,
    tables: tuple[str, ...],
    most: int,
) -> None:
    """First sync with PEER (from [peers]; default: main, or the only one), when both have rows from before `migrate`.

    Compares by digests. Rows that differ, or exist on one side only, get their first version and travel like any
    change; the other image is kept as a conflict. No row is lost: what only one side has, the other gets.

    Exit code 4: some rows were refused, or a table can't be compared."""
    if sum(one is not None for one in (peer, url, file)) > 1:
        raise UsageError("give only one of PEER, --url URL and --file FILE")
    names = names_in(tables)
    host = current_host()
    with host.node() as node, host.progress(None, "rows") as bar:
        wanted = Wanted(From(side), names, is_dry, most, host.actor, bar.advance)
        if file is not None:
            report = adopt_with_file(node, file, wanted)
        else:
            with_whom = peer or ("" if url else _usual_peer(node.config, node.main()))
            report = adopt_with_peer(node, settings_for(node.config, with_whom, url, token_file), wanted)
    if not report.is_done:
        host.exit_code = ExitCode.SET_ASIDE
    host.emit(report.document(), lambda console: _tell(console, report))


def _usual_peer(config: Config, main: str | None) -> str:
    if main is not None and main in config.peers:
        return main
    if len(config.peers) == 1:
        return next(iter(config.peers))
    known = f"[peers] has {', '.join(config.peers)}" if config.peers else "there are no [peers]"
    raise UsageError(f"say with whom: PEER, --url URL, or --file FILE ({known})")


def _tell(console: Console, report: Report) -> None:
    here, there = (head.source_node for head in report.comparison.heads)
    rows = [
        (one.found.table, key_text(one.found), _KINDS[one.found.kind].format(peer=there), _what(one, report, there))
        for one in report.rows
    ]
    if rows:
        console.table("", ("table", "key", "what differs", "first version"), rows)
    for name, why in report.comparison.fit.left_out.items():
        console.warn(f"{name} was not compared: {NOT_COMPARED[why].format(peer=there)}")
    for name, one in report.comparison.fit.tables.items():
        if columns := (*one.only_here, *one.only_there):
            console.warn(
                f"{name}: only one side has {', '.join(columns)}: rows given to the other may become dead letters "
                "where that is not known, or must have a value"
            )
    for text in _left(report, there):
        console.warn(text)
    total = report.total(Kind.MISSING_HERE, Kind.MISSING_THERE, Kind.VALUES)
    if not total:
        console.say(f"{here} and {there} have no rows from before the first sync that differ")
        return
    differ = counted(total, "row differs", "rows differ")
    from_here, from_there = report.total("from_here"), report.total("from_there")
    if report.is_dry:
        console.say(f"{differ} from before the first sync: {here} would give {from_here}, {there} {from_there}")
        return
    given = f"{here} gave {report.total('given_here')}"
    if report.asks_there:
        given += f", {there} {report.total('given_there')}"
    console.say(f"{differ} from before the first sync: {given}. They are sent like any change: rowferry run")
    if from_there and not report.asks_there:
        console.say(
            f"{there} has to give {from_there}: rowferry verify --export FILE here, "
            f"then rowferry adopt --from {report.side.value} --file FILE there"
        )


def _left(report: Report, there: str) -> Iterator[str]:
    if on_their_way := report.total(State.IN_FLIGHT):
        yield f"{counted(on_their_way, 'row has', 'rows have')} a version that is on its way: left as is"
    if otherwise := report.total(State.DIFFERENT, State.EXPLAINED):
        yield f"{counted(otherwise, 'row differs', 'rows differ')} otherwise: rowferry verify {there} lists them"


def _what(one: Adopted, report: Report, there: str) -> str:
    sides = ((one.givers.here, one.here, "here"), (one.givers.there, one.there, f"at {there}"))
    return "; ".join(_came_to(given, where, is_dry=report.is_dry) for is_giver, given, where in sides if is_giver)


def _came_to(given: Given | None, where: str, *, is_dry: bool) -> str:
    if given is None:
        return f"{'would be' if is_dry else 'has to be'} given {where}"
    return _OUTCOMES[given.outcome].format(where=where, why=given.why)
