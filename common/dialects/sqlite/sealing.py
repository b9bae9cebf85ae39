"""Seals what is committed: prepared from a read snapshot, then stored in short write transactions.

What was prepared stays true until the next commit of a sealer, which `rf_seal_turn` counts: later touches are later
transactions, and no applier writes a row that has unsealed touches (`ApplySession.unsealed`)."""

import hashlib
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

import msgspec
import sqlalchemy as sa

from common.clock import Clock, SystemClock, to_iso
from common.crash_points import CrashPoint, reach
from common.dialects.sqlite.catalog import SchemaCache
from common.dialects.sqlite.connection import borrowed, transaction
from common.dialects.sqlite.looking import Looker
from common.dialects.sqlite.missed import Comparison
from common.dialects.sqlite.net import NetChange, Segment, SetAside, segments
from common.dialects.sqlite.storing import Letter, ReadyTx, store
from common.dialects.sqlite.versions import Record, read_versions
from common.errors import IncarnationEndedError, Reason
from common.ids import TxIds
from common.ports.dialect import NodeFacts, SealReport
from common.versions import NEVER, Version, next_hlc
from common.wire.compress import compress
from common.wire.encode import encode_change
from common.wire.records import TableMeta

_CHANGES_A_LOCK = 2_000
"""Well below what can be stored within 50 ms of holding the write lock; a larger tx is stored whole all the same."""
_CHANGES_A_TX = 4
"""What a tx costs beside its changes, in changes."""
_json = msgspec.json.Encoder()
_HAS_ANOTHER = "SELECT 1 FROM rf_node WHERE is_self AND incarnation <> ?"


@dataclass(slots=True)
class _Prepared:
    """What one look found, as far as it is not stored yet."""

    groups: Iterator[list[ReadyTx]]
    """One write transaction each."""
    turn: int
    """It is true as long as `rf_seal_turn` stands here."""
    last_lsn: int


class SqliteSealer:
    """Seals for one node. Several may run: whoever commits first makes the others look again."""

    def __init__(self, engine: sa.Engine, schemas: SchemaCache, node: NodeFacts, clock: Clock | None = None) -> None:
        self._engine = engine
        self._looker = Looker(schemas)
        self._comparison = Comparison(schemas, node_id=node.node_id)
        self._node = node
        self._clock = clock or SystemClock()
        self._left: _Prepared | None = None

    def seal(self, max_changes: int = 50_000) -> SealReport:
        """Seal what is committed now, in short transactions, and end early after about `max_changes`.

        What one look found beyond that is kept for the next call: a backlog is read once, not once a call."""
        left, self._left = self._left, None
        with borrowed(self._engine) as connection:
            report = self._store(connection, left or self._look(connection), max_changes)
            if report.more or left is not None:
                # What was committed after that look has not been seen yet.
                return replace(report, more=True)
            return replace(report, more=self._comparison.step(connection))

    def is_quiet(self) -> bool:
        """A look asks a file, and no server: it costs hardly more than asking whether to look."""
        return False

    def _look(self, connection: sqlite3.Connection) -> _Prepared:
        look = self._looker.look(connection, self._node.incarnation)
        found = [] if look.empty else segments(look)
        numbering = _Numbering(self._node, self._clock, _bases(connection, found))
        return _Prepared(_groups(numbering.ready(found, look.last_lsn, look.last_tx_id)), look.turn, look.last_lsn)

    def _store(self, connection: sqlite3.Connection, prepared: _Prepared, max_changes: int) -> SealReport:
        txs = changes = 0
        for group in prepared.groups:
            with transaction(connection):
                if connection.execute("SELECT turn FROM rf_seal_turn").fetchone()[0] != prepared.turn:
                    return SealReport(txs, changes, prepared.last_lsn, more=True)
                self._check_incarnation(connection)
                store(connection, self._node, group)
                reach(CrashPoint.SEALING)
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


