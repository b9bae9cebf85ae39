"""This node itself was put back to an earlier state, or runs twice: others have more, or other things, of its log.

What they have of the log that is here is kept in its own row of `rf_node` (`head_…`), and of logs that are not here in
`rf_purged` (`own-elsewhere`), until `rejoin` has settled it: up to where it has is in `rf_purged` (`own-settled`)."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

import sqlalchemy as sa

from common.ops.purging import OWN_ELSEWHERE, OWN_LOG, OWN_SETTLED, note_purged, read_purged
from common.schema import tables as rf


@dataclass(frozen=True, slots=True)
class Seen:
    """Up to where another node has this one's log."""

    by: str
    incarnation: str
    lsn: int
    tx_id: str | None


@dataclass(frozen=True, slots=True)
class Rewound:
    """What is known of this node's being put back, until `rejoin` has settled it."""

    since_us: int
    incarnation: str | None
    """Of which log that is here others have had more, or other things; None where nothing tells of one."""
    lsn: int | None
    """Up to where they have had it."""
    elsewhere: Mapping[str, int]
    """Up to where they have logs of this node that are not here, by incarnation."""


def look(connection: sa.Connection, incarnation: str, head_lsn: int, seen: Seen) -> str | None:
    """Return what shows that this node's log is not the one that was seen; None where nothing does.

    `head_lsn`: the end of the log of `seen.incarnation` as it is here."""
    tx = rf.tx.c
    if seen.lsn <= settled_until(connection).get(seen.incarnation, 0):
        return None
    if not is_here(connection, seen.incarnation, incarnation):
        # Of a life that began after what was put back here, of a copy that runs beside it, or of the one before it was
        # set up anew: whichever, this node leaves what carries its own name, and would never have those rows.
        return (
            f"{seen.by} has a log of it up to LSN {seen.lsn} of which nothing is here (incarnation {seen.incarnation})"
        )
    # PostgreSQL knows the end of an earlier incarnation's log by its txs alone, and these may be purged.
    head_lsn = max(head_lsn, purged_until(connection, seen.incarnation))
    if seen.lsn > head_lsn:
        return f"{seen.by} has its log up to LSN {seen.lsn}, and here it ends at LSN {head_lsn}"
    if seen.tx_id is None:
        return None
    at = sa.and_(tx.incarnation == seen.incarnation, tx.from_lsn <= seen.lsn, tx.to_lsn >= seen.lsn)
    here = connection.execute(sa.select(tx.to_lsn, tx.tx_id).where(at)).one_or_none()
    if here is None or (here.to_lsn, here.tx_id) == (seen.lsn, seen.tx_id):
        return None
    return f"{seen.by} has {seen.tx_id} at LSN {seen.lsn} of its log, and here {here.tx_id} is there"


def note(connection: sa.Connection, node_id: str, seen: Seen, why: str, now_us: int) -> bool:
    """Keep that this node was rewound, and the most that is known of what it lost; True where that is news."""
    own = rf.node
    mine = own.c.node_id == node_id
    # Two processes may hear of it at once.
    known = connection.execute(sa.select(own).where(mine).with_for_update()).one()
    if not is_here(connection, seen.incarnation, known.incarnation):
        # Beside what is known of the log that is here, which is settled by its own end.
        note_purged(connection, OWN_ELSEWHERE, now_us, 0, name=seen.incarnation, until_lsn=seen.lsn)
        return note_put_back(connection, node_id, why, now_us)
    if known.rewound_us is None:
        _keep_settled(connection, now_us)
    elif known.head_incarnation not in (None, seen.incarnation):
        note_purged(connection, OWN_ELSEWHERE, now_us, 0, name=known.head_incarnation, until_lsn=known.head_lsn)
    more = known.head_incarnation != seen.incarnation or seen.lsn > (known.head_lsn or 0)
    values: dict[str, object] = {"rewound_us": known.rewound_us or now_us}
    if more:
        values |= {"head_incarnation": seen.incarnation, "head_lsn": seen.lsn, "head_tx_id": seen.tx_id}
    if more or known.rewound_us is None:
        connection.execute(sa.update(own).where(mine).values(values))
    if known.rewound_us is not None:
        return False
    detail = {"incarnation": seen.incarnation, "seen_lsn": seen.lsn, "by": seen.by, "error": why}
    line = {"at_us": now_us, "actor": "rowferry", "action": "rewound", "source_node": node_id}
    connection.execute(sa.insert(rf.audit).values(line | {"tx_id": seen.tx_id, "detail": json.dumps(detail)}))
    return True


