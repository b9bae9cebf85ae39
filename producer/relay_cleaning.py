"""Housekeeping in `rf_relay`: what every reader has taken goes after a day, the rest by age and size, and loudly."""

import logging
import threading
from functools import partial

import sqlalchemy as sa

from common.ops.ages import look_at_clock
from common.periodic import Periodic
from common.retry import in_transaction
from common.runtime.node import Node
from common.runtime.transports import DIRECTORY
from common.schema import tables as rf
from common.wire.records import MAX_LSN
from producer.pull_progress import reader_of

log = logging.getLogger(__name__)

_EVERY_SECONDS = 300.0
_AT_ONCE = 5_000
"""Numbers deleted in one transaction: nobody waits long for it."""
_RETIRED = sa.select(rf.node.c.node_id).where(rf.node.c.retired_us.is_not(None))
_kept = rf.relay.c


def pushed_to(peer: str) -> str:
    """Return what a peer that this node pushes to is called in `rf_relay_reader`."""
    return f"push:{peer}"


def own_readers(node: Node) -> set[str]:
    """Return the readers that this node itself sends to."""
    config = node.config
    folder = {DIRECTORY} if config.directory is not None and config.broker is None else set()
    return folder | {pushed_to(name) for name in config.peers}


class RelayCleaning(Periodic):
    """A `Service`: looks every few minutes."""

    name = "relay-cleaning"

    def __init__(self, node: Node, stop: threading.Event) -> None:
        super().__init__()
        self._node = node
        self._stop = stop

    def look(self) -> bool:
        """Clean. Never counts as work: nothing waits for it."""
        self.clean()
        self.look_again_in(_EVERY_SECONDS)
        return False

    def clean(self) -> int:
        """Delete what has to go; return how many rows that were. Raises OutageError."""
        limits, ages = self._node.config.limits, look_at_clock(self._node.database, self._node.clock)
        taken = in_transaction(self._node.database, self._taken_seq)
        gone = self._delete(taken, ages.before(1))
        lost = self._delete(MAX_LSN, ages.before(limits.relay_days))
        lost += self._delete(in_transaction(self._node.database, self._too_much))
        if lost:
            log.warning("relay.expired", extra={"rows": lost, "remedy": "nodes that lack them need a snapshot"})
        if gone:
            log.info("relay.cleaned", extra={"rows": gone})
        return gone + lost

    def _taken_seq(self, connection: sa.Connection) -> int:
        """Return up to where every reader has taken what is kept."""
        tokens = sa.select(rf.token.c.node_id).where(
            rf.token.c.revoked_us.is_(None),
            rf.token.c.scopes.contains("pull"),
            sa.or_(rf.token.c.expires_us.is_(None), rf.token.c.expires_us > self._node.clock.now_us()),
        )
        retired = set(connection.execute(_RETIRED).scalars())
        pullers = set(connection.execute(tokens).scalars()) - retired
        pushed = own_readers(self._node) - {pushed_to(node_id) for node_id in retired}
        readers = {reader_of(node_id) for node_id in pullers} | pushed
        mark = rf.relay_reader.c
        known = sa.select(mark.reader, mark.seq).where(mark.era == self._node.facts.incarnation)
        places = {row.reader: row.seq for row in connection.execute(known)}
        head = connection.execute(sa.select(rf.relay_head.c.seq)).scalar_one()
        return int(min((places.get(reader, 0) for reader in readers), default=head))

    def _too_much(self, connection: sa.Connection) -> int:
        """Return the number up to which rows have to go for the rest to be small enough; 0 where it is."""
        most = self._node.config.limits.relay_max_bytes
        total = int(connection.execute(sa.select(sa.func.coalesce(sa.func.sum(_kept.bytes), 0))).scalar_one())
        if total <= most:
            return 0
        rows = connection.execute(sa.select(_kept.seq, _kept.bytes).order_by(_kept.seq, _kept.part))
        last = 0
        for seq, size in rows:
            if total <= most and seq != last:
                break
            last, total = seq, total - size
        return last

    def _delete(self, until_seq: int, before_us: int | None = None) -> int:
        """Delete what has a number up to `until_seq`, and of that only what came before `before_us`; in short
        transactions, oldest first."""
        gone = 0
        while not self._stop.is_set():
            work = partial(_delete_some, until_seq=until_seq, before_us=before_us)
            count = in_transaction(self._node.database, work)
            gone += count
            if not count:
                break
        return gone


def _delete_some(connection: sa.Connection, *, until_seq: int, before_us: int | None) -> int:
    old = sa.true() if before_us is None else _kept.received_us < before_us
    if before_us is not None:
        # Numbers follow commits, so what is young has high ones: what lies above the first of it is not looked at.
        young = sa.select(_kept.seq).where(_kept.received_us >= before_us).order_by(_kept.received_us).limit(1)
        first = connection.execute(young).scalar()
        until_seq = until_seq if first is None else min(until_seq, first - 1)
    next_ones = sa.select(_kept.seq).where(_kept.seq <= until_seq, old).order_by(_kept.seq).offset(_AT_ONCE).limit(1)
    after = connection.execute(next_ones).scalar()
    until_seq = until_seq if after is None else min(until_seq, after - 1)
    return connection.execute(sa.delete(rf.relay).where(_kept.seq <= until_seq, old)).rowcount
