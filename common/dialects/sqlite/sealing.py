"""Seals what is committed: prepared from a read snapshot, then stored in short write transactions.

What was prepared stays true until the next commit of a sealer, which `rf_seal_turn` counts: later touches are later
transactions, and no applier writes a row that has unsealed touches (`ApplySession.unsealed`)."""

import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace

import sqlalchemy as sa

from common.clock import Clock, SystemClock
from common.crash_points import CrashPoint, reach
from common.dialects.sqlite.backlog import Backlog, SlicedSegment
from common.dialects.sqlite.catalog import SchemaCache
from common.dialects.sqlite.commits import Commits, Moment
from common.dialects.sqlite.connection import borrowed, transaction
from common.dialects.sqlite.errors import translating
from common.dialects.sqlite.looking import Looker
from common.dialects.sqlite.looks import Look
from common.dialects.sqlite.missed import Comparison
from common.dialects.sqlite.net import Followers, segments
from common.dialects.sqlite.numbering import Numbering, read_bases
from common.dialects.sqlite.spool import Spooled
from common.dialects.sqlite.storing import ReadyTx, store
from common.errors import ContentionError, IncarnationEndedError
from common.ids import TxIds
from common.ports.dialect import NodeFacts, SealReport

_CHANGES_A_LOCK = 2_000
"""Well below what can be stored within 50 ms of holding the write lock; a larger tx is stored whole all the same."""
_CHANGES_A_TX = 4
"""What a tx costs beside its changes, in changes."""
_HAS_ANOTHER = "SELECT 1 FROM rf_node WHERE is_self AND incarnation <> ?"


@dataclass(slots=True)
class _Prepared:
    """What one look found, as far as it is not stored yet."""

    groups: Iterator[list[ReadyTx]]
    """One write transaction each."""
    turn: int
    """It is true as long as `rf_seal_turn` stands here."""
    last_lsn: int
    lent: ExitStack
    """Gives back the connection, on which what was too much to be held stands aside."""
    connection: sqlite3.Connection


class LetterCount:
    """Counts the dead letters of this node's own rows, for sealers of several threads."""

    def __init__(self) -> None:
        self.total = 0
        self._lock = threading.Lock()

    def add(self, letters: int) -> None:
        """Count letters whose transaction was committed."""
        with self._lock:
            self.total += letters


class SqliteSealer:
    """Seals for one node. Several may run: whoever commits first makes the others look again."""

    def __init__(
        self,
        engine: sa.Engine,
        schemas: SchemaCache,
        node: NodeFacts,
        clock: Clock | None = None,
        letters: LetterCount | None = None,
        commits: Commits | None = None,
    ) -> None:
        """`commits`: tells whether a look can be left out; without it each is taken."""
        self._engine = engine
        self._looker = Looker(schemas)
        self._comparison = Comparison(schemas, node_id=node.node_id)
        self._node = node
        self._clock = clock or SystemClock()
        self._letters = letters or LetterCount()
        self._left: _Prepared | None = None
        self._commits = commits
        self._is_asked = False
        """Whether somebody wants to know if it is quiet: it takes a connection of its own."""
        self._seen: Moment | None = None
        """What `is_quiet` found last: before the look that follows."""
        self._done: Moment | None = None
        """All that was committed before is sealed. None: not known."""

    def seal(self, max_changes: int = 50_000) -> SealReport:
        """Seal what is committed now, in short transactions, and end early after about `max_changes`.

        What one look found beyond that is kept for the next call: a backlog is read once, not once a call."""
        seen = self._seen or (self._moment() if self._is_asked else None)
        self._seen = self._done = None
        left, self._left = self._left, None
        prepared = left or self._look()
        try:
            with translating():
                report = self._store(prepared, max_changes)
                if not report.more and left is None:
                    more = self._comparison.step(prepared.connection)
                    self._done = None if more else seen
                    return replace(report, more=more)
                # What was committed after a look of an earlier call has not been seen yet.
                return replace(report, more=True)
        finally:
            if self._left is None:
                prepared.lent.close()

    def is_quiet(self) -> bool:
        """Ask SQLite's own counter of commits. What this sealer commits counts too: one more look finds nothing."""
        self._is_asked = True
        self._seen = self._moment()
        return self._seen is not None and self._seen.is_still(self._done)

    def _moment(self) -> Moment | None:
        try:
            return None if self._commits is None else self._commits.moment()
        except ContentionError:
            return None

    def _look(self) -> _Prepared:
        with ExitStack() as lent:
            connection = lent.enter_context(borrowed(self._engine))
            found = self._looker.look(connection, self._node.incarnation)
            moment = found.moment if isinstance(found, Backlog) else found
            numbering = Numbering(self._node, self._clock, moment.last_lsn, TxIds(after=moment.last_tx_id))
            if isinstance(found, Backlog):
                lent.callback(found.drop)
                groups = _backlog_groups(connection, numbering, found)
            elif found.empty:
                groups = iter(())
            else:
                groups = _look_groups(connection, numbering, found)
            return _Prepared(groups, moment.turn, moment.last_lsn, lent.pop_all(), connection)

    def _store(self, prepared: _Prepared, max_changes: int) -> SealReport:
        txs = changes = 0
        connection = prepared.connection
        for group in prepared.groups:
            with transaction(connection):
                if connection.execute("SELECT turn FROM rf_seal_turn").fetchone()[0] != prepared.turn:
                    return SealReport(txs, changes, prepared.last_lsn, more=True)
                self._check_incarnation(connection)
                store(connection, self._node, group)
                reach(CrashPoint.SEALING)
            self._letters.add(sum(len(one.letters) for one in group))
            prepared.turn += 1
            prepared.last_lsn = max(prepared.last_lsn, *(one.to_lsn for one in group))
            txs += sum(bool(one.changes) for one in group)
            changes += sum(one.changes for one in group)
            if changes >= max_changes:
                self._left = prepared
                return SealReport(txs, changes, prepared.last_lsn, more=True)
        return SealReport(txs, changes, prepared.last_lsn)

    def _check_incarnation(self, connection: sqlite3.Connection) -> None:
        if connection.execute(_HAS_ANOTHER, (self._node.incarnation,)).fetchone():
            raise IncarnationEndedError(self._node.incarnation)


def _look_groups(
    connection: sqlite3.Connection, numbering: Numbering, look: Look, followers: Followers | None = None
) -> Iterator[list[ReadyTx]]:
    """Yield what a look found, one write transaction each."""
    found = segments(look, followers)
    numbering.records = read_bases(connection, found)
    yield from _groups(numbering.ready(found))


def _backlog_groups(connection: sqlite3.Connection, numbering: Numbering, backlog: Backlog) -> Iterator[list[ReadyTx]]:
    """Yield what a backlog holds. Each group has to be stored before the next one is asked for: what is a row's base in
    a later piece is read then."""
    for piece in backlog.pieces():
        if isinstance(piece, SlicedSegment):
            spooled = Spooled(connection)
            yield [numbering.spooled(connection, piece, spooled)]
            spooled.drop()
        else:
            yield from _look_groups(connection, numbering, *piece)


def _groups(ready: Iterable[ReadyTx]) -> Iterator[list[ReadyTx]]:
    group: list[ReadyTx] = []
    weight = 0
    for one in ready:
        cost = one.changes + _CHANGES_A_TX
        if group and weight + cost > _CHANGES_A_LOCK:
            yield group
            group, weight = [], 0
        group.append(one)
        weight += cost
    if group:
        yield group
