"""Row changes into one transaction: lock, decide in order of arrival, write the winners once, then check.

Within one call the changes of a key are squashed to its last winner, so a group of many txs costs a few statements
a table.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from common.config.model import Policy
from common.errors import ContentionError, EarlyError
from common.ports.dialect import ApplySession, BrokenReference, RowState, RowWrite
from common.versions import NEVER, Version
from common.wire.records import Change
from consumer.apply.order import parents_first
from consumer.conflict.detect import Relation, relate
from consumer.conflict.policies import comparable, greater_image, incoming_stands
from consumer.conflict.record import Conflict, Kind, Winner
from consumer.incoming import Counts
from consumer.tables import TableUse

_MOST_MISSING_NAMED = 20


class UnsealedError(ContentionError):
    """This node's own writes of the same rows are committed and not sealed: roll back, seal, try again."""


class MissingParentError(EarlyError):
    """A row points to one that is not here."""

    def __init__(self, broken: BrokenReference) -> None:
        where = f"{broken.table} {broken.child_pk}"
        super().__init__(f"{where} points to a row of {broken.parent} that is not here: {broken.detail}")
        self.broken = broken


@dataclass(frozen=True, slots=True)
class Entry:
    """One change on its way: which tx of the call it belongs to, and where it goes."""

    change: Change
    use: TableUse
    source_node: str
    counts: Counts


@dataclass(slots=True)
class _Row:
    """One row while the changes of the call are decided."""

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
    row: _Row
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


def apply_rows(
    session: ApplySession, entries: Sequence[Entry], policy_for: Callable[[str], Policy], *, replace: bool = False
) -> Written:
    """Lock the rows of `entries`, decide, and write what stands; counts go to each entry's `counts`.

    `replace`: see `ApplySession.write`. Follow with `check`, when everything of the transaction is written."""
    decision = _Decision(session, policy_for)
    rows = _lock(session, entries)
    for entry, row in zip(entries, rows, strict=True):
        decision.decide(entry, row)
    written = decision.finish(rows)
    for use in parents_first(written.writes):
        session.write(use.shape, use.meta, written.writes[use], replace=replace)
    return written


def check(session: ApplySession, writes: dict[TableUse, list[RowWrite]], *, references: bool) -> None:
    """Look for own writes that slipped in (UnsealedError) and for broken foreign keys (MissingParentError)."""
    for use, rows in writes.items():
        if session.unsealed(use.shape, [row.key for row in rows]):
            raise UnsealedError(f"own writes of {use.name} are not sealed yet")
    if not references:
        return
    for use, rows in writes.items():
        standing = [row for row in rows if row.image is not None]
        gone = [row for row in rows if row.image is None]
        broken = session.broken_references(use.shape, use.meta, standing, gone)
        if broken:
            raise MissingParentError(broken[0])


def lock_states(session: ApplySession, entries: Sequence[Entry]) -> list[RowState]:
    """Lock the rows of `entries`, table by table in order of their names, and return their states in order."""
    found: list[RowState | None] = [None] * len(entries)
    places: dict[TableUse, list[int]] = {}
    for place, entry in enumerate(entries):
        places.setdefault(entry.use, []).append(place)
    for use in sorted(places, key=lambda one: one.name):
        keys = dict.fromkeys(bytes(entries[place].change.pk) for place in places[use])
        states = dict(zip(keys, session.lock(use.shape, use.meta, list(keys)), strict=True))
        for place in places[use]:
            found[place] = states[bytes(entries[place].change.pk)]
    return [state for state in found if state is not None]


def row_write(entry: Entry, key: str) -> RowWrite:
    """Return the write that makes a row as `entry` says."""
    change = entry.change
    return RowWrite(key, bytes(change.pk), change.image, change.version, change.base or NEVER)


def _lock(session: ApplySession, entries: Sequence[Entry]) -> list[tuple[str, _Row]]:
    rows: dict[tuple[str, str], _Row] = {}
    found = []
    for entry, state in zip(entries, lock_states(session, entries), strict=True):
        row = rows.get((entry.use.name, state.key))
        if row is None:
            row = _Row(state.version, state.base, state.deleted, state.known, entry)
            rows[entry.use.name, state.key] = row
        found.append((state.key, row))
    return found


class _Decision:
    """Decides change by change, and keeps which stored images are wanted for the record."""

    def __init__(self, session: ApplySession, policy_for: Callable[[str], Policy]) -> None:
        self._session = session
        self._policy_for = policy_for
        self._clashes: list[_Clash] = []
        self._maybe_missing: list[tuple[Entry, _Row]] = []

    def decide(self, entry: Entry, keyed: tuple[str, _Row]) -> None:
        """Let one change win, lose or count as the same; note conflicts and rows it did not find."""
        row, change, counts = keyed[1], entry.change, entry.counts
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

    def finish(self, rows: Sequence[tuple[str, _Row]]) -> Written:
        """Fetch the wanted images, complete the records, and return the last winner of each row."""
        images = self._stored_images()
        written = Written()
        for clash in self._clashes:
            written.conflicts.append(self._conflict(clash, images))
        for entry, row in self._maybe_missing:
            if images[id(row)] is None:
                _count_missing(entry, "never-arrived")
        for key, row in {id(row): (key, row) for key, row in rows}.values():
            if row.winner is not None:
                written.writes.setdefault(row.winner.use, []).append(row_write(row.winner, key))
        return written

    def _decide_same(self, entry: Entry, row: _Row) -> None:
        ours = comparable(row.winner.change.image if row.winner else self._image(row))
        theirs = comparable(entry.change.image)
        if ours == theirs:
            entry.counts.same += 1
            return
        theirs_stands = greater_image(ours, theirs)
        self._clash(entry, row, Kind.IDENTITY, Winner.THEIRS if theirs_stands else Winner.OURS)
        if theirs_stands:
            _take(entry, row)
        else:
            entry.counts.lost += 1

    def _note_missing(self, entry: Entry, row: _Row) -> None:
        if row.winner is not None:
            if row.winner.change.op == "D":
                _count_missing(entry, "deleted")
        elif row.deleted:
            _count_missing(entry, "deleted")
        elif not row.known:
            self._maybe_missing.append((entry, row))

    def _clash(self, entry: Entry, row: _Row, kind: Kind, winner: Winner) -> None:
        entry.counts.conflicts += 1
        self._clashes.append(_Clash(entry, row, kind, winner, row.version, row.winner))

    def _image(self, row: _Row) -> bytes | None:
        entry = row.first
        return self._session.images(entry.use.shape, [bytes(entry.change.pk)], entry.use.meta)[0]

    def _stored_images(self) -> dict[int, bytes | None]:
        wanted = {id(clash.row): clash.row for clash in self._clashes if clash.ours is None}
        wanted |= {id(row): row for _, row in self._maybe_missing}
        by_use: dict[TableUse, list[_Row]] = {}
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


def _take(entry: Entry, row: _Row) -> None:
    entry.counts.won += 1
    row.version, row.base, row.winner = entry.change.version, entry.change.base or NEVER, entry


def _count_missing(entry: Entry, cause: str) -> None:
    counts, change = entry.counts, entry.change
    counts.missing_total += 1
    if len(counts.missing) < _MOST_MISSING_NAMED:
        pk = bytes(change.pk).decode("utf-8")
        counts.missing.append({"table": change.table, "pk": pk, "op": change.op, "cause": cause})
