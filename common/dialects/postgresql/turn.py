"""The lock that sealer and appliers share: who has it alone gives out and reads versions."""

from typing import Any

from common.dialects.postgresql.apply_settings import ROW_LOCK_TIMEOUT
from common.dialects.postgresql.prepared import Answer, Prepared
from common.dialects.postgresql.snapshots import Snapshot, bounds, ended_between
from common.errors import ConfigError, ContentionError

_TIMEOUT = "10s"
"""The sealer and other appliers hold the lock of rf_seal for one short transaction each."""
_TAKE = f"""
SELECT snapshot, set_config('lock_timeout', '{ROW_LOCK_TIMEOUT}', true)
FROM (SELECT s.snapshot FROM (SELECT set_config('lock_timeout', '{_TIMEOUT}', true) OFFSET 0) t, rf_seal s
      FOR UPDATE OF s) taken
"""
"""The timeout is another one while the row is waited for: set before its lock, and set back above it. One statement,
since each takes a node as long as it takes the server ten times over."""


class Turn:
    """One applying transaction's turn, from the first `ask` to the commit."""

    def __init__(self, prepared: Prepared) -> None:
        self._prepared = prepared
        self._asked: Answer | None = None
        self._seen: Answer | None = None
        self._snapshot: Snapshot | None = None

    def ask(self) -> None:
        """Wait for the sealer and other appliers; the first time alone. May be called within a block of `together`."""
        if self._asked is not None:
            return
        self._asked = self._prepared.execute(_TAKE)

    def look(self) -> None:
        """Ask what has ended by now. May be called within a block of `together`."""
        self._seen = self._prepared.execute("SELECT pg_current_snapshot()::text")

    def ended_since(self) -> tuple[str, str]:
        """Return what ended since the last sealing, up to the last `look` or, without one, up to now, as ranges of
        transaction ids: two array literals, their lows and their highs.

        Raises ContentionError before a turn was asked for."""
        if self._seen is None:
            self.look()
        if self._asked is None or self._seen is None:
            raise ContentionError("rows are checked that were not locked")
        seen, self._seen = _parsed(self._seen.fetchone()), None
        if self._snapshot is None:
            self._snapshot = _parsed(self._asked.fetchone())
        return bounds(ended_between(self._snapshot, seen))


def _parsed(row: tuple[Any, ...] | None) -> Snapshot:
    if row is None:
        raise ConfigError("rf_seal has no row: run `rowferry migrate`")
    return Snapshot.parse(row[0])
