"""After this node's own writes: who may stand now. Once they are sealed their versions are known.

The application deletes a rival, takes a value that a row which stepped back has, inserts such a row's key again, brings
a parent back. The log tells which rows were written; where no row has stepped back there is nothing to look for, since
the database itself has kept its keys."""

import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import msgspec
import sqlalchemy as sa

from common.errors import PausedError, PoisonError, UncapturedError
from common.ports.dialect import ApplySession, TableShape
from common.ports.standing import Proposal, RowFacts
from common.runtime.node import Node
from common.schema import tables as rf
from common.wire.records import Change, SealedTx, TableMeta
from consumer.apply.committing import Committing
from consumer.apply.rows import check
from consumer.conflict.record import record
from consumer.standing.causes import concerns
from consumer.standing.holding import Cause
from consumer.standing.settle import settle
from consumer.standing.sight import Sight
from consumer.standing.store import Copies, mark, set_mark, tables_with_copies
from consumer.standing.theory import RowId
from consumer.standing.writing import StandingWriter
from consumer.statements import reading
from consumer.tables import Tables

log = logging.getLogger(__name__)

_A_PIECE_BYTES = 4 * 1024 * 1024
_A_PIECE_CHANGES = 2_000
_ROWS_AT_ONCE = 200
_RULES_SECONDS = 30.0
"""So often the tables' own keys are looked at: the owner may have added or dropped one."""
_HELD_SECONDS = 5.0
"""So often tables whose rows may not be written for now are looked at again."""
_change = msgspec.json.Decoder(Change)


@dataclass(slots=True)
class _Piece:
    """Own changes, up to an LSN."""

    to_lsn: int
    changes: list[tuple[Change, TableMeta]] = field(default_factory=list)


