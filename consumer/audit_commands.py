"""`audit`: who applied, set aside, replayed or discarded what, and when."""

from typing import Any

import click

from common.console import Console
from common.errors import UsageError
from common.runtime.host import current_host
from consumer.audit_reading import MOST, Asked, find_lines
from consumer.given_numbers import MANY, instant_us
from consumer.newest import newest
from consumer.statements import reading


@click.command("audit", short_help="Show who did what, and when.")
@click.option("--action", help="Only this action, such as applied, set-aside, replayed, replay-failed.")
@click.option("--actor", help="Only what this account did; `rowferry` is the node itself.")
@click.option("--source", help="Only batches from this node.")
@click.option("--tx", "tx_id", metavar="TX_ID", help="Only this transaction.")
@click.option(
    "--since", metavar="AGE|TIME", help="From this time on: 90s, 30m, 2h, 7d ago, or 2026-11-26T09:30Z (UTC)."
)
@click.option("--until", metavar="AGE|TIME", help="Before this time; same formats as --since.")
@click.option("--limit", default=MOST, show_default=True, type=MANY, help="At most this many, the newest.")
def audit(
    action: str | None,
    actor: str | None,
    source: str | None,
    tx_id: str | None,
    since: str | None,
    until: str | None,
    limit: int,
) -> None:
    """Show who did what, and when: one JSON object per line, oldest first."""
    host = current_host()
    with host.node() as node, reading(node.database) as connection:
        now_us = node.clock.now_us()
        since_us, until_us = instant_us("--since", since, now_us), instant_us("--until", until, now_us)
        if since_us is not None and until_us is not None and since_us > until_us:
            raise UsageError(f"--since {since} is after --until {until}: no line is in between")
        lines = find_lines(connection, Asked(action, actor, source, tx_id, since_us, until_us, limit + 1))
    lines = newest(host.console, lines, limit, "lines", "--limit or --until")
    host.emit(lines, lambda console: _tell(console, lines))


def _tell(console: Console, lines: list[dict[str, Any]]) -> None:
    for line in lines:
        console.print_json_line(line)
