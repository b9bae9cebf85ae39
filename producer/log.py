"""The node's sealed logs: the one of its present incarnation, and what earlier ones left behind."""

from dataclasses import dataclass, replace

import sqlalchemy as sa

from common.ports.dialect import Database, NodeFacts, SealedLog
from common.retry import in_transaction
from common.schema import tables as rf


@dataclass(frozen=True, slots=True)
class NodeLogs:
    """Finds and opens sealed logs. A node that got a new incarnation still owes others what the old one sealed."""

    database: Database
    facts: NodeFacts

    def of(self, incarnation: str) -> SealedLog:
        """Open the log of one incarnation."""
        return self.database.log(replace(self.facts, incarnation=incarnation))

    def incarnations(self) -> list[str]:
        """Return the incarnations that have something sealed, by age; the present one is always there, and last."""
        return in_transaction(self.database, self._by_age)

    def _by_age(self, connection: sa.Connection) -> list[str]:
        earlier = [name for name in _distinct(connection) if name != self.facts.incarnation]
        by_age = sorted(earlier, key=lambda name: _first_tx_id(connection, name))
        return [*by_age, self.facts.incarnation]


def _distinct(connection: sa.Connection) -> list[str]:
    """Return all incarnations in `rf_tx`: one probe of the primary key each, however long the log is."""
    found: list[str] = []
    least = sa.func.min(rf.tx.c.incarnation)
    name = connection.execute(sa.select(least)).scalar()
    while name is not None:
        found.append(name)
        name = connection.execute(sa.select(least).where(rf.tx.c.incarnation > name)).scalar()
    return found


def _first_tx_id(connection: sa.Connection, incarnation: str) -> str:
    query = sa.select(rf.tx.c.tx_id).where(rf.tx.c.incarnation == incarnation).order_by(rf.tx.c.to_lsn).limit(1)
    return str(connection.execute(query).scalar_one())
