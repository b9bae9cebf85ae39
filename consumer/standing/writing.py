"""What was decided, written so that only what may stand stands; the rest is kept aside, whole.

Rows that nobody wrote to step back and return here too. Their versions stay as they are: it is no write of anybody."""

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec
import sqlalchemy as sa

from common.config.model import Policy
from common.ports.dialect import ApplySession, RowWrite
from common.ports.standing import Proposal, RowFacts
from common.runtime.node import Node
from common.schema import tables as rf
from common.versions import Version
from common.wire.records import TableMeta
from consumer.apply.rows import naming_columns, write_rows
from consumer.conflict.record import Conflict, Kind, State, Winner
from consumer.standing.holding import Cause, Proposed, held_back, waiting_clash
from consumer.standing.settle import Settled, settle
from consumer.standing.sight import Seen, Sight
from consumer.standing.store import set_mark, tables_with_copies
from consumer.standing.theory import RowId
from consumer.tables import Tables, TableUse, use_of

_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])
Writes = Mapping[TableUse, Sequence[RowWrite]]


@dataclass(slots=True)
class _Plan:
    """What is to be written, in this order."""

    away: dict[TableUse, list[RowWrite]] = field(default_factory=dict)
    here: dict[TableUse, list[RowWrite]] = field(default_factory=dict)
    back: dict[TableUse, list[RowWrite]] = field(default_factory=dict)


