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
    until_us: int | None = None
    """Before this instant."""
    most: int = MOST
    skip: int = 0
    """So many of the newest are left out: of a page before this one."""
    name: str | None = None
    """Who it was, without the token and in any case: for people."""


def find_lines(connection: sa.Connection, asked: Asked) -> list[dict[str, Any]]:
    """Return lines, oldest first; of too many the newest."""
    query = sa.select(rf.audit).where(*_conditions(asked)).order_by(rf.audit.c.id.desc())
    rows = connection.execute(query.limit(asked.most).offset(asked.skip)).all()
    return [_document(row) for row in reversed(rows)]


def ends(connection: sa.Connection, asked: Asked) -> tuple[int, int]:
    """Return the numbers of the first and of the last line that are asked for; of none a stretch that is empty."""
    number = rf.audit.c.id
    first, last = connection.execute(
        sa.select(sa.func.min(number), sa.func.max(number)).where(*_conditions(asked))
    ).one()
    return (1, 0) if first is None else (first, last)


def read_stretch(
    connection: sa.Connection, asked: Asked, first: int, last: int, most: int
) -> tuple[list[dict[str, Any]], int]:
    """Return up to `most` lines with these numbers, oldest first, and from which number to read on."""
    number = rf.audit.c.id
    query = sa.select(rf.audit).where(number.between(first, last), *_conditions(asked)).order_by(number).limit(most)
    rows = connection.execute(query).all()
    return [_document(row) for row in rows], rows[-1].id + 1 if len(rows) == most else last + 1


def _conditions(asked: Asked) -> list[sa.ColumnElement[bool]]:
    line = rf.audit.c
    names = ("action", "actor", "source_node", "tx_id")
    found = [line[name] == value for name in names if (value := getattr(asked, name)) is not None]
    if asked.name is not None:
        who, name = sa.func.lower(line.actor), asked.name.lower()
        found.append(sa.or_(who == name, who.startswith(f"{name}{BY_TOKEN}", autoescape=True)))
    if asked.since_us is not None:
        found.append(line.at_us >= asked.since_us)
    if asked.until_us is not None:
        found.append(line.at_us < asked.until_us)
    return found


def _document(row: sa.Row[Any]) -> dict[str, Any]:
    return {
        "at": to_iso(row.at_us),
        "actor": row.actor,
        "action": row.action,
        "source_node": row.source_node,
        "tx_id": row.tx_id,
        "detail": json.loads(row.detail) if row.detail else None,
    }
