"""`rowferry why`: one row's whole history, as this node knows it."""

from collections.abc import Sequence
from functools import partial

import click

from common.cli.given import ANY_TEXT
from common.clock import to_iso
from common.console import Console
from common.ops.row_history import RowStory, named, tell
from common.ops.row_words import document, more, whose
from common.ports.part import KnowsRows
from common.ports.row_history import RowEvent
from common.runtime.host import ExitCode, current_host
from common.runtime.parts import load_parts


@click.command()
@click.argument("table")
@click.argument("pk", metavar="PK", type=ANY_TEXT)
def why(table: str, pk: str) -> None:
    """Show one row's whole history, as this node knows it.

    PK is the key's value, or a JSON object if the key has several columns. Exit code 1: nothing is known about such a
    row.
    """
    host = current_host()
    with host.node() as node:
        knowing = [part for part in load_parts() if isinstance(part, KnowsRows)]
        tellers = [partial(part.row_events, node) for part in knowing]
        story = tell(node.database, node.facts, named(node.captured_tables(), table), pk, tellers)
    if not story.known:
        host.exit_code = ExitCode.FAILED
    host.emit(document(story), lambda console: _tell(console, story))


def _tell(console: Console, story: RowStory) -> None:
    for place, sentence in enumerate(story.summary):
        console.say(sentence, style="bold" if place == 0 else None)
    if story.asked.look.image is not None:
        console.say(f"row: {story.asked.look.image.decode()}")
    if story.events:
        console.table("", ("when", "what", "whose change", "transaction", "LSN", "more"), _rows(story.events))


def _rows(events: Sequence[RowEvent]) -> list[tuple[object, ...]]:
    return [
        ("" if one.at_us is None else to_iso(one.at_us), one.event, whose(one), one.tx_id, one.lsn, more(one))
        for one in events
    ]