class StandingWriter:
    """Writes within one applying transaction."""

    def __init__(
        self, session: ApplySession, tables: Tables, node: Node, now_us: int, *, is_patient: bool = True
    ) -> None:
        """`is_patient`: whether who points to a value that no row has is left for `check` to find, so that it waits."""
        self._session = session
        self._tables = tables
        self._node = node
        self._now_us = now_us
        self._references = node.config.tables.foreign_keys == "check"
        self._is_patient = is_patient
        self._policy_for: Callable[[str], Policy] = node.config.tables.policy_for
        self._own_uses: dict[str, TableUse] = {}
        self._conflicts: dict[RowId, tuple[Conflict, Cause]] = {}
        self._waiting: list[Conflict] = []

    def sight(self) -> Sight:
        """Return a new look at rows."""
        shapes = self._tables.shapes()
        return Sight(self._session, shapes, references=self._references, is_patient=self._is_patient)

    def write(self, writes: Writes, causes: Mapping[RowId, Cause]) -> dict[TableUse, list[RowWrite]]:
        """Write the rows that stand, keep the others; return all that was written, for `check`.

        `causes`: the change behind each of `writes`; the first stands for what follows from several."""
        sight = self.sight()
        proposed: dict[RowId, Proposed] = {}
        for use, some in writes.items():
            ids = sight.load(use.name, use.meta, [one.pk for one in some])
            proposals = [_proposal(one, sight.seen[row], use) for one, row in zip(some, ids, strict=True)]
            with naming_columns(use):
                found = sight.look.examine(use.shape, use.meta, [one for one in proposals if one is not None])
            facts = {one.key: one for one in found}
            for row, write in zip(ids, some, strict=True):
                proposed[row] = Proposed(use, write, facts.get(write.key))
        manual = {row for row in proposed if self._policy_for(row.table) is Policy.MANUAL}
        against = held_back(sight, proposed, {row for row in manual if not causes[row].is_chosen}) if manual else {}
        rows: dict[RowId, tuple[TableUse, RowWrite]] = {}
        for row, one in proposed.items():
            if row in against:
                self._waiting.append(waiting_clash(sight, proposed, row, against[row], causes[row]))
            else:
                sight.change(row, one.write.version, one.write.base, one.facts)
                rows[row] = one.use, one.write
        return self.carry_out(sight, settle(sight, rows), rows, causes)

    def carry_out(
        self,
        sight: Sight,
        settled: Settled,
        rows: Mapping[RowId, tuple[TableUse, RowWrite]],
        causes: Mapping[RowId, Cause],
    ) -> dict[TableUse, list[RowWrite]]:
        """Bring tables and copies to what was settled. `rows`: those that are written to anyway."""
        plan = _Plan()
        for row in settled.nodes:
            if row in rows:
                self._plan_write(plan, *rows[row], sight.seen[row], stands=row in settled.standing)
            else:
                self._plan_flip(plan, sight.seen[row], stands=row in settled.standing)
        write_rows(self._session, plan.away)
        write_rows(self._session, plan.here, replace=True)
        write_rows(self._session, plan.back)
        self._keep_copies(sight, settled, rows, causes)
        return _all_of(plan.away, plan.here, plan.back)

    def finish(self) -> list[Conflict]:
        """Return the conflicts of the rows that stepped back and did not return before the end, and of those whose
        change waits."""
        for _, cause in self._conflicts.values():
            if cause.counts is not None:
                cause.counts.conflicts += 1
        return [*self._waiting, *(conflict for conflict, _ in self._conflicts.values())]

    def _plan_write(self, plan: _Plan, use: TableUse, one: RowWrite, seen: Seen, *, stands: bool) -> None:
        if seen.facts is None:
            plan.away.setdefault(use, []).append(one)
        elif not stands:
            plan.away.setdefault(use, []).append(_moved(one, aside=True))
        elif seen.copy is not None and use.column_names != {column.name for column in use.shape.written}:
            # Columns that the sender does not name are in the copy alone.
            plan.here.setdefault(self._own(use.name), []).append(_row_write(seen, aside=False))
        else:
            plan.here.setdefault(use, []).append(one)

    def _plan_flip(self, plan: _Plan, seen: Seen, *, stands: bool) -> None:
        if seen.facts is None or stands == seen.stood:
            return
        part = plan.back if stands else plan.away
        part.setdefault(self._own(seen.row.table), []).append(_row_write(seen, aside=not stands))

    def _own(self, table: str) -> TableUse:
        if table not in self._own_uses:
            self._own_uses[table] = use_of(self._tables.shapes()[table], None)
        return self._own_uses[table]

    def _keep_copies(
        self, sight: Sight, settled: Settled, incoming: Container[RowId], causes: Mapping[RowId, Cause]
    ) -> None:
        connection = self._session.connection
        out = [row for row, node in settled.nodes.items() if node.alive and row not in settled.standing]
        new = [row for row in out if sight.seen[row].changed or sight.seen[row].copy is None]
        had = {row for row, seen in sight.seen.items() if seen.copy is not None}
        over = {row for row in had & settled.nodes.keys() if row in settled.standing or sight.seen[row].facts is None}
        sight.copies.drop(over | sight.stale)
        for row in over:
            self._conflicts.pop(row, None)
        sight.copies.put(self._seen_anew(sight, had - set(new) - over), self._now_us)
        if not new:
            return
        if not tables_with_copies(connection):
            set_mark(connection, self._node.facts.incarnation, self._sealed_lsn())
        kept = []
        for row in new:
            seen = sight.seen[row]
            if seen.facts is None:
                raise TypeError("a row that is alive has facts")
            conflict, cause = self._conflict(sight, settled, seen, causes, incoming=row in incoming)
            self._conflicts[row] = conflict, cause
            meta = self._tables.shapes()[row.table].meta
            kept.append((row, seen.version, seen.facts, meta, conflict.kind.value))
        sight.copies.put(kept, self._now_us)

    def _seen_anew(self, sight: Sight, kept: Iterable[RowId]) -> list[tuple[RowId, Version, RowFacts, TableMeta, str]]:
        """Return the copies whose table has other keys than when they were made, as they count now."""
        found = []
        for row in kept:
            seen = sight.seen[row]
            if seen.copy is None or seen.unfit:
                # One that can't be written is kept as it was made, for a table that may take it again.
                continue
            if seen.facts not in (None, sight.counting(seen.copy.facts)):
                meta = self._tables.shapes()[row.table].meta
                found.append((row, seen.version, seen.facts, meta, seen.copy.kind))
        return found

    def _sealed_lsn(self) -> int:
        tx = rf.tx.c
        query = sa.select(sa.func.max(tx.to_lsn)).where(tx.incarnation == self._node.facts.incarnation)
        return self._session.connection.execute(query).scalar() or 0

    def _conflict(
        self, sight: Sight, settled: Settled, seen: Seen, causes: Mapping[RowId, Cause], *, incoming: bool
    ) -> tuple[Conflict, Cause]:
        rival = settled.against(seen.row)
        other = rival or _parent_of(sight, settled, seen)
        cause = causes.get(seen.row) or (causes.get(other) if other else None) or next(iter(causes.values()))
        them = sight.seen.get(other) if other is not None else None
        mine = (seen.version, seen.facts.image if seen.facts else None)
        theirs: tuple[Version, str | None] = (them.version, them.facts.image if them.facts else None) if them else mine
        if them is None:
            theirs = (seen.version, None)
        ours, given = (theirs, mine) if incoming else (mine, theirs)
        conflict = Conflict(
            table=seen.row.table,
            row_key=seen.row.key,
            pk=seen.facts.pk if seen.facts else seen.row.key,
            kind=Kind.UNIQUE if rival is not None else Kind.FOREIGN_KEY,
            state=State.SETTLED,
            winner=Winner.OURS if incoming else Winner.THEIRS,
            rule=self._policy_for(seen.row.table),
            source_node=cause.source_node,
            tx_id=cause.tx_id,
            lsn=cause.lsn,
            our_version=ours[0],
            their_version=given[0],
            their_base=seen.base if incoming else None,
            our_image=_encoded(ours[1]),
            their_image=_encoded(given[1]),
            our_meta=None,
            their_meta=None,
        )
        return conflict, cause


