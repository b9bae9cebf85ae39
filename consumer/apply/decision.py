"""Which changes of one call stand: decided one after the other, against what earlier ones left of the row."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache

import msgspec

from common.config.model import Policy
from common.ports.dialect import ApplySession, RowWrite
from common.versions import FIRST_OF_EACH, NEVER, WEAKEST_HLC, Version
from common.wire.records import NO_IMAGE, Change, TableMeta
from consumer.apply.same_values import SameValues
from consumer.apply.stored_form import as_stored
from consumer.conflict.choices import Choice, Histories, RowHistory, Waiting
from consumer.conflict.detect import Relation, relate
from consumer.conflict.policies import comparable, greater_image, incoming_stands
from consumer.conflict.record import Conflict, Kind, State, Winner, version_text, written_as
from consumer.horizon import Horizons, older_than_tombstones
from consumer.incoming import Counts
from consumer.tables import TableUse, use_of

_MOST_MISSING_NAMED = 20


class Entry(msgspec.Struct, frozen=True):
    """One change on its way: which tx of the call it belongs to, and where it goes."""

    change: Change
    use: TableUse
    source_node: str
    counts: Counts
    released_by: "Entry | None" = None
    """The choice that settles the clash for which this change had waited."""
    yields: bool = False
    """Under one version with another image what is here gives way, whichever bytes are greater."""


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
    state: State = State.SETTLED
    note: str | None = None


@dataclass(frozen=True, slots=True)
class Closed:
    """A conflict on record that need not wait any more: a later change of the call had seen both sides of it."""

    waiting: Waiting
    by: Entry
    row_key: str
    is_of_rival: bool = False
    """The change was a choice for the other one of two rows that clash."""


@dataclass(slots=True)
class Written:
    """What a call wrote, by table and description, the conflicts it met, and the choices that came with it."""

    writes: dict[TableUse, list[RowWrite]] = field(default_factory=dict)
    conflicts: list[Conflict] = field(default_factory=list)
    choices: list[Choice] = field(default_factory=list)
    closed: list[Closed] = field(default_factory=list)


class Decision:
    """Decides change by change, and keeps which stored images are wanted for the record."""

    def __init__(self, session: ApplySession, policy_for: Callable[[str], Policy]) -> None:
        self._session = session
        self._policy_for = cache(policy_for)
        self._histories = Histories(session.connection)
        self._clashes: list[_Clash] = []
        self._choices: list[Choice] = []
        self._closed: list[Closed] = []
        self._maybe_missing: list[tuple[Entry, Row]] = []
        self._horizons = Horizons(session.connection)
        self._values = SameValues()

    def look_first(self, entries: Sequence[Entry], row_keys: Sequence[str]) -> None:
        """Read what is known of rows of which `decide` will ask it for sure, all at once: where every change may close
        a conflict that waits, and where one says what it settles (`adopt` sends nothing else)."""
        keys: dict[str, list[str]] = {}
        for entry, row_key in zip(entries, row_keys, strict=True):
            table = entry.use.name
            if entry.change.resolves or self._policy_for(table) is Policy.MANUAL:
                keys.setdefault(table, []).append(row_key)
        for table, some in keys.items():
            self._histories.load(table, some)

    def decide(self, entry: Entry, row: Row) -> None:
        """Let one change win, lose, wait or count as the same; note conflicts and rows it did not find.

        Raises PoisonError for one that may be of a row whose tombstone was purged."""
        change, counts = entry.change, entry.counts
        if not row.known and row.winner is None and self._may_be_deleted(entry, row):
            raise older_than_tombstones(entry.use.name, bytes(change.pk).decode("utf-8"))
        counts.changes += 1
        is_first = gives_first(change) and row.version == NEVER and row.winner is None
        relation = relate(change.version, change.base or NEVER, row.version, row.base)
        if relation is Relation.SAME:
            self._decide_same(entry, row)
            return
        policy = self._policy_for(entry.use.name)
        wins = incoming_stands(policy, change.version, row.version)
        if relation is Relation.CONCURRENT or policy is Policy.MANUAL or change.resolves:
            history = self._histories.of(entry.use.name, row.key)
            if entry.released_by is not None:
                self._end_clash(entry, entry.released_by, row, history)
            if relation is Relation.CONCURRENT and wins and history.follows_clash(change):
                relation = Relation.ON_TOP
            relation, is_rival = _by_choices(relation, change, row, history)
            self._note_choice(entry, row, history)
            meets = relation is Relation.CONCURRENT and not _is_nobodys(change.version, row.version)
            if policy is Policy.MANUAL and not is_rival and (meets or self._of_each(entry, row, is_first)):
                self._wait(entry, row, history)
                return
        if relation is Relation.CONCURRENT:
            self._clash(entry, row, Kind.of(change.op), Winner.THEIRS if wins else Winner.OURS)
        if not wins or relation is Relation.LATE:
            counts.late += relation is Relation.LATE
            counts.lost += relation is not Relation.LATE
            return
        if change.op != "I":
            self._note_missing(entry, row)
        if is_first:
            self._clashes.append(_Clash(entry, row, Kind.FIRST_SYNC, Winner.THEIRS, NEVER, None))
        _take(entry, row)
        if _is_choice(change):
            self._prefer_rival(entry, row)
            self._decide_anew(entry, row)

    def finish(self, rows: Iterable[Row]) -> Written:
        """Fetch the wanted images, complete the records, and return the last winner of each row."""
        images = self._stored_images()
        written = Written(choices=self._choices, closed=self._closed)
        for clash in self._clashes:
            if clash.kind is Kind.FIRST_SYNC:
                if self._is_same(images[id(clash.row)], clash.entry):
                    continue
                clash.entry.counts.conflicts += 1
            written.conflicts.append(self._conflict(clash, images))
        for entry, row in self._maybe_missing:
            if images[id(row)] is None:
                _count_missing(entry, "never-arrived")
        for row in rows:
            if row.winner is not None:
                written.writes.setdefault(row.winner.use, []).append(row_write(row.winner, row.key))
        return written

    def _may_be_deleted(self, entry: Entry, row: Row) -> bool:
        return self._horizons.is_beyond(entry.use.name, entry.change.version) and self._image(row) is None

    def _of_each(self, entry: Entry, row: Row, is_first: bool) -> bool:
        """Tell whether a row from before the first sync meets another node's, and both are to be given."""
        if not is_first or entry.change.resolves != FIRST_OF_EACH:
            return False
        return not self._is_same(self._image(row), entry)

    def _is_same(self, stood: bytes | None, entry: Entry) -> bool:
        """Tell whether a row from before the first sync is what it is to be, or was not there."""
        image = entry.change.image
        return stood is None or (image is not None and self._values.are_same(entry.use, stood, image))

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
        theirs_stands = entry.yields or greater_image(comparable(ours), comparable(theirs))
        self._clash(entry, row, Kind.IDENTITY, Winner.THEIRS if theirs_stands else Winner.OURS)
        if theirs_stands:
            _take(entry, row)
        else:
            entry.counts.lost += 1

    def _note_choice(self, entry: Entry, row: Row, history: RowHistory) -> None:
        """Keep a choice, whether it stands or not, and close the conflicts of whose both sides its author knew."""
        change = entry.change
        if _is_choice(change):
            choice = Choice(
                entry.use.name,
                row.key,
                change.version.node_id,
                change.base or NEVER,
                change.version,
                frozenset(change.resolves),
            )
            history.choices.append(choice)
            self._choices.append(choice)
        self._close(history.taken_by(change), entry, row)

    def _close(self, done: Iterable[Waiting], entry: Entry, row: Row) -> None:
        for waiting in done:
            if waiting.number is not None:
                self._closed.append(Closed(waiting, entry, row.key))
                continue
            for clash in self._clashes:
                if clash.row is row and clash.entry.change.version == waiting.version:
                    clash.state, clash.note = State.SETTLED, overtaken_by(entry.change)

    def _prefer_rival(self, entry: Entry, row: Row) -> None:
        """Of two choices made apart the higher one stands, also where it waited here until the lower one came."""
        history = self._histories.of(entry.use.name, row.key)
        for waiting in list(history.waiting):
            choice = history.choice_of(waiting.version)
            if choice is None or waiting.version < row.version or choice.resolves.isdisjoint(entry.change.resolves):
                continue
            rival = msgspec.structs.replace(
                entry.change,
                op="D" if waiting.image is None else "U",
                after=NO_IMAGE if waiting.image is None else msgspec.Raw(waiting.image),
                version=waiting.version,
                base=waiting.base,
                resolves=tuple(sorted(choice.resolves)),
            )
            shape = entry.use.shape
            use = use_of(shape, written_as(waiting.meta, waiting.image, shape.meta))
            higher = msgspec.structs.replace(entry, change=rival, use=use)
            history.waiting.remove(waiting)
            self._close([waiting], higher, row)
            row.version, row.base, row.winner = waiting.version, waiting.base or NEVER, higher

    def _end_clash(self, entry: Entry, choice: Entry, row: Row, history: RowHistory) -> None:
        for waiting in [one for one in history.waiting if one.is_clash and one.version == entry.change.version]:
            history.waiting.remove(waiting)
            self._closed.append(Closed(waiting, choice, row.key, is_of_rival=True))

    def _decide_anew(self, entry: Entry, row: Row) -> None:
        """What was decided here, and is settled otherwise by a choice that stands, is on record as it stands now."""
        for decided in self._histories.decided(entry.use.name, row.key):
            if {decided.version, decided.our_version} <= set(entry.change.resolves):
                self._closed.append(Closed(decided, row.winner or entry, row.key))

    def _wait(self, entry: Entry, row: Row, history: RowHistory) -> None:
        """Leave the row as it is until somebody chooses."""
        change = entry.change
        self._clash(entry, row, Kind.of(change.op), Winner.NEITHER, State.WAITING)
        entry.counts.waiting += 1
        meta = _foreign_meta(entry)
        history.waiting.append(Waiting(change.version, change.base, change.image, None, meta))

    def _note_missing(self, entry: Entry, row: Row) -> None:
        if row.winner is not None:
            if row.winner.change.op == "D":
                _count_missing(entry, "deleted")
        elif row.deleted:
            _count_missing(entry, "deleted")
        elif not row.known:
            self._maybe_missing.append((entry, row))

    def _clash(self, entry: Entry, row: Row, kind: Kind, winner: Winner, state: State = State.SETTLED) -> None:
        entry.counts.conflicts += 1
        self._clashes.append(_Clash(entry, row, kind, winner, row.version, row.winner, state))

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
            row_key=clash.row.key,
            pk=bytes(change.pk).decode("utf-8"),
            kind=clash.kind,
            state=clash.state,
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
            our_meta=_foreign_meta(clash.ours),
            their_meta=_foreign_meta(clash.entry),
            note=clash.note,
        )


