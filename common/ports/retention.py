"""What is kept no longer: what became of each kind of thing, and what only a dialect can take away."""

from dataclasses import dataclass
from typing import Any, Protocol

import sqlalchemy as sa

from common.clock import to_iso


@dataclass(frozen=True, slots=True)
class Purged:
    """What became of one kind of thing."""

    what: str
    """`log`, `dedup`, `tombstones`, `conflicts`, `choices`, `dead-letters`, `parts`, `audit`."""
    rows: int
    """Deleted, or with `dry_run` to be deleted."""
    older_than_us: int
    """What is younger stays."""
    waits: tuple[str, ...] = ()
    """Why some of it stays though it is old enough, in sentences."""
    overridden: tuple[str, ...] = ()
    """Who had not taken what went all the same."""

    def as_dict(self) -> dict[str, Any]:
        """Return it as `--json` prints it."""
        return {
            "what": self.what,
            "rows": self.rows,
            "older_than": to_iso(max(0, self.older_than_us)),
            "waits": list(self.waits),
            "overridden": list(self.overridden),
        }


class Retention(Protocol):
    """Works within the caller's transaction, on an ordinary connection of the database's engine."""

    def drop_lines(self, connection: sa.Connection, incarnation: str, until_lsn: int, most: int) -> int:
        """Delete the first lines of a log, `most` of them at most, up to `until_lsn`; return how many.

        Their txs are no longer in `rf_tx`. What is not sealed is never among them."""
        ...

    def hold_versions(self, connection: sa.Connection) -> None:
        """Wait for who seals or applies, and keep both out until the end of the transaction."""
        ...