def _proposal(one: RowWrite, seen: Seen, use: TableUse) -> Proposal | None:
    if one.image is None:
        return None
    return Proposal(one.key, one.pk, one.image, _stood(seen, use))


def _stood(seen: Seen, use: TableUse) -> bytes | None:
    """Return what a row that stepped back holds, for the columns that a change does not name."""
    if seen.copy is None:
        return None
    image = seen.copy.facts.image.encode()
    if not seen.unfit:
        return image
    fields = _fields.decode(image)
    known = {column.name for column in use.shape.written}
    fitting = {name: value for name, value in fields.items() if name in known}
    # Where the names are still the table's, values are what it can't take.
    return msgspec.json.encode(fitting) if len(fitting) < len(fields) else None


def _row_write(seen: Seen, *, aside: bool) -> RowWrite:
    if seen.facts is None:
        raise TypeError("a row that is alive has facts")
    pk, image = seen.facts.pk.encode(), seen.facts.image.encode()
    return RowWrite(seen.row.key, pk, image, seen.version, seen.base, aside)


def _moved(one: RowWrite, *, aside: bool) -> RowWrite:
    return RowWrite(one.key, one.pk, one.image, one.version, one.base, aside)


def _parent_of(sight: Sight, settled: Settled, seen: Seen) -> RowId | None:
    """Return the parent that is not there, if it is known who that was."""
    for pointer in seen.points:
        holders = [row for row, one in sight.seen.items() if one.facts and pointer.claim in one.facts.pointed]
        if any(row in settled.standing or (row not in settled.nodes and sight.seen[row].stood) for row in holders):
            continue
        if holders:
            return holders[0]
        if pointer.pk is not None:
            return sight.load(pointer.parent, sight.shapes[pointer.parent].meta, [pointer.pk.encode()])[0]
    return None


def _encoded(text: str | None) -> bytes | None:
    return text.encode() if text is not None else None


def _all_of(*parts: Mapping[TableUse, Iterable[RowWrite]]) -> dict[TableUse, list[RowWrite]]:
    found: dict[TableUse, list[RowWrite]] = {}
    for part in parts:
        for use, rows in part.items():
            found.setdefault(use, []).extend(rows)
    return found
