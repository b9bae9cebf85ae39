"""Which changes of one call stand: decided one after the other, against what earlier ones left of the row."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache

import msgspec

from common.config.model import Policy
from common.ports.dialect import ApplySession, RowWrite
from common.versions import NEVER, Version
from common.wire.records import Change
from consumer.apply.stored_form import as_stored
from consumer.conflict.detect import Relation, relate
from consumer.conflict.policies import comparable, greater_image, incoming_stands
from consumer.conflict.record import Conflict, Kind, Winner
from consumer.incoming import Counts
from consumer.tables import TableUse

_MOST_MISSING_NAMED = 20


class Entry(msgspec.Struct, frozen=True):
    """One change on its way: which tx of the call it belongs to, and where it goes."""

    change: Change
    use: TableUse
    source_node: str
    counts: Counts


class Row(msgspec.Struct):
    """One row while the changes of the call are decided."""

    key: str
    version: Version
    base: Version
    deleted: bool
    known: bool
    first: Entry
    """Whose key is used to ask for the stored image."""
    winner: Entry | None = None


@dataclass(slots=True)
class _Clash:
    """A conflict whose images are put together later."""

    entry: Entry
    row: Row
    kind: Kind
    winner: Winner
    our_version: Version
    ours: Entry | None
    """The change of this call that stood then; None: the row as stored."""


@dataclass(slots=True)
class Written:
    """What a call wrote, by table and description, and the conflicts it decided."""

    writes: dict[TableUse, list[RowWrite]] = field(default_factory=dict)
    conflicts: list[Conflict] = field(default_factory=list)


class Decision:
    """Decides change by change, and keeps which stored images are wanted for the record."""

    def __init__(self, session: ApplySession, policy_for: Callable[[str], Policy]) -> None:
        self._session = session
        self._policy_for = cache(policy_for)
        self._clashes: list[_Clash] = []
        self._maybe_missing: list[tuple[Entry, Row]] = []

    def decide(self, entry: Entry, row: Row) -> None:
        """Let one change win, lose or count as the same; note conflicts and rows it did not find."""
        change, counts = entry.change, entry.counts
        counts.changes += 1
        relation = relate(change.version, change.base or NEVER, row.version, row.base)
        if relation is Relation.SAME:
            self._decide_same(entry, row)
            return
        policy = self._policy_for(entry.use.name)
        wins = incoming_stands(policy, change.version, row.version)
        if relation is Relation.CONCURRENT:
            self._clash(entry, row, Kind.of(change.op), Winner.THEIRS if wins else Winner.OURS)
        if not wins:
            counts.late += relation is Relation.LATE
            counts.lost += relation is not Relation.LATE
            return
        if change.op != "I":
            self._note_missing(entry, row)
        _take(entry, row)

    def finish(self, rows: Iterable[Row]) -> Written:
        """Fetch the wanted images, complete the records, and return the last winner of each row."""
        images = self._stored_images()
        written = Written()
        for clash in self._clashes:
            written.conflicts.append(self._conflict(clash, images))
        for entry, row in self._maybe_missing:
            if images[id(row)] is None:
                _count_missing(entry, "never-arrived")
        for row in rows:
            if row.winner is not None:
                written.writes.setdefault(row.winner.use, []).append(row_write(row.winner, row.key))
        return written

    def _decide_same(self, entry: Entry, row: Row) -> None:
        ours = row.winner.change.image if row.winner else self._image(row)
        if comparable(ours) == comparable(entry.change.image):
            entry.counts.same += 1
            return
        # Another kind of database writes the same values in another way, and a sender's way is not kept with the row.
        if row.winner:
            ours = as_stored(self._session, row.winner.use, row.winner.change, row.key)
        theirs = as_stored(self._session, entry.use, entry.change, row.key)
        if comparable(ours) == comparable(theirs):
            entry.counts.same += 1
            return
        theirs_stands = greater_image(comparable(ours), comparable(theirs))
        self._clash(entry, row, Kind.IDENTITY, Winner.THEIRS if theirs_stands else Winner.OURS)
        if theirs_stands:
            _take(entry, row)
        else:
            entry.counts.lost += 1

    def _note_missing(self, entry: Entry, row: Row) -> None:
        if row.winner is not None:
            if row.winner.change.op == "D":
                _count_missing(entry, "deleted")
        elif row.deleted:
            _count_missing(entry, "deleted")
        elif not row.known:
            self._maybe_missing.append((entry, row))

    def _clash(self, entry: Entry, row: Row, kind: Kind, winner: Winner) -> None:
        entry.counts.conflicts += 1
        self._clashes.append(_Clash(entry, row, kind, winner, row.version, row.winner))

    def _image(self, row: Row) -> bytes | None:
        entry = row.first
        return self._session.images(entry.use.shape, [bytes(entry.change.pk)], entry.use.meta)[0]

    def _stored_images(self) -> dict[int, bytes | None]:
        wanted = {id(clash.row): clash.row for clash in self._clashes if clash.ours is None}
        wanted |= {id(row): row for _, row in self._maybe_missing}
        by_use: dict[TableUse, list[Row]] = {}
        for row in wanted.values():
            by_use.setdefault(row.first.use, []).append(row)
        images: dict[int, bytes | None] = {}
        for use, rows in by_use.items():
            keys = [bytes(row.first.change.pk) for row in rows]
            found = self._session.images(use.shape, keys, use.meta)
            images |= {id(row): image for row, image in zip(rows, found, strict=True)}
        return images

    def _conflict(self, clash: _Clash, images: dict[int, bytes | None]) -> Conflict:
        change = clash.entry.change
        return Conflict(
            table=clash.entry.use.name,
            pk=bytes(change.pk).decode("utf-8"),
            kind=clash.kind,
            winner=clash.winner,
            rule=self._policy_for(clash.entry.use.name),
            source_node=clash.entry.source_node,
            tx_id=change.tx_id,
            lsn=change.lsn,
            our_version=clash.our_version,
            their_version=change.version,
            their_base=change.base,
            our_image=clash.ours.change.image if clash.ours else images[id(clash.row)],
            their_image=change.image,
        )


def _take(entry: Entry, row: Row) -> None:
    entry.counts.won += 1
    row.version, row.base, row.winner = entry.change.version, entry.change.base or NEVER, entry


def _count_missing(entry: Entry, cause: str) -> None:
    counts, change = entry.counts, entry.change
    counts.missing_total += 1
    if len(counts.missing) < _MOST_MISSING_NAMED:
        pk = bytes(change.pk).decode("utf-8")
        counts.missing.append({"table": change.table, "pk": pk, "op": change.op, "cause": cause})


def row_write(entry: Entry, key: str) -> RowWrite:
    """Return the write that makes a row as `entry` says."""
    change = entry.change
    return RowWrite(key, bytes(change.pk), change.image, change.version, change.base or NEVER)
