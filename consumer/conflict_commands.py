"""`conflicts`: which writes met, which of them stands, by which rule, and how to decide otherwise."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from common.console import Console
from common.errors import UsageError
from common.ops.purging import what_is_gone
from common.runtime.host import current_host
from common.schema.main_node import known_main
from consumer.conflict.given import GivenError, read_seen, read_take
from consumer.conflict.reading import MOST, Wanted, find, read
from consumer.conflict.record import State, Winner
from consumer.conflict.simulating import read_policies, refuse_unknown
from consumer.conflict.simulating import simulate as simulated
from consumer.given_numbers import MANY, NUMBER
from consumer.met import Settled
from consumer.newest import newest
from consumer.settling import Settling
from consumer.statements import reading

_NOTHING = "no such conflicts"
_UNDECIDED = "nobody yet"
"""Who wins while it waits for a choice; `null` would be one of the choices."""
_DISPLACE = click.option(
    "--displace", is_flag=True, help="Let another row that holds one of the chosen row's unique values step back."
)


@click.group(short_help="Writes to one row, made without seeing each other.")
def conflicts() -> None:
    """Writes to one row, made without seeing each other: list, show, resolve, undo, simulate."""


@conflicts.command("list")
@click.option("--table", help="Only conflicts in this table.")
@click.option("--source", help="Only conflicts caused by batches from this node.")
@click.option("--state", type=click.Choice([one.value for one in State]), help="Only conflicts in this state.")
@click.option("--winner", type=click.Choice([one.value for one in Winner]), help="Only conflicts with this winner.")
@click.option("--lost", is_flag=True, help="Only conflicts that a write of this node lost.")
@click.option("--limit", default=MOST, show_default=True, type=MANY, help="At most this many, the newest.")
def list_(table: str | None, source: str | None, state: str | None, winner: str | None, lost: bool, limit: int) -> None:
    """List conflicts. Winner `theirs` is the write that came in, `ours` what the row had here."""
    host = current_host()
    with host.node() as node, reading(node.database) as connection:
        lost_by = node.facts.node_id if lost else None
        found = find(connection, Wanted(table, source, state, winner, lost_by, limit + 1))
        gone = what_is_gone(connection, ("conflicts",))
    found = newest(host.console, found, limit, "conflicts", "--limit")
    host.emit(found, lambda console: _tell_all(console, found, gone))


@conflicts.command()
@click.argument("number", metavar="ID", type=NUMBER)
def show(number: int) -> None:
    """Show one conflict with both images."""
    host = current_host()
    with host.node() as node, reading(node.database) as connection:
        found = read(connection, number)
        gone = "".join(f"; {text}" for text in what_is_gone(connection, ("conflicts",)))
    if found is None:
        raise UsageError(f"{number}: {_NOTHING}; see `rowferry conflicts list`{gone}")
    host.emit(found, lambda console: _tell(console, found))


@conflicts.command()
@click.argument("number", metavar="ID", type=NUMBER)
@click.option(
    "--take",
    required=True,
    metavar="ours|theirs|JSON",
    help="What to keep: one of the two images, or a row as a JSON object; null deletes the row.",
)
@_DISPLACE
@click.option(
    "--seen",
    metavar="VERSION",
    help="Only if the row here is still what you saw: our_version as shown by conflicts show.",
)
def resolve(number: int, take: str, displace: bool, seen: str | None) -> None:
    """Settle a waiting conflict. Your choice is a new write of this node, and reaches every other node."""
    host = current_host()
    with _as_options():
        chosen, version = read_take(take), None if seen is None else read_seen(seen)
        with host.node() as node:
            settled = Settling(node, host.actor).resolve(number, chosen, displace=displace, seen=version)
    host.emit(settled.as_dict(), lambda console: _tell_settled(console, settled))


@conflicts.command(short_help="Reverse a decision: the image that lost is written again.")
@click.argument("number", metavar="ID", type=NUMBER)
@click.option("--take", type=click.Choice(["ours", "theirs"]), help="Which image to write. Default: the one that lost.")
@click.option("--force", is_flag=True, help="Proceed even if the row has been written again since.")
@_DISPLACE
@click.option(
    "--seen",
    metavar="VERSION",
    help="Only if the row is still what you saw: row_version as shown by conflicts show.",
)
def undo(number: int, take: str | None, force: bool, displace: bool, seen: str | None) -> None:
    """Reverse a decision: the image that lost is written again, and reaches every other node."""
    host = current_host()
    with _as_options():
        version = None if seen is None else read_seen(seen)
    with host.node() as node:
        side = None if take is None else Winner(take)
        settled = Settling(node, host.actor).undo(number, side, force=force, displace=displace, seen=version)
    host.emit(settled.as_dict(), lambda console: _tell_settled(console, settled))


@conflicts.command(short_help="Show how past conflicts would end under another policy.")
@click.option(
    "--policy", "policies", multiple=True, required=True, metavar="TABLE=POLICY", help="Policy to try; repeatable."
)
@click.option("--all", "everything", is_flag=True, help="Also show those that would have ended the same.")
def simulate(policies: tuple[str, ...], everything: bool) -> None:
    """Run past conflicts under another policy and show what would differ. Changes nothing."""
    host = current_host()
    wanted = read_policies(policies)
    with host.node() as node, reading(node.database) as connection:
        refuse_unknown(connection, wanted, node.captured_tables())
        main = known_main(connection, node.config)
        found = list(simulated(connection, wanted, main))
    differing = [one for one in found if one["differs"]]
    shown = found if everything else differing
    document = {
        "policy": {table: policy.value for table, policy in wanted.items()},
        "conflicts": len(found),
        "differ": len(differing),
        "results": shown,
    }
    host.emit(document, lambda console: _tell_simulated(console, document))


@contextmanager
def _as_options() -> Iterator[None]:
    """What was given is named as it is on the command line."""
    try:
        yield
    except GivenError as error:
        raise UsageError(f"--{error}") from error


def _tell_settled(console: Console, settled: Settled) -> None:
    stands = {"ours": "our image wins", "theirs": "their image wins", "neither": "the row is as you gave it"}
    console.say(f"conflict {settled.number}: {settled.table} {_short(settled.pk)}: {stands[settled.winner.value]}")
    console.say("It is sent as a write of this node and closes the same conflict on every other node.")


def _tell_simulated(console: Console, document: dict[str, Any]) -> None:
    console.say(f"{document['conflicts']} conflicts on record, {document['differ']} would have ended otherwise")
    names = ("id", "table", "pk", "kind", "rule", "now", "policy", "then")
    if document["results"]:
        console.table("", names, [[_short(one[name]) for name in names] for one in document["results"]])


def _tell_all(console: Console, found: list[dict[str, Any]], gone: list[str]) -> None:
    for text in gone:
        console.say(text)
    if not found:
        console.say(_NOTHING)
        return
    names = ("id", "table", "pk", "kind", "state", "winner", "rule", "recorded_at")
    console.table("", names, [[_told(name, one[name]) for name in names] for one in found])


def _tell(console: Console, found: dict[str, Any]) -> None:
    for name, value in found.items():
        if not name.endswith("_image") and (value is not None or name == "winner"):
            console.field(name, _told(name, value))
    ours, theirs = found["our_image"], found["their_image"]
    if isinstance(ours, dict) or isinstance(theirs, dict):
        columns = {**(ours or {}), **(theirs or {})}
        rows = [[name, _cell(ours, name), _cell(theirs, name)] for name in columns]
        console.table("", ("column", "ours", "theirs"), rows)


def _told(name: str, value: Any) -> str:
    return _UNDECIDED if name == "winner" and value is None else _short(value)


def _cell(image: Any, name: str) -> str:
    if image is None:
        return "(deleted)"
    return _short(image.get(name)) if isinstance(image, dict) else _short(image)


def _short(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
