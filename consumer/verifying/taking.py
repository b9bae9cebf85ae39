"""Takes rows with their versions that another node sends once more: by the rules that its batches are applied by."""

import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

import msgspec

from common.crash_points import CrashPoint, reach
from common.errors import ContentionError, EarlyError, PoisonError, Reason
from common.ports.dialect import ApplySession
from common.runtime.node import Node
from common.versions import NEVER, Version
from common.wire.digests import Digested, RowLine
from common.wire.records import BatchHeader, Change, TableMeta
from consumer import audit
from consumer.apply.committing import Committing
from consumer.apply.decision import Entry
from consumer.apply.order import parents_first
from consumer.apply.prepare import Preparer
from consumer.apply.tx import GroupTransaction, Mode
from consumer.incoming import Counts
from consumer.main_node import MainNode
from consumer.tables import Tables, TableUse
from consumer.verify import ChangeChecker
from consumer.verifying.own_log import sealed_here

_ROWS_AT_ONCE = 500


class Outcome(StrEnum):
    """What a row came to."""

    TAKEN = "taken"
    SAME = "same"
    """It stands here already."""
    KEPT = "kept"
    """What is here is higher."""
    WAITS = "waits"
    """It met another write in a `manual` table: somebody has to choose."""
    REFUSED = "refused"


class Taken(NamedTuple):
    """What one row came to, and why."""

    outcome: Outcome
    why: str | None = None
    reason: str | None = None
    """A word for programs, of what is refused."""


class _Row(NamedTuple):
    place: int
    change: Change
    use: TableUse


