"""`audit`: who applied, set aside, replayed or discarded what, and when."""

import json
from typing import Any

import click
import sqlalchemy as sa

from common.clock import to_iso
from common.console import Console
from common.runtime.host import current_host
from common.schema import tables as rf
from consumer.ages import age_us
from consumer.statements import reading

_MOST = 1_000


@click.command("audit")
@click.option("--action", help="Only this action, like applied, set-aside, replayed.")
@click.option("--actor", help="Only what this account did; `rowferry` is the node by itself.")
@click.option("--source", help="Only batches of this node.")
@click.option("--tx", "tx_id", metavar="TX_ID", help="Only this transaction.")
@click.option("--since", metavar="AGE", help="Not longer ago than AGE, like 90s, 30m, 2h, 7d.")
@click.option("--limit", default=_MOST, show_default=True, type=click.IntRange(1), help="At most so many, the newest.")
def audit(
    action: str | None, actor: str | None, source: str | None, tx_id: str | None, since: str | None, limit: int
) -> None:
    """Tell who did what, and when: a JSON object a line, oldest first."""
    host = current_host()
    table = rf.audit
    query = sa.select(table).order_by(table.c.id.desc()).limit(limit)
    for name, value in {"action": action, "actor": actor, "source_node": source, "tx_id": tx_id}.items():
        if value is not None:
            query = query.where(table.c[name] == value)
    age = age_us("--since", since)
    with host.node() as node, reading(node.database) as connection:
        if age is not None:
            query = query.where(table.c.at_us >= node.clock.now_us() - age)
        lines = [_document(row) for row in reversed(connection.execute(query).all())]
    host.emit(lines, lambda console: _tell(console, lines))


def _tell(console: Console, lines: list[dict[str, Any]]) -> None:
    for line in lines:
        console.print_json_line(line)


def _document(row: sa.Row[Any]) -> dict[str, Any]:
    return {
        "at": to_iso(row.at_us),
        "actor": row.actor,
        "action": row.action,
        "source_node": row.source_node,
        "tx_id": row.tx_id,
        "detail": json.loads(row.detail) if row.detail else None,
    }
