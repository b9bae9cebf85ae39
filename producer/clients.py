"""`rf_sync_state`, direction `out`: what named clients have been given by `push`, counted within each incarnation."""

from collections.abc import Iterable
from dataclasses import dataclass

import sqlalchemy as sa

from common.clock import Clock
from common.ports.dialect import Database
from common.retry import in_transaction
from common.schema import tables as rf

_state = rf.sync_state.c


@dataclass(frozen=True, slots=True)
class Given:
    """The last tx of one incarnation that a client was given."""

    incarnation: str
    lsn: int
    tx_id: str | None


@dataclass(frozen=True, slots=True)
class Clients:
    """Reads and moves what clients have been given."""

    database: Database
    clock: Clock

    def last_lsn(self, client: str, incarnation: str) -> int:
        """Return the LSN up to which `client` was given everything, 0 for one that is not known."""
        query = sa.select(_state.last_lsn).where(_is(client, incarnation))
        return in_transaction(self.database, lambda connection: connection.execute(query).scalar()) or 0

    def give(self, client: str, given: Iterable[Given]) -> None:
        """Note what `client` was given, all at once. Never moves back; the time is noted also where nothing was new."""
        items = list(given)
        now_us = self.clock.now_us()

        def work(connection: sa.Connection) -> None:
            for one in items:
                _give(connection, client, one, now_us)

        in_transaction(self.database, work)

    def pull_is_due(self, client: str) -> bool:
        """Tell whether nothing has come in since `client` was last given something, or nothing ever has.

        What comes in counts from the client where it is a known source, else from anybody."""

        def work(connection: sa.Connection) -> bool:
            pushed = _latest(connection, rf.sync_state.c.peer == client, "out")
            pulled = _latest(connection, rf.sync_state.c.peer == client, "in") or _latest(connection, sa.true(), "in")
            return pulled is None or (pushed is not None and pulled < pushed)

        return in_transaction(self.database, work)


def _is(client: str, incarnation: str) -> sa.ColumnElement[bool]:
    return sa.and_(_state.peer == client, _state.direction == "out", _state.incarnation == incarnation)


def _give(connection: sa.Connection, client: str, given: Given, now_us: int) -> None:
    whose = _is(client, given.incarnation)
    noted = sa.update(rf.sync_state).where(whose).values(updated_us=now_us)
    if not connection.execute(noted).rowcount:
        values = {
            "peer": client,
            "direction": "out",
            "incarnation": given.incarnation,
            "last_lsn": given.lsn,
            "last_tx_id": given.tx_id,
            "highest_lsn": given.lsn,
            "updated_us": now_us,
        }
        connection.execute(sa.insert(rf.sync_state).values(values))
        return
    forward = sa.update(rf.sync_state).where(whose, _state.last_lsn < given.lsn)
    connection.execute(forward.values(last_lsn=given.lsn, last_tx_id=given.tx_id, highest_lsn=given.lsn))


def _latest(connection: sa.Connection, whose: sa.ColumnElement[bool], direction: str) -> int | None:
    query = sa.select(sa.func.max(_state.updated_us)).where(whose, _state.direction == direction)
    return connection.execute(query).scalar()
