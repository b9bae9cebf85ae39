"""What the sealer looks at before it takes any lock: whether there is something to do, and from where on."""

from typing import NamedTuple

import sqlalchemy as sa

from common.dialects.postgresql import sealing_sql as sql
from common.dialects.postgresql.connection import SERVER_IDENTITY, driver
from common.dialects.postgresql.errors import translated
from common.dialects.postgresql.prepared import Answer, Prepared
from common.dialects.postgresql.rebase import is_continued
from common.dialects.postgresql.snapshots import Snapshot, bounds, ended_between, is_quiet_since

_PEEK = sql.PEEK.format(identity=SERVER_IDENTITY).encode()


class Look(NamedTuple):
    """`rf_seal`, and the server of now."""

    before: str
    """The remembered snapshot."""
    now: str
    known_identity: str
    incarnation: str
    last_lsn: int
    pending: bool
    identity: str

    def only_goes_on(self, incarnation: str) -> bool:
        """Whether nothing but what ended since is to be sealed, in this incarnation, on the same server as before."""
        same = self.incarnation == incarnation and self.identity == self.known_identity
        before, now = Snapshot.parse(self.before), Snapshot.parse(self.now)
        return same and not self.pending and is_continued(self.known_identity, self.identity, before, now)


def ended(before: str, now: str) -> dict[str, str]:
    """Return the transactions that ended between two snapshots as the parameters `lows` and `highs`."""
    lows, highs = bounds(ended_between(Snapshot.parse(before), Snapshot.parse(now)))
    return {"lows": lows, "highs": highs}


class Lookout:
    """Looks without a lock: taking it costs a transaction id and a write to the disk, each time.

    For one thread. A sealer that is at work beside this one makes more look new than is."""

    def __init__(self, reading: sa.Engine, incarnation: str) -> None:
        """`reading`: without transactions."""
        self._reading = reading
        self._incarnation = incarnation
        self._done: Snapshot | None = None
        """What this shows as ended is sealed, or was nothing to seal. None: not known."""
        self._own = 0
        """The transaction that sealed it; 0: none did."""
        self._remembered: str | None = None
        """The snapshot in `rf_seal`, as far as this sealer knows."""
        self._seen: str | None = None
        """The server's, where `is_quiet` found that something ended."""

    def is_quiet(self) -> bool:
        """Tell whether nothing ended since but the sealing itself. Any transaction of the cluster is something."""
        if self._done is None:
            return False
        with translated(), self._reading.connect() as connection:
            (seen,) = Prepared(driver(connection)).execute(sql.SNAPSHOT).fetchone() or ("",)
        if is_quiet_since(self._done, Snapshot.parse(seen), self._own):
            return True
        self._seen = seen
        return False

    def look(self, prepared: Prepared) -> tuple[Look, bool]:
        """Return what there is, and whether nothing is to be done."""
        before, seen = self._remembered, self._seen
        self._seen = None
        self.forget()
        if before is None or seen is None:
            look, known = _look(prepared.execute(_PEEK)), None
        else:
            # Whether something ended is asked along with what must be known to ask for it, and nearly always is.
            with prepared.together():
                asked = prepared.execute(sql.ANY_ENDED, ended(before, seen))
                peeked = prepared.execute(_PEEK)
            look, known = _look(peeked), asked
        self._remembered = look.before
        if not look.only_goes_on(self._incarnation):
            return look, False
        if known is None or look.before != before or seen is None:
            known, seen = prepared.execute(sql.ANY_ENDED, ended(look.before, look.now)), look.now
        is_idle = known.fetchone() == (False,)
        if is_idle:
            self._done = Snapshot.parse(seen)
        return look, is_idle

    def sealed(self, snapshot: str, own: int, *, more: bool) -> None:
        """Take note of what this transaction leaves in `rf_seal`, and whether more is left than that."""
        self._remembered = snapshot
        if not more:
            self._done, self._own = Snapshot.parse(snapshot), own

    def forget(self) -> None:
        """Know no longer that all is sealed: the transaction that sealed it may not have been committed."""
        self._done, self._own = None, 0


def _look(peeked: Answer) -> Look:
    row = peeked.fetchone()
    if row is None:
        raise LookupError("rf_seal has no row: run `rowferry migrate`")
    return Look(*row)
