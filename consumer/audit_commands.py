"""`audit`: who applied, set aside, replayed or discarded what, and when."""

from typing import Any

import click

from common.console import Console
from common.runtime.host import current_host
from consumer.audit_reading import MOST, Asked, find_lines
from consumer.given_numbers import MANY, age_us
from consumer.statements import reading


@click.command("audit")
@click.option("--action", help="Only this action, like applied, set-aside, replayed.")
@click.option("--actor", help="Only what this account did; `rowferry` is the node by itself.")
@click.option("--source", help="Only batches of this node.")
@click.option("--tx", "tx_id", metavar="TX_ID", help="Only this transaction.")
@click.option("--since", metavar="AGE", help="Not longer ago than AGE, like 90s, 30m, 2h, 7d.")
@click.option("--limit", default=MOST, show_default=True, type=MANY, help="At most so many, the newest.")
def audit(
    action: str | None, actor: str | None, source: str | None, tx_id: str | None, since: str | None, limit: int
) -> None:
    """Tell who did what, and when: a JSON object a line, oldest first."""
    host = current_host()
    age = age_us("--since", since)
    with host.node() as node, reading(node.database) as connection:
        since_us = None if age is None else node.clock.now_us() - age
        lines = find_lines(connection, Asked(action, actor, source, tx_id, since_us, limit))
    host.emit(lines, lambda console: _tell(console, lines))


def _tell(console: Console, lines: list[dict[str, Any]]) -> None:
    for line in lines:
        console.print_json_line(line)