def note_put_back(connection: sa.Connection, node_id: str, why: str, now_us: int) -> bool:
    """Keep that this node's database was put back, where nothing tells of its own log; True where that is news."""
    own = rf.node
    _keep_settled(connection, now_us)
    fresh = sa.update(own).where(own.c.node_id == node_id, own.c.rewound_us.is_(None)).values(rewound_us=now_us)
    if not connection.execute(fresh).rowcount:
        return False
    line = {"at_us": now_us, "actor": "rowferry", "action": "rewound", "source_node": node_id}
    connection.execute(sa.insert(rf.audit).values(line | {"detail": json.dumps({"error": why})}))
    return True


def is_here(connection: sa.Connection, incarnation: str, present: str) -> bool:
    """Tell whether this node knows its own log of an incarnation, also where that is purged; `present`: its own."""
    query = sa.select(sa.literal(1)).select_from(rf.tx).where(rf.tx.c.incarnation == incarnation).limit(1)
    if incarnation == present or connection.scalar(query):
        return True
    return incarnation in read_purged(connection, OWN_LOG)


def purged_until(connection: sa.Connection, incarnation: str) -> int:
    """Return up to where one of this node's own logs is purged here."""
    row = read_purged(connection, OWN_LOG).get(incarnation)
    return 0 if row is None else row.until_lsn or 0


def settled_until(connection: sa.Connection) -> dict[str, int]:
    """Return up to where `rejoin` has settled this node's logs, by incarnation: here or not, it said what is lost."""
    found = {name: row.until_lsn or 0 for name, row in read_purged(connection, OWN_SETTLED).items()}
    for row in connection.execute(_SETTLED_BEFORE):
        found[row.head_incarnation] = max(found.get(row.head_incarnation, 0), row.head_lsn or 0)
    return found


def _keep_settled(connection: sa.Connection, now_us: int) -> None:
    for row in connection.execute(_SETTLED_BEFORE).all():
        note_purged(connection, OWN_SETTLED, now_us, 0, name=row.head_incarnation, until_lsn=row.head_lsn)
        nothing = {"head_incarnation": None, "head_lsn": None, "head_tx_id": None}
        connection.execute(sa.update(rf.node).where(rf.node.c.is_self).values(nothing))


def elsewhere(connection: sa.Connection) -> dict[str, int]:
    """Return how far others were heard to have logs of this node that are not here, or of which they told before
    another one, by incarnation."""
    return {name: row.until_lsn or 0 for name, row in read_purged(connection, OWN_ELSEWHERE).items()}


def own_rewinding(connection: sa.Connection) -> Rewound | None:
    """Return what is known of this node's being put back; None where it is not, as far as it knows."""
    own = rf.node.c
    columns = (own.incarnation, own.rewound_us, own.head_incarnation, own.head_lsn)
    query = sa.select(*columns).where(own.is_self, own.rewound_us.is_not(None))
    row = connection.execute(query).one_or_none()
    if row is None:
        return None
    settled = settled_until(connection)
    others = {
        name: lsn
        for name, lsn in sorted(elsewhere(connection).items())
        if lsn > settled.get(name, 0) and not is_here(connection, name, row.incarnation)
    }
    return Rewound(row.rewound_us, row.head_incarnation, row.head_lsn, others)


_SETTLED_BEFORE = sa.select(rf.node.c.head_incarnation, rf.node.c.head_lsn).where(
    rf.node.c.is_self, rf.node.c.rewound_us.is_(None), rf.node.c.head_incarnation.is_not(None)
)
"""Where an earlier release has left which log it had settled last."""
