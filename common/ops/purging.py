"""What purging has in common on both sides: in short pieces, on record, and by itself now and then."""

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import sqlalchemy as sa

from common.clock import Clock, to_iso
from common.crash_points import CrashPoint, reach
from common.periodic import Periodic
from common.ports.dialect import Database
from common.ports.retention import Purged
from common.retry import in_transaction
from common.schema import tables as rf

log = logging.getLogger(__name__)

_HOUR_US = 3_600_000_000
_QUICK_SECONDS, _SLOW_SECONDS = 0.008, 0.020
_FEWEST, _FIRST, _MOST = 1, 20, 5_000
_REST_SECONDS = 0.005

Step = Callable[[sa.Connection, int], int]
"""Deletes so many rows at most and returns how many it was; fewer mean that none are left."""


@dataclass(slots=True)
class Pieces:
    """Runs a step again and again, each time in a transaction of its own that holds its locks for milliseconds.

    Killed anywhere, what is committed is done and the rest is there for the next time."""

    database: Database
    stop: threading.Event = field(default_factory=threading.Event)
    """Ends the work between two pieces."""

    def run(self, step: Step, *, versions: bool = False) -> int:
        """Return how many rows went in all. `versions`: nobody may seal or apply meanwhile."""
        size, total = _FIRST, 0
        while not self.stop.is_set():
            done, seconds = self._piece(step, size, versions=versions)
            total += done
            if done < size:
                break
            if seconds < _QUICK_SECONDS:
                size = min(_MOST, size * 2)
            elif seconds > _SLOW_SECONDS:
                size = max(_FEWEST, size // 2)
            # SQLite's other writers look for the lock now and then: half of the time it is theirs.
            self.stop.wait(max(_REST_SECONDS, seconds))
        return total

    def _piece(self, step: Step, size: int, *, versions: bool) -> tuple[int, float]:
        began = 0.0

        def work(connection: sa.Connection) -> int:
            nonlocal began
            if versions or connection.dialect.name == "sqlite":
                self.database.retention().hold_versions(connection)
            began = time.monotonic()
            done = step(connection, size)
            reach(CrashPoint.PURGING)
            return done

        done = in_transaction(self.database, work, self.stop)
        reach(CrashPoint.PURGED)
        return done, time.monotonic() - began


def note_purged(
    connection: sa.Connection,
    what: str,
    now_us: int,
    rows: int,
    *,
    name: str = "",
    until_lsn: int | None = None,
    until_us: int | None = None,
) -> None:
    """Keep that something is here no more, in the transaction that takes it away. Bounds never move back."""
    table = rf.purged
    same = sa.and_(table.c.what == what, table.c.name == name)
    row = connection.execute(sa.select(table).where(same)).one_or_none()
    if row is None:
        values = {"until_lsn": until_lsn, "until_us": until_us, "purged_us": now_us, "rows": rows}
        connection.execute(sa.insert(table).values(what=what, name=name, **values))
        return
    values = {
        "until_lsn": _later(row.until_lsn, until_lsn),
        "until_us": _later(row.until_us, until_us),
        "purged_us": now_us,
        "rows": row.rows + rows,
    }
    connection.execute(sa.update(table).where(same).values(values))


OWN_LOG = "log"
"""Of this node's own sealed log, by incarnation."""
FILES_MISSED = "files-missed"
"""By peer, up to which LSN files of this node's log were deleted as too old before it had read them."""
OWN_LOST = "own-lost"
"""Of a node that was put back: changes of its log of before that it could not fetch."""
OWN_ELSEWHERE = "own-elsewhere"
"""A log under this node's name that is not here, by incarnation: how far others have it."""
OWN_SETTLED = "own-settled"
"""The same: up to where `rejoin` has settled it."""


def read_purged(connection: sa.Connection, what: str) -> dict[str, sa.Row[Any]]:
    """Return what is on record of one kind, by name."""
    rows = connection.execute(sa.select(rf.purged).where(rf.purged.c.what == what))
    return {row.name: row for row in rows}


def drop_noted(connection: sa.Connection, what: str, name: str) -> None:
    """Take one off the record: it holds no more."""
    connection.execute(sa.delete(rf.purged).where(rf.purged.c.what == what, rf.purged.c.name == name))


_CALLED = {
    "log": "this node's own changes",
    "conflicts": "settled conflicts",
    "dead-letters": "settled dead letters",
    "audit": "lines of the audit",
}


def what_is_gone(connection: sa.Connection, kinds: Sequence[str]) -> list[str]:
    """Return a sentence on each of these kinds of which something was purged: nobody shall take it for never having
    been. `tombstones` has a sentence of its own."""
    table = rf.purged.c
    query = sa.select(table.what, sa.func.max(table.until_us), sa.func.sum(table.rows)).where(table.what.in_(kinds))
    rows = connection.execute(query.group_by(table.what).order_by(table.what)).all()
    return [
        f"{_CALLED[what]} from before {to_iso(max(0, until_us))} were purged here: they are not shown"
        for what, until_us, many in rows
        if what in _CALLED and until_us is not None and many
    ]


def audit_purge(database: Database, actor: str, node_id: str, purged: Sequence[Purged], now_us: int) -> None:
    """Write one line of what went; none where nothing did."""
    detail: dict[str, object] = {one.what: one.rows for one in purged if one.rows}
    if not detail:
        return
    overridden = [text for one in purged for text in one.overridden]
    if overridden:
        detail["overridden"] = overridden
    line = {"at_us": now_us, "actor": actor, "action": "purged", "source_node": node_id}
    line["detail"] = msgspec.json.encode(detail).decode()
    in_transaction(database, lambda connection: connection.execute(sa.insert(rf.audit).values(line)))


def _later(known: int | None, new: int | None) -> int | None:
    return max((one for one in (known, new) if one is not None), default=None)


class PurgeService(Periodic):
    """Purges one side's things now and then while the node runs; also a node that is only run `--once`. A `Service`."""

    def __init__(
        self, side: str, database: Database, clock: Clock, every_hours: float, work: Callable[[], Sequence[Purged]]
    ) -> None:
        """`work` purges, audits, and returns what it did; it ends soon after the node is told to stop."""
        super().__init__()
        self.name = f"purge-{side}"
        self._database = database
        self._clock = clock
        self._every_us = int(every_hours * _HOUR_US)
        self._work = work

    def look(self) -> bool:
        """Purge when it is time. Never work that a drained node would wait for. Raises OutageError, ContentionError."""
        left_us = self._left_us()
        if left_us <= 0:
            self._log(self._work())
            in_transaction(self._database, self._note)
            left_us = self._every_us
        self.look_again_in(left_us / 1_000_000)
        return False

    def _left_us(self) -> int:
        last = in_transaction(self._database, lambda connection: read_purged(connection, self.name)).get("")
        if last is None:
            return 0
        # A clock that was set back must not put it off for long.
        last_us = int(last.purged_us)
        return min(self._every_us, last_us + self._every_us - self._clock.now_us())

    def _note(self, connection: sa.Connection) -> None:
        update = sa.update(rf.purged).where(rf.purged.c.what == self.name).values(purged_us=self._clock.now_us())
        if not connection.execute(update).rowcount:
            note_purged(connection, self.name, self._clock.now_us(), 0)

    def _log(self, purged: Sequence[Purged]) -> None:
        for one in purged:
            fields: Mapping[str, Any] = one.as_dict()
            if one.overridden:
                log.error("purge.overridden", extra=dict(fields))
            elif one.rows:
                log.info("purge.done", extra=dict(fields))
