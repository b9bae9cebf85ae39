"""What other nodes asked of this one's log (`rf_request`): read, moved on and taken off as it is answered.

The consumer writes it down; the two sides meet in the table."""

from dataclasses import dataclass

import sqlalchemy as sa

from common.ports.dialect import Database
from common.retry import in_transaction
from common.schema import tables as rf


@dataclass(frozen=True, slots=True)
class Owed:
    """One node is to get a stretch of the log of one incarnation once more."""

    peer: str
    incarnation: str
    after_lsn: int
    until_lsn: int
    is_known: bool
    """Whether the asker was ever heard of otherwise: whoever may write to the broker can make up names."""


class Requests:
    """Any thread."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def waiting(self, since_us: int) -> list[Owed]:
        """Return what is owed, the oldest request first. What was asked for last before `since_us` is forgotten."""
        table = rf.request.c
        is_known = sa.exists().where(rf.node.c.node_id == table.peer)
        query = sa.select(
            table.peer,
            table.incarnation,
            table.after_lsn,
            table.until_lsn,
            is_known.label("known"),
            table.last_asked_us,
        )
        query = query.where(table.direction == "in").order_by(table.first_asked_us)
        rows = in_transaction(self._database, lambda connection: connection.execute(query).all())
        if any(row.last_asked_us < since_us for row in rows):
            old = sa.delete(rf.request).where(table.direction == "in", table.last_asked_us < since_us)
            in_transaction(self._database, lambda connection: connection.execute(old))
        return [Owed(*row[:5]) for row in rows if row.last_asked_us >= since_us]

    def sent(self, owed: Owed, up_to_lsn: int) -> None:
        """Note how far an answer has come; with the end of the stretch it is done. What was asked since stays."""
        table = rf.request
        same = sa.and_(
            table.c.peer == owed.peer,
            table.c.direction == "in",
            table.c.incarnation == owed.incarnation,
            table.c.after_lsn == owed.after_lsn,
        )
        done = sa.delete(table).where(same, table.c.until_lsn <= up_to_lsn)
        moved = sa.update(table).where(same).values(after_lsn=up_to_lsn)

        def work(connection: sa.Connection) -> None:
            if not connection.execute(done).rowcount:
                connection.execute(moved)

        in_transaction(self._database, work)