def _by_choices(relation: Relation, change: Change, row: Row, history: RowHistory) -> tuple[Relation, bool]:
    """Return how a change relates to the row once choices are counted in, and whether both are choices that were made
    apart: then the higher one stands."""
    if relation is not Relation.CONCURRENT:
        return relation, False
    if row.version in change.resolves and change.version > row.version:
        return Relation.ON_TOP, False
    if history.knows(change.version):
        return Relation.LATE, False
    standing = history.standing_choice(row.version, row.base) if change.resolves else None
    return relation, standing is not None and not standing.resolves.isdisjoint(change.resolves)


def gives_first(change: Change) -> bool:
    """Tell whether `adopt` made this change. A write on top of it may have been sealed with it, and have its mark."""
    return NEVER in change.resolves and change.version.hlc <= WEAKEST_HLC


def _is_choice(change: Change) -> bool:
    return bool(change.resolves) and NEVER not in change.resolves


def _is_nobodys(one: Version, other: Version) -> bool:
    """Tell whether a write met what nobody is known to have written: the higher one stands, without a choice."""
    return (one.hlc <= WEAKEST_HLC) != (other.hlc <= WEAKEST_HLC)


def overtaken_by(change: Change) -> str:
    """Return the note of a conflict that waited until `change` came, whose author knew both sides."""
    what = "settled by the choice" if change.resolves else "overtaken by the write"
    return f"{what} {version_text(change.version)}"


def _foreign_meta(entry: Entry | None) -> TableMeta | None:
    """Return how the image of `entry` is written, where that is not as the table is here."""
    return None if entry is None or entry.use.meta == entry.use.shape.meta else entry.use.meta


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