def _bases(connection: sqlite3.Connection, found: Iterable[Segment]) -> dict[tuple[int, str], Record]:
    keys: dict[int, set[str]] = {}
    for segment in found:
        for change in segment.changes:
            keys.setdefault(change.log.table_id, set()).add(change.key)
    records: dict[tuple[int, str], Record] = {}
    for table_id, wanted in keys.items():
        for key, record in read_versions(connection, table_id, sorted(wanted)).items():
            records[table_id, key] = record
    return records


@dataclass(slots=True)
class _Numbering:
    """Gives LSNs, tx ids and versions to segments, in order."""

    node: NodeFacts
    clock: Clock
    records: dict[tuple[int, str], Record]
    _isos: dict[int, str] = field(default_factory=dict)

    def ready(self, found: Iterable[Segment], lsn: int, last_tx_id: str | None) -> Iterator[ReadyTx]:
        """Yield what is to be stored of each segment; `lsn` and `last_tx_id` are the last that were given."""
        ids = TxIds(after=last_tx_id)
        for segment in found:
            now_us = self.clock.now_us()
            tx_id = ids.next(now_us)
            tables = _tables(segment.changes)
            touched = {(one.log.table_id, one.key): None for one in segment.changes}
            captured_us = min((one.at_us or now_us for one in segment.changes), default=now_us)
            lines = [self._line(lsn + place, tx_id, one) for place, one in enumerate(_let_go(segment.changes), start=1)]
            yield ReadyTx(
                tx_id=tx_id,
                exported_at=to_iso(now_us),
                prev_lsn=lsn,
                grouped=segment.grouped,
                tables=tables,
                lines=lines,
                records=[(table_id, key, self.records[table_id, key]) for table_id, key in touched],
                captured_us=captured_us,
                last_seqs=segment.last_seqs,
                mark=segment.mark,
                letters=[_letter(one, ids.next(now_us), now_us) for one in segment.aside],
            )
            lsn += len(lines)

    def _line(self, lsn: int, tx_id: str, change: NetChange) -> tuple[int, str, str, bytes]:
        known = self.records.get((change.log.table_id, change.key))
        base = NEVER if known is None else known.version
        table = change.shape.table
        # What has the weakest time nobody has written: it must not beat what others write.
        main_epoch = base.main_epoch + (change.at_us > 0 and table in self.node.main_wins)
        version = Version(main_epoch, next_hlc(change.at_us, base.hlc), self.node.node_id)
        self.records[change.log.table_id, change.key] = Record(version, base, change.after is None, change.digest)
        op = "I" if change.before is None else "D" if change.after is None else "U"
        line = encode_change(
            lsn=lsn,
            tx_id=tx_id,
            table=table,
            op=op,
            pk=change.pk,
            before=change.before,
            after=change.after,
            version=version,
            base=None if known is None and op == "I" else base,
            captured_at=self._iso(change.at_us),
            resolves=change.resolves,
        )
        return lsn, table, op, line

    def _iso(self, us: int) -> str:
        if us not in self._isos:
            self._isos[us] = to_iso(us)
        return self._isos[us]


def _let_go(changes: list[NetChange]) -> Iterator[NetChange]:
    """Yield changes in order, and keep none that was yielded: its line is a copy of all that is in it."""
    changes.reverse()
    while changes:
        yield changes.pop()


def _tables(changes: Iterable[NetChange]) -> dict[str, TableMeta]:
    shapes = {change.shape.table: change.shape for change in changes}
    return {table: shape.meta for table, shape in shapes.items()}


def _letter(aside: SetAside, tx_id: str, now_us: int) -> Letter:
    table = aside.log.shape.table
    head = _json.encode({"table": table})[:-1]
    body = b"".join(head + b',"row":' + image + b"}\n" for image in aside.images)
    if aside.named:
        reason = Reason.UNKNOWN_TABLE
        error = f"{table} was dropped, or got another key, before these rows' changes were sealed"
    else:
        reason = Reason.NULL_KEY
        error = f"rows of {table} have NULL in their primary key: no other node could name them"
    digest = hashlib.sha256(body).hexdigest()
    return Letter(tx_id, table, reason, error, len(aside.images), digest, compress(body, "zstd"), now_us)
