"""`rf_cursor`: how far each sink has durably taken the sealed log, counted within one incarnation."""

from dataclasses import dataclass

import sqlalchemy as sa

from common.clock import Clock
from common.ports.dialect import Database
from common.retry import in_transaction
from common.schema import tables as rf


@dataclass(frozen=True, slots=True)
class Cursors:
    """Reads and moves the cursors of one node. Any thread."""

    database: Database
    clock: Clock

    def load(self, sink: str, incarnation: str) -> int:
        """Return the cursor, 0 before the first save."""
        query = sa.select(rf.cursor.c.lsn).where(_is(sink, incarnation))
        return in_transaction(self.database, lambda connection: connection.execute(query).scalar()) or 0

    def save(self, sink: str, incarnation: str, lsn: int) -> None:
        """Move the cursor forward to `lsn`; never back, whatever another process of this node does meanwhile."""

        def move(connection: sa.Connection) -> None:
            values = {"lsn": lsn, "updated_us": self.clock.now_us()}
            forward = sa.update(rf.cursor).where(_is(sink, incarnation), rf.cursor.c.lsn < lsn).values(values)
            if connection.execute(forward).rowcount:
                return
            missing = sa.select(rf.cursor.c.lsn).where(_is(sink, incarnation))
            if connection.execute(missing).first() is None:
                new = {"sink": sink, "incarnation": incarnation, **values}
                connection.execute(sa.insert(rf.cursor).values(new))

        in_transaction(self.database, move)


def _is(sink: str, incarnation: str) -> sa.ColumnElement[bool]:
    return sa.and_(rf.cursor.c.sink == sink, rf.cursor.c.incarnation == incarnation)
