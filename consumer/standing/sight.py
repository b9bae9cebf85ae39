"""The rows that one transaction has to look at: as they are, and as they shall be."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import msgspec

from common.errors import PoisonError
from common.ports.dialect import ApplySession, RowState, TableShape
from common.ports.standing import Claim, Pointer, Proposal, RowFacts
from common.versions import Version
from common.wire.records import TableMeta
from consumer.conflict.policies import comparable
from consumer.standing.store import Copies, Copy
from consumer.standing.theory import Rank, RowId, rank_of

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Seen:
    """One row."""

    row: RowId
    state: RowState
    stood: bool
    """It is in its table now."""
    before: RowFacts | None
    """As it stands or has stepped back now."""
    facts: RowFacts | None
    """As it shall be, in its table or not; None for one that is deleted or never was."""
    version: Version
    base: Version
    copy: Copy | None = None
    changed: bool = False
    """It is written to by what is being applied."""
    unfit: bool = False
    """It has stepped back, and its table has changed so that it can't be written: it stays where it is."""
    between: tuple[RowFacts | None, ...] = ()
    """What it was at times since everything was last looked through; None where it was not there."""

    @property
    def course(self) -> list[RowFacts | None]:
        """What it was, and what it shall be."""
        return [self.before, *self.between, self.facts] if self.changed else [self.facts]

    @property
    def claims(self) -> list[Claim]:
        """Its values in unique keys, those it gives up too."""
        return [claim for one in self.course if one is not None for claim in one.claims]

    @property
    def points(self) -> tuple[Pointer, ...]:
        return self.facts.points if self.facts is not None else ()

    @property
    def rank(self) -> Rank:
        pk = self.facts.pk.encode() if self.facts is not None else b""
        return rank_of(self.version, self.base, self.row.table, comparable(pk) or b"" if pk else b"")

    @property
    def is_elsewhere(self) -> bool:
        """Whether it points to others than it did, or has in between."""
        return self._has_varied(lambda facts: {pointer.claim for pointer in facts.points})

    @property
    def is_other_parent(self) -> bool:
        """Whether what it is pointed to by is not what it was, wherever it stands, or was not in between: somebody may
        have looked for it then."""
        return self._has_varied(lambda facts: facts.pointed)

    def _has_varied(self, values: Callable[[RowFacts], Iterable[Claim]]) -> bool:
        return len({frozenset(values(facts)) if facts else frozenset() for facts in self.course}) > 1


