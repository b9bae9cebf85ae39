"""Which dead letters a command of `dlq` is about: its options, and what they choose."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

from common.errors import Reason, UsageError
from common.runtime.node import Node
from consumer.dead_letters.meaning_one import refuse_several
from consumer.dead_letters.operations import DeadLetters
from consumer.dead_letters.states import LetterState
from consumer.dead_letters.table_store import Selection
from consumer.dlq_telling import NOTHING
from consumer.given_numbers import age_us

SOURCE = "--source"
Command = TypeVar("Command", bound=Callable[..., Any])


def selecting(reason_option: str = "--reason") -> Callable[[Command], Command]:
    """Return what adds the options that choose dead letters. `discard` needs `--reason` for its own reason."""
    reasons = click.Choice([reason.value for reason in Reason])
    states = click.Choice([state.value for state in LetterState])
    options = (
        click.argument("tx_ids", nargs=-1, metavar="[TX_ID]..."),
        click.option(
            "--tx", "more_tx_ids", multiple=True, metavar="TX_ID", help="Same as the argument TX_ID; repeatable."
        ),
        click.option(SOURCE, help="Only batches from this node."),
        click.option(reason_option, "why", type=reasons, help="Only dead letters with this reason."),
        click.option("--state", type=states, help="Only dead letters in this state."),
        click.option("--table", help="Only those blocked by this table."),
        click.option("--newer-than", metavar="AGE", help="Only those that last failed at most AGE ago."),
        click.option(
            "--older-than",
            metavar="AGE",
            help="Only those that last failed more than AGE ago, such as 90s, 30m, 2h, 7d.",
        ),
        click.option("--all", "everything", is_flag=True, help="All of them."),
    )

    def add(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add


def must_choose(node: Node, desk: DeadLetters, chosen: dict[str, Any], *, everything: bool = False) -> Selection:
    """Return what was chosen, for a command that changes something. Raises UsageError where nothing was."""
    given = [value for name, value in chosen.items() if name != "everything" and value]
    if not given and not chosen["everything"] and not everything:
        raise UsageError(
            "say which dead letters: TX_ID, --source, --reason, --state, --table, --older-than, --newer-than or --all"
        )
    selection = selection_of(node, chosen)
    if selection.tx_ids:
        known = {letter.tx_id for letter in desk.find(Selection(tx_ids=selection.tx_ids))}
        for tx_id in selection.tx_ids:
            if tx_id not in known:
                raise UsageError(unknown(tx_id))
        refuse_several(desk.find(selection), SOURCE)
    return selection


def unknown(tx_id: str) -> str:
    """Return what to say of an id that no dead letter has."""
    return f"{tx_id}: {NOTHING}; see `rowferry dlq list --all`"


def selection_of(node: Node, chosen: dict[str, Any]) -> Selection:
    """Return which dead letters the options of `selecting` choose."""
    age, youth = age_us("--older-than", chosen["older_than"]), age_us("--newer-than", chosen["newer_than"])
    return Selection(
        tx_ids=(*chosen["tx_ids"], *chosen["more_tx_ids"]),
        source_node=chosen["source"],
        reason=chosen["why"],
        state=LetterState(chosen["state"]) if chosen["state"] else None,
        failed_before_us=None if age is None else node.clock.now_us() - age,
        failed_after_us=None if youth is None else node.clock.now_us() - youth,
        table=chosen["table"],
    )
