"""`conflicts`: which writes met, which of them stands, and by which rule."""

import json
from typing import Any

import click

from common.console import Console
from common.errors import UsageError
from common.runtime.host import current_host
from consumer.conflict.reading import MOST, Wanted, find, read
from consumer.conflict.record import Winner
from consumer.statements import reading

_NOTHING = "no such conflicts"


@click.group()
def conflicts() -> None:
    """Writes of one row that did not know of each other: list, show."""


@conflicts.command("list")
@click.option("--table", help="Only of this table.")
@click.option("--source", help="Only those that a batch of this node brought.")
@click.option("--state", type=click.Choice(["settled", "waiting"]), help="Only this state.")
@click.option("--winner", type=click.Choice([one.value for one in Winner]), help="Only those that ended so.")
@click.option("--lost", is_flag=True, help="Only those in which a write of this node stepped back.")
@click.option("--limit", default=MOST, show_default=True, type=click.IntRange(1), help="At most so many, the newest.")
def list_(table: str | None, source: str | None, state: str | None, winner: str | None, lost: bool, limit: int) -> None:
    """List conflicts: `theirs` won is the write that came in, `ours` what the row had here."""
    host = current_host()
    with host.node() as node, reading(node.database) as connection:
        lost_by = node.facts.node_id if lost else None
        found = find(connection, Wanted(table, source, state, winner, lost_by, limit))
    host.emit(found, lambda console: _tell_all(console, found))


@conflicts.command()
@click.argument("number", metavar="ID", type=int)
def show(number: int) -> None:
    """Show one conflict with both images."""
    host = current_host()
    with host.node() as node, reading(node.database) as connection:
        found = read(connection, number)
    if found is None:
        raise UsageError(f"{number}: {_NOTHING}; `rowferry conflicts list` names them")
    host.emit(found, lambda console: _tell(console, found))


def _tell_all(console: Console, found: list[dict[str, Any]]) -> None:
    if not found:
        console.say(_NOTHING)
        return
    names = ("id", "table", "pk", "kind", "state", "winner", "rule", "recorded_at")
    console.table("", names, [[_short(one[name]) for name in names] for one in found])


def _tell(console: Console, found: dict[str, Any]) -> None:
    for name, value in found.items():
        if not name.endswith("_image"):
            console.say(f"{name}: {_short(value)}")
    ours, theirs = found["our_image"], found["their_image"]
    if isinstance(ours, dict) or isinstance(theirs, dict):
        columns = {**(ours or {}), **(theirs or {})}
        rows = [[name, _cell(ours, name), _cell(theirs, name)] for name in columns]
        console.table("", ("column", "ours", "theirs"), rows)


def _cell(image: Any, name: str) -> str:
    if image is None:
        return "(deleted)"
    return _short(image.get(name)) if isinstance(image, dict) else _short(image)


def _short(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