class Sight:
    """Loads rows set by set. For one transaction, before it writes."""

    def __init__(
        self, session: ApplySession, shapes: Mapping[str, TableShape], *, references: bool, is_patient: bool = True
    ) -> None:
        """`references`: whether declared foreign keys count. `is_patient`: whether a value that no row has may still
        come."""
        self.session = session
        self.shapes = shapes
        self.look = session.look(shapes)
        self.copies = Copies(session.connection)
        self.seen: dict[RowId, Seen] = {}
        self.stale: set[RowId] = set()
        """Rows with a copy that is none any more: they were written since."""
        self._references = references
        self._is_patient = is_patient
        self._row_of: dict[tuple[str, bytes], RowId] = {}

    def load(self, table: str, meta: TableMeta, pks: Sequence[bytes]) -> list[RowId]:
        """Look at rows by their keys, as `meta` writes them, and return who they are."""
        new = [pk for pk in dict.fromkeys(pks) if (table, pk) not in self._row_of]
        if new:
            shape = self.shapes[table]
            states = self.session.lock(shape, meta, new)
            here = self.look.inspect(shape, meta, new)
            copies = self.copies.get(table, [state.key for state in states])
            for pk, state in zip(new, states, strict=True):
                row = self._row_of[table, pk] = RowId(table, state.key)
                if row not in self.seen:
                    self.seen[row] = self._see(shape, row, state, here.get(state.key), copies.get(state.key))
        return [self._row_of[table, pk] for pk in pks]

    def load_own(self, found: Mapping[str, Sequence[bytes]]) -> None:
        """The same for keys in this database's own form, of tables that take part."""
        for table, pks in found.items():
            if table in self.shapes:
                self.load(table, self.shapes[table].meta, pks)

    def load_copies(self, keys: Mapping[str, Sequence[str]]) -> None:
        """Look at rows that stepped back."""
        for table, some in keys.items():
            unseen = [key for key in some if RowId(table, key) not in self.seen]
            copies = self.copies.get(table, unseen)
            self.load_own({table: [copy.facts.pk.encode() for copy in copies.values()]})

    def change(self, row: RowId, version: Version, base: Version, facts: RowFacts | None) -> None:
        """Note what becomes of a row that was loaded."""
        seen = self.seen[row]
        seen.version, seen.base, seen.changed, seen.unfit = version, base, True, False
        seen.facts = None if facts is None else self.counting(facts)

    def note_own(self, row: RowId, found: Sequence[RowFacts | None]) -> None:
        """Note that this node's application wrote a row that was loaded; `found`: what each of the writes found, first
        ones first, None where there was no row. What it is now stands in its table already."""
        seen = self.seen[row]
        seen.before, *between = [None if one is None else self.counting(one) for one in found]
        seen.changed, seen.between = True, tuple(between)

    def counting(self, facts: RowFacts) -> RowFacts:
        """Return `facts` with what counts here."""
        return facts if self._references else msgspec.structs.replace(facts, points=(), pointed=())

    def is_unknown(self, seen: Seen, pointer: Pointer) -> bool:
        """Tell whether nothing is known of a row that `seen` points to: it may still come."""
        if pointer.pk is None:
            # Which values there once were is kept nowhere. Where the row had this one before, somebody else had it too.
            had = seen.before.points if seen.before is not None else ()
            return self._is_patient and all(one.claim != pointer.claim for one in had)
        (row,) = self.load(pointer.parent, self.shapes[pointer.parent].meta, [pointer.pk.encode()])
        parent = self.seen[row]
        return not (parent.state.known or parent.changed or parent.stood)

    def having(self, values: Callable[[RowFacts], Iterable[Claim]]) -> dict[Claim, list[RowId]]:
        """Return the rows that shall have each value."""
        found: dict[Claim, list[RowId]] = {}
        for seen in self.seen.values():
            for claim in values(seen.facts) if seen.facts is not None else ():
                found.setdefault(claim, []).append(seen.row)
        return found

    def _see(self, shape: TableShape, row: RowId, state: RowState, here: RowFacts | None, copy: Copy | None) -> Seen:
        if copy is not None and (here is not None or not copy.is_of(state.version)):
            self.stale.add(row)
            copy = None
        now = None if copy is None else self._as_now(shape, copy)
        facts = here or now or (_without_keys(copy.facts) if copy is not None else None)
        facts = None if facts is None else self.counting(facts)
        unfit = copy is not None and now is None
        return Seen(row, state, here is not None, facts, facts, state.version, state.base, copy, unfit=unfit)

    def _as_now(self, shape: TableShape, copy: Copy) -> RowFacts | None:
        """Return a row that stepped back as the table's keys see it now; None where it no longer fits the table."""
        facts = copy.facts
        try:
            asked = Proposal(facts.key, facts.pk.encode(), facts.image.encode())
            with self.session.connection.begin_nested():
                return self.look.examine(shape, copy.meta, [asked])[0]
        except PoisonError as error:
            log.warning("standing.does_not_fit", extra={"table": shape.name, "row": facts.key, "error": str(error)})
            return None


def _without_keys(facts: RowFacts) -> RowFacts:
    """Return a row that can't stand: what it claims is by keys that its table may name otherwise, or have no more."""
    return msgspec.structs.replace(facts, claims=(), points=(), pointed=())


def by_table(rows: Iterable[RowId]) -> Iterator[tuple[str, list[RowId]]]:
    """Yield rows table by table."""
    for table, some in groupby(sorted(rows), key=lambda row: row.table):
        yield table, list(some)
