"""Gives LSNs, tx ids and versions to what a look found, in order, and writes the lines."""

import hashlib
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import msgspec

from common.clock import Clock, to_iso
from common.dialects.sqlite.backlog import SlicedSegment
from common.dialects.sqlite.net import NetChange, Segment, SetAside, segments
from common.dialects.sqlite.spool import Content, Held, Line, Spooled
from common.dialects.sqlite.storing import Letter, ReadyTx
from common.dialects.sqlite.touches import Stretch
from common.dialects.sqlite.versions import Record, read_versions
from common.errors import Reason
from common.ids import TxIds
from common.ports.dialect import NodeFacts
from common.versions import NEVER, Version, next_hlc
from common.wire.compress import compress
from common.wire.encode import encode_change
from common.wire.records import TableMeta

_json = msgspec.json.Encoder()


def read_bases(connection: sqlite3.Connection, found: Iterable[Segment]) -> dict[tuple[int, str], Record]:
    """Return what is known of the rows that these segments change, by table and key."""
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
class _Begun:
    """One tx while its changes are numbered."""

    tx_id: str
    now_us: int
    prev_lsn: int
    captured_us: int | None = None
    tables: dict[str, TableMeta] = field(default_factory=dict)
    letters: list[Letter] = field(default_factory=list)

    def ready(self, content: Content, *, grouped: bool, mark: int | None, stretches: dict[int, Stretch]) -> ReadyTx:
        """Return it as it is to be stored."""
        return ReadyTx(
            tx_id=self.tx_id,
            exported_at=to_iso(self.now_us),
            prev_lsn=self.prev_lsn,
            grouped=grouped,
            tables=self.tables,
            content=content,
            captured_us=self.now_us if self.captured_us is None else self.captured_us,
            stretches=stretches,
            mark=mark,
            letters=self.letters,
        )


@dataclass(slots=True)
class Numbering:
    """Gives LSNs, tx ids and versions to segments, in order."""

    node: NodeFacts
    clock: Clock
    lsn: int
    """The last that was given."""
    ids: TxIds
    records: dict[tuple[int, str], Record] = field(default_factory=dict)
    """Of the rows that are being numbered."""
    _isos: dict[int, str] = field(default_factory=dict)

    def ready(self, found: Iterable[Segment]) -> Iterator[ReadyTx]:
        """Yield what is to be stored of each segment."""
        for segment in found:
            tx = self._begin()
            lines, records = self._take(tx, segment)
            content = Held(lines, records, len(lines), sum([len(one[3]) for one in lines]))
            yield tx.ready(content, grouped=segment.grouped, mark=segment.mark, stretches=segment.stretches)

    def spooled(self, connection: sqlite3.Connection, piece: SlicedSegment, content: Spooled) -> ReadyTx:
        """Return what is to be stored of a segment that comes in slices; its lines go into `content`."""
        tx = self._begin()
        for look, followers in piece.slices:
            (segment,) = segments(look, followers)
            self.records = read_bases(connection, [segment])
            content.add(*self._take(tx, segment))
        return tx.ready(content, grouped=piece.mark is None, mark=piece.mark, stretches=piece.stretches)

    def _begin(self) -> _Begun:
        now_us = self.clock.now_us()
        return _Begun(self.ids.next(now_us), now_us, self.lsn)

    def _take(self, tx: _Begun, segment: Segment) -> tuple[list[Line], list[tuple[int, str, Record]]]:
        """Number some changes of a tx: return their lines, and the versions that their rows get."""
        tx.tables |= _tables(segment.changes)
        touched = {(one.log.table_id, one.key): None for one in segment.changes}
        times = [one.at_us or tx.now_us for one in segment.changes]
        tx.captured_us = min(times if tx.captured_us is None else [*times, tx.captured_us], default=None)
        lines = [self._line(self.lsn + place, tx.tx_id, one) for place, one in enumerate(_let_go(segment.changes), 1)]
        self.lsn += len(lines)
        tx.letters += [_letter(one, self.ids.next(tx.now_us), tx.now_us) for one in segment.aside]
        return lines, [(table_id, key, self.records[table_id, key]) for table_id, key in touched]

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
