"""Lines of `rf_audit` as `--json`, HTTP and the page give them."""

import json
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from common.clock import to_iso
from common.http.actors import BY_TOKEN
from common.schema import tables as rf

MOST = 1_000


@dataclass(frozen=True, slots=True)
class Asked:
    """Which lines; None is no condition."""

    action: str | None = None
    actor: str | None = None
    source_node: str | None = None
    tx_id: str | None = None
    since_us: int | None = None
    most: int = MOST
    skip: int = 0
    """So many of the newest are left out: of a page before this one."""
    name: str | None = None
    """Who it was, without the token and in any case: for people."""


def find_lines(connection: sa.Connection, asked: Asked) -> list[dict[str, Any]]:
    """Return lines, oldest first; of too many the newest."""
    table = rf.audit
    query = sa.select(table).order_by(table.c.id.desc()).limit(asked.most).offset(asked.skip)
    for name in ("action", "actor", "source_node", "tx_id"):
        if (value := getattr(asked, name)) is not None:
            query = query.where(table.c[name] == value)
    if asked.name is not None:
        who, name = sa.func.lower(table.c.actor), asked.name.lower()
        query = query.where(sa.or_(who == name, who.startswith(f"{name}{BY_TOKEN}", autoescape=True)))
    if asked.since_us is not None:
        query = query.where(table.c.at_us >= asked.since_us)
    return [_document(row) for row in reversed(connection.execute(query).all())]


def _document(row: sa.Row[Any]) -> dict[str, Any]:
    return {
        "at": to_iso(row.at_us),
        "actor": row.actor,
        "action": row.action,
        "source_node": row.source_node,
        "tx_id": row.tx_id,
        "detail": json.loads(row.detail) if row.detail else None,
    }