class Refresh:
    """Brings what stands up to date with this node's own sealed changes. Belongs to one thread."""

    def __init__(self, node: Node, stop: threading.Event | None = None) -> None:
        self._node = node
        self._committing = Committing(node, stop)
        self._tables = Tables(node)
        self._rules: dict[str, str] = {}
        self._rules_at = 0.0
        self._held: set[str] = set()
        """Tables whose rows may not be written for now."""

    def catch_up(self) -> None:
        """Seal what the application wrote, and follow it up; nothing where no row has stepped back.

        What concerns a table that is paused, or not captured for now, is left to `run` or to the next one."""
        with reading(self._node.database) as connection:
            if not tables_with_copies(connection):
                return
        self._committing.seal()
        while self.step(comes_back=False):
            pass

    def step(self, *, comes_back: bool = True) -> bool:
        """Follow up what was sealed since the last time, in pieces; True when there was something.

        `comes_back`: another step will look after the tables that have to wait now, so that nothing else does.
        Raises OutageError, ContentionError."""
        incarnation = self._node.facts.incarnation
        with reading(self._node.database) as connection:
            kept = tables_with_copies(connection)
            if not kept:
                return False
            done = mark(connection, incarnation) or 0
            sealed = _head(connection, incarnation) > done
        if not sealed and time.monotonic() < self._rules_at:
            return False
        self._tables.begin()
        self._tables.look_again()
        worked = self._follow_rules(kept)
        if not sealed:
            return worked
        for piece in self._pieces(done, kept):
            if not self._follow_up_what_may(done, piece, comes_back=comes_back):
                break
            done, worked = piece.to_lsn, True
        return worked

    def _follow_rules(self, kept: set[str]) -> bool:
        """Settle all rows that have stepped back of tables with other keys than at the last look, the first one too."""
        self._rules_at = time.monotonic() + _RULES_SECONDS
        moved = False
        for table in sorted(kept & self._tables.shapes().keys()):
            try:
                moved |= self._follow_rules_of(table)
            except (UncapturedError, PausedError) as error:
                self._hold(table, error)
        return moved

    def _follow_rules_of(self, table: str) -> bool:
        rules = self._committing.run(partial(self._read_rules, table=table), patiently=True)
        if self._rules.get(table) == rules:
            return False
        with reading(self._node.database) as connection:
            keys = Copies(connection).keys(table)
        moved = False
        for start in range(0, len(keys), _ROWS_AT_ONCE):
            some = keys[start : start + _ROWS_AT_ONCE]
            moved |= self._committing.run(partial(self._settle_all, table=table, keys=some), patiently=True)
        self._rules[table] = rules
        self._held.discard(table)
        return moved

    def _hold(self, table: str, error: UncapturedError | PausedError) -> None:
        """Look later at all that has stepped back because of a table's rows: what was written may be behind the mark
        by then."""
        level = logging.DEBUG if table in self._held else logging.WARNING
        log.log(level, "standing.waits", extra={"table": table, "error": str(error)})
        for name in _bound(self._tables.shapes(), table):
            self._rules.pop(name, None)
        self._held.add(table)
        self._rules_at = min(self._rules_at, time.monotonic() + _HELD_SECONDS)

    def _read_rules(self, session: ApplySession, table: str) -> str:
        shapes = self._tables.shapes()
        return session.look(shapes).rules(shapes[table])

    def _settle_all(self, session: ApplySession, table: str, keys: Sequence[str]) -> bool:
        """Settle rows by the keys that their tables have now; True when one of them, or another for it, moved."""
        writer = StandingWriter(session, self._tables, self._node, self._node.clock.now_us())
        sight = writer.sight()
        sight.load_copies({table: keys})
        causes = dict.fromkeys(sight.seen, Cause(self._node.facts.node_id, "", 0))
        written = writer.carry_out(sight, settle(sight, causes), {}, causes)
        check(session, written, references=self._node.config.tables.foreign_keys == "check")
        record(session.connection, writer.finish(), self._node.clock.now_us())
        return bool(written)

    def _pieces(self, after_lsn: int, kept: set[str]) -> Iterator[_Piece]:
        shapes = self._tables.shapes()
        wanted = {name for name in shapes if concerns(kept, {name}, shapes)}
        piece = _Piece(after_lsn)
        for tx in self._node.database.log(self._node.facts).read(after_lsn, _A_PIECE_BYTES):
            piece.to_lsn = tx.header.to_lsn
            for change in _changes(tx, wanted):
                piece.changes.append((change, tx.header.tables[change.table]))
                if len(piece.changes) >= _A_PIECE_CHANGES:
                    # Within a tx: its mark is that of the one before, so that it is looked through again after a stop.
                    yield _Piece(tx.header.prev_lsn, piece.changes)
                    piece = _Piece(tx.header.to_lsn)
        yield piece

    def _follow_up_what_may(self, done: int, piece: _Piece, *, comes_back: bool) -> bool:
        """Follow up a piece, table by table where one has to wait; False when nothing more is to be followed up now."""
        try:
            return self._committing.run(partial(self._follow_up, after_lsn=done, piece=piece), patiently=True)
        except (UncapturedError, PausedError) as error:
            log.debug("standing.by_table", extra={"error": str(error)})
        for table, changes in _by_table(piece.changes).items():
            one = _Piece(done, changes)
            try:
                self._committing.run(partial(self._follow_up, after_lsn=done, piece=one), patiently=True)
            except (UncapturedError, PausedError) as error:
                self._hold(table, error)
        if not comes_back:
            # The mark stays: a process that goes on must meet these changes, since it knows nothing of what waits here.
            return False
        return self._committing.run(
            partial(self._follow_up, after_lsn=done, piece=_Piece(piece.to_lsn)), patiently=True
        )

    def _follow_up(self, session: ApplySession, after_lsn: int, piece: _Piece) -> bool:
        """Settle the rows of a piece; False when another process was faster."""
        incarnation, now_us = self._node.facts.incarnation, self._node.clock.now_us()
        if (mark(session.connection, incarnation) or 0) > after_lsn:
            return False
        writer = StandingWriter(session, self._tables, self._node, now_us)
        sight = writer.sight()
        causes = dict(self._note(sight, piece))
        written = writer.carry_out(sight, settle(sight, causes), {}, causes)
        check(session, written, references=self._node.config.tables.foreign_keys == "check")
        record(session.connection, writer.finish(), now_us)
        set_mark(session.connection, incarnation, max(after_lsn, piece.to_lsn))
        return True

    def _note(self, sight: Sight, piece: _Piece) -> Iterator[tuple[RowId, Cause]]:
        """Tell `sight` what the application wrote; yield the rows."""
        for table, changes in _by_table(piece.changes).items():
            try:
                with sight.session.connection.begin_nested():
                    rows = self._noted(sight, table, changes)
            except PoisonError as error:
                # The table has another shape by now: what its rows were before can't be told, so all are asked.
                log.info("standing.looks_at_all", extra={"table": table, "error": str(error)})
                rows = self._all_of(sight, table)
            last = changes[-1][0]
            for row in rows:
                yield row, Cause(self._node.facts.node_id, last.tx_id, last.lsn)

    def _noted(self, sight: Sight, table: str, changes: Sequence[tuple[Change, TableMeta]]) -> list[RowId]:
        found: dict[RowId, list[RowFacts | None]] = {}
        for change, meta in changes:
            use = self._tables.use(table, meta)
            (row,) = sight.load(table, meta, [bytes(change.pk)])
            facts = found.setdefault(row, [])
            if change.op == "I":
                facts.append(None)
            else:
                asked = Proposal(row.key, bytes(change.pk), bytes(change.before))
                facts += sight.look.examine(use.shape, meta, [asked])
        for row, facts in found.items():
            sight.note_own(row, facts)
        return list(found)

    def _all_of(self, sight: Sight, table: str) -> list[RowId]:
        sight.load_copies({name: sight.copies.keys(name) for name in _bound(sight.shapes, table)})
        return [row for row, seen in sight.seen.items() if seen.copy is not None]


def _by_table(changes: Sequence[tuple[Change, TableMeta]]) -> dict[str, list[tuple[Change, TableMeta]]]:
    found: dict[str, list[tuple[Change, TableMeta]]] = {}
    for change, meta in changes:
        found.setdefault(change.table, []).append((change, meta))
    return found


def _bound(shapes: Mapping[str, TableShape], table: str) -> list[str]:
    """Return the table and those that point to it."""
    of = shapes.items()
    return [name for name, shape in of if name == table or any(key.parent == table for key in shape.foreign_keys)]


def _changes(tx: SealedTx, wanted: set[str]) -> Iterator[Change]:
    if wanted.isdisjoint(tx.header.tables):
        return
    for line in tx.lines():
        change = _change.decode(line)
        if change.table in wanted and change.op != "DDL":
            yield change


def _head(connection: sa.Connection, incarnation: str) -> int:
    tx = rf.tx.c
    return connection.execute(sa.select(sa.func.max(tx.to_lsn)).where(tx.incarnation == incarnation)).scalar() or 0


class RefreshService:
    """`Refresh` as a service of `run`."""

    name = "standing"

    def __init__(self, node: Node, stop: threading.Event) -> None:
        self._refresh = Refresh(node, stop)
        self._wake = threading.Event()

    def step(self, idle_seconds: float) -> bool:
        """Follow up what was sealed; one look-up where no row has stepped back. Raises OutageError, ContentionError."""
        self._wake.clear()
        if self._refresh.step():
            return True
        self._wake.wait(idle_seconds)
        return False

    def wake(self) -> None:
        """End the wait of a running `step`. Any thread."""
        self._wake.set()

    def close(self) -> None:
        """Nothing is held between two steps."""
