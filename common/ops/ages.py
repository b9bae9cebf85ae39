"""How old something is, for whoever deletes by age: by a clock that is known to have gone steadily.

A machine may begin with the time of its empty battery, or of the snapshot that it was put back to, and be set right
later; or it is wrong for an hour. What is a minute old would then be years old, and deleted before anybody has it. So
after a jump of the clock ages count from there: all is kept for as long once more."""

from dataclasses import dataclass

import sqlalchemy as sa

from common.clock import Clock
from common.ports.dialect import Database
from common.retry import in_transaction
from common.schema import tables as rf

DAY_US = 86_400_000_000
_MOST_AT_ONCE_US = 7 * DAY_US
"""A clock that goes on by more between two looks is taken to have been set, though the machine may have been off."""
_BACK_US = DAY_US // 24
_CLOCK = "clock"
"""In `rf_purged`: when somebody looked last, and (`until_us`) since when the clock has gone steadily."""
_FIRST_LOOK = sa.text(
    "INSERT INTO rf_purged (what, name, purged_us, rows) VALUES (:what, '', :now_us, 0) ON CONFLICT DO NOTHING"
)
"""The parts of a node that delete by age all look when it starts; one of them is the first."""


@dataclass(frozen=True, slots=True)
class Ages:
    """Instants are microseconds since the epoch."""

    now_us: int
    steady_us: int = 0
    """Since when the clock has gone steadily; 0: nothing speaks against it."""

    def before(self, days: float) -> int:
        """Return what all that is older than `days` comes before; 0 where nothing is known to be."""
        before_us = self.now_us - int(days * DAY_US)
        return before_us if self.steady_us <= before_us else 0


def look_at_clock(database: Database, clock: Clock) -> Ages:
    """Look whether the clock has gone steadily since the last look, and keep that. Raises OutageError."""
    now_us = clock.now_us()
    return Ages(now_us, in_transaction(database, lambda connection: _looked(connection, now_us)))


def _looked(connection: sa.Connection, now_us: int) -> int:
    table = rf.purged
    ours = table.c.what == _CLOCK
    row = connection.execute(sa.select(table.c.purged_us, table.c.until_us).where(ours)).one_or_none()
    if row is None:
        connection.execute(_FIRST_LOOK, {"what": _CLOCK, "now_us": now_us})
        return 0
    seen_us, steady_us = int(row.purged_us), int(row.until_us or 0)
    if not -_BACK_US <= now_us - seen_us <= _MOST_AT_ONCE_US:
        steady_us = now_us
    elif now_us - seen_us < _BACK_US:
        # So that a look a minute is no write a minute.
        return steady_us
    connection.execute(sa.update(table).where(ours).values(purged_us=now_us, until_us=steady_us or None))
    return steady_us