class RowTaking:
    """Takes rows of one other node. For one thread."""

    def __init__(self, node: Node, sender: str, actor: str, *, may_forward: bool) -> None:
        """`may_forward`: whether the sender is believed for rows that others wrote."""
        self._node = node
        self._sender = sender
        self._actor = actor
        self._may_forward = may_forward
        self._trust = node.config.trust()
        self._tables = Tables(node)
        self._preparer = Preparer(self._tables, MainNode(node))
        self._committing = Committing(node)
        self._name = f"verify-{uuid.uuid4().hex}"
        self._proven: frozenset[int] = frozenset()
        """Rows that this node wrote itself, just so, by its own log."""
        self._yields = False

    def take(self, rows: Sequence[RowLine], described: Mapping[str, Digested], *, yields: bool = False) -> list[Taken]:
        """Write what wins here, and return what each row came to; all of it is committed. Raises OutageError.

        `described`: how the sender's tables look. `yields`: of two images under one version the sender's stands."""
        found: dict[int, Taken] = {}
        checked = []
        own = [] if self._may_forward else [line for line in rows if line.version.node_id == self._node.facts.node_id]
        self._proven = sealed_here(self._node, own, described) if own else frozenset()
        self._yields = yields
        for place, line in enumerate(rows):
            try:
                checked.append(self._checked(place, line, described))
            except PoisonError as error:
                found[place] = Taken(Outcome.REFUSED, str(error), error.reason.value)
        left, before = self._in_order(checked), len(checked) + 1
        # A row may have waited for one that it points to.
        while left and len(left) < before:
            before = len(left)
            found |= self._written(left)
            left = [one for one in left if found[one.place].outcome is Outcome.REFUSED]
        return [found[place] for place in range(len(rows))]

    def _checked(self, place: int, line: RowLine, described: Mapping[str, Digested]) -> _Row:
        if id(line) not in self._proven:
            self._check_author(line.version)
        theirs = described.get(line.table)
        if theirs is None or line.state in ("aside", "absent"):
            raise PoisonError(Reason.FORMAT, f"{line.table}: nothing that could be written", table=line.table)
        if line.state == "stands" and line.image is None:
            raise PoisonError(Reason.LIMIT, f"{line.table}: the row is too long to be sent once more", table=line.table)
        shape = self._tables.shapes().get(line.table)
        known = theirs.columns if shape is None else shape.meta.columns
        columns = {name: logical for name, logical in theirs.columns.items() if name in known}
        meta = TableMeta(pk=theirs.pk, columns=columns)
        header = _header(line.version.node_id, {line.table: meta})
        use = self._tables.use(line.table, meta)
        change = Change(
            lsn=0,
            tx_id=self._name,
            op=_op(line, use),
            table=line.table,
            pk=line.pk,
            version=line.version,
            base=line.base,
            after=_only(line, columns),
        )
        (checked,) = ChangeChecker(header, self._tables, self._preparer.main).check([change])
        return _Row(place, checked.change, checked.use)

    def _check_author(self, version: Version) -> None:
        author = version.node_id
        if version == NEVER:
            raise PoisonError(Reason.VERSION, "a row from before the first sync has no version to go by")
        if author == self._sender:
            return
        if not self._may_forward:
            raise PoisonError(Reason.SOURCE, f"{author} wrote it, and {self._sender} speaks for itself alone")
        if self._trust.asks(author):
            raise PoisonError(Reason.UNSIGNED, f"{author} wrote it and has to sign: ask {author} itself")

    def _in_order(self, rows: Sequence[_Row]) -> list[_Row]:
        """Return rows so that parents come before their children, and go after them."""
        rank = {use: place for place, use in enumerate(parents_first({row.use for row in rows}))}

        def place(row: _Row) -> tuple[bool, int]:
            is_gone = row.change.op == "D"
            return is_gone, -rank[row.use] if is_gone else rank[row.use]

        return sorted(rows, key=place)

    def _written(self, rows: Sequence[_Row]) -> dict[int, Taken]:
        found: dict[int, Taken] = {}
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            found |= self._some(rows[start : start + _ROWS_AT_ONCE])
        return found

    def _some(self, rows: Sequence[_Row]) -> dict[int, Taken]:
        """Write rows in one commit; halves, down to the guilty one, where something is wrong."""
        try:
            return self._either_way(rows)
        except (PoisonError, EarlyError, ContentionError) as error:
            if len(rows) == 1:
                reason = None if isinstance(error, ContentionError) else error.reason.value
                return {rows[0].place: Taken(Outcome.REFUSED, str(error), reason)}
        half = len(rows) // 2
        return self._some(rows[:half]) | self._some(rows[half:])

    def _either_way(self, rows: Sequence[_Row]) -> dict[int, Taken]:
        try:
            return self._committed(rows, Mode())
        except PoisonError as error:
            if error.reason is not Reason.CONSTRAINT:
                raise
        except EarlyError as error:
            if error.reason is not Reason.FOREIGN_KEY:
                raise
        return self._committed(rows, Mode(careful=True))

    def _committed(self, rows: Sequence[_Row], mode: Mode) -> dict[int, Taken]:
        def work(session: ApplySession) -> dict[int, Taken]:
            counts = {row.place: Counts() for row in rows}
            entries = [
                Entry(row.change, row.use, row.change.version.node_id, counts[row.place], yields=self._yields)
                for row in rows
            ]
            GroupTransaction(self._node, self._preparer, session, mode).write(entries)
            found = {place: _came_to(one) for place, one in counts.items()}
            self._note(session, rows, found)
            reach(CrashPoint.BEFORE_COMMIT)
            return found

        return self._committing.run(work, patiently=len(rows) == 1)

    def _note(self, session: ApplySession, rows: Sequence[_Row], found: Mapping[int, Taken]) -> None:
        """Write the audit's line in the same commit."""
        outcomes = Counter(one.outcome.value for one in found.values())
        if set(outcomes) <= {Outcome.SAME.value}:
            return
        tables = Counter(row.use.name for row in rows if found[row.place].outcome is Outcome.TAKEN)
        detail = {"from": self._sender, "rows": dict(outcomes), "tables": dict(tables)}
        line = audit.Line("rows-repaired", self._sender, self._name, self._actor, detail)
        audit.write(session.connection, [line], self._node.clock.now_us())


def _header(author: str, tables: Mapping[str, TableMeta]) -> BatchHeader:
    """Return what a check of changes wants to know of where they come from."""
    return BatchHeader(
        tx_id="",
        source_node=author,
        incarnation="",
        exported_at="",
        from_lsn=0,
        to_lsn=0,
        prev_lsn=0,
        tables=tables,
        changes=0,
        part=1,
        parts=1,
    )


def _op(line: RowLine, use: TableUse) -> str:
    if line.state == "deleted":
        return "D"
    # What stands in an append-only table came as an insert.
    return "I" if use.append_only or line.base == NEVER else "U"


def _only(line: RowLine, columns: Mapping[str, str]) -> msgspec.Raw:
    """Return the columns of a row that this node has."""
    if line.image is None:
        return msgspec.Raw(b"null")
    try:
        fields = msgspec.json.decode(line.image, type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, RecursionError) as error:
        raise PoisonError(
            Reason.FORMAT, f"{line.table}: a row that can't be read: {error}", table=line.table
        ) from error
    kept = {name: value for name, value in fields.items() if name in columns}
    return line.after if len(kept) == len(fields) else msgspec.Raw(msgspec.json.encode(kept))


def _came_to(counts: Counts) -> Taken:
    if counts.waiting:
        return Taken(Outcome.WAITS, "another write stands here in a manual table: rowferry conflicts list")
    if counts.won:
        return Taken(Outcome.TAKEN)
    return Taken(Outcome.SAME) if counts.same else Taken(Outcome.KEPT, "what stands here is higher")
