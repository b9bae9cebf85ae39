"""Applies a dead letter as somebody has edited it: all of it in one commit, and so that all nodes end alike.

Rows that were left as they came are applied as they came. A row that was edited becomes a new write of this node on top
of what came and of what stands, which settles both, just as a choice does (`consumer.settling`): other nodes, which may
have applied the batch as it came, take it over. A row that was taken out stays as it is here, by such a write too."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from common.config.model import Policy
from common.crash_points import CrashPoint, reach
from common.errors import EarlyError, PoisonError, Reason, UsageError
from common.ports.dialect import ApplySession, RowState, RowWrite
from common.runtime.node import Node
from common.versions import NEVER
from common.wire.changes import TxReader
from common.wire.records import BatchHeader, Change, TableMeta
from consumer import audit, watermark
from consumer.apply.committing import Committing
from consumer.apply.prepare import Prepared, Preparer
from consumer.apply.rows import MissingParentError, UnsealedError, check
from consumer.apply.tx import GroupTransaction, Mode, table_of
from consumer.conflict.choices import Choice, Histories, remember
from consumer.conflict.record import Winner, settle
from consumer.dead_letters.editing import Edit, EditedBatch, edits
from consumer.dead_letters.loading import load
from consumer.dead_letters.states import LetterState
from consumer.dead_letters.table_store import Letter, SettledError, lock_open
from consumer.failures import reason_of
from consumer.incoming import Counts, Incoming, Outcome, Result
from consumer.main_node import MainNode
from consumer.readable import readable
from consumer.standing.logical import LogicalSession
from consumer.statements import reading, writing
from consumer.tables import Tables, TableUse, use_of

_OUTCOMES = {
    LetterState.DEAD: Outcome.DEAD,
    LetterState.EARLY: Outcome.EARLY,
    LetterState.FORKED: Outcome.FORKED,
}


@dataclass(frozen=True, slots=True)
class EditedRow:
    """What became of a row that was edited."""

    table: str
    pk: str
    was: str | None
    now: str | None
    kept: bool
    """It was taken out of the batch: it stays as it is here."""

    def as_dict(self) -> dict[str, Any]:
        """Return it as `--json` prints it."""
        images = {name: readable(getattr(self, name)) for name in ("pk", "was", "now")}
        return {"table": self.table, **images, "kept": self.kept}


@dataclass(frozen=True, slots=True)
class EditedResult:
    """What an edited letter came to."""

    result: Result
    rows: tuple[EditedRow, ...] = ()


class _DryError(Exception):
    """Ends a dry run: everything is taken back."""


class EditedReplay:
    """Applies edited letters for `actor`. Killed anywhere, a letter is applied whole or not at all."""

    def __init__(self, node: Node, actor: str, *, dry_run: bool = False) -> None:
        self._node = node
        self._actor = actor
        self._dry_run = dry_run
        self._tables = Tables(node)
        self._preparer = Preparer(self._tables, MainNode(node))
        self._committing = Committing(node)

    def replay(self, letter: Letter, batch: EditedBatch) -> EditedResult:
        """Apply one letter. Raises OutageError; what is wrong with it is told in the result, and changes nothing."""
        with reading(self._node.database) as connection:
            tx = load(connection, letter, self._node.config.trust(), self._actor)
        try:
            header = _readable(letter, tx)
        except UsageError as error:
            self._note_failure(letter, batch, None, error)
            raise
        came = list(TxReader(header, [tx.payload or b""]))
        try:
            return self._any_way(letter, tx, header, came, batch)
        except SettledError as error:
            return EditedResult(Result(tx, Outcome.DUPLICATE, settled=error.state))
        except (PoisonError, EarlyError) as error:
            self._note_failure(letter, batch, reason_of(error), error)
            outcome = _OUTCOMES[letter.state]
            return EditedResult(Result(tx, outcome, Counts(), reason_of(error), str(error), table_of(error)))

    def _note_failure(self, letter: Letter, batch: EditedBatch, reason: Reason | None, error: Exception) -> None:
        """Audit that it was tried. The letter goes on to tell why what came failed: of the file it says nothing.

        `reason`: None where the letter is none that can be edited."""
        if self._dry_run:
            return
        detail = {"state": letter.state.value} | ({} if reason is None else {"reason": reason.value})
        detail |= {"error": str(error), "edited_sha256": batch.sha256}
        line = audit.Line("replay-failed", letter.source_node, letter.tx_id, self._actor, detail)
        now_us = self._node.clock.now_us()
        writing(self._node.database, lambda connection: audit.write(connection, [line], now_us))

    def _any_way(
        self, letter: Letter, tx: Incoming, header: BatchHeader, came: Sequence[Change], batch: EditedBatch
    ) -> EditedResult:
        wanted = edits(came, batch.changes)
        edited = {change.lsn for edit in wanted for change in edit.came}
        rest = [change for change in came if change.lsn not in edited]
        # As written in the file: what is wrong with it is found before anything is locked.
        for _ in self._preparer.checker(batch.header).check([one.change for one in wanted if one.change is not None]):
            pass
        try:
            return self._committed(letter, tx, header, rest, wanted, batch, Mode())
        except PoisonError as error:
            if error.reason is not Reason.CONSTRAINT:
                raise
        except MissingParentError:
            pass
        return self._committed(letter, tx, header, rest, wanted, batch, Mode(careful=True))

    def _committed(
        self,
        letter: Letter,
        tx: Incoming,
        header: BatchHeader,
        rest: Sequence[Change],
        wanted: Sequence[Edit],
        batch: EditedBatch,
        mode: Mode,
    ) -> EditedResult:
        done: list[EditedResult] = []

        def work(session: ApplySession) -> None:
            done.clear()
            # In the order in which every applier locks: the source's mark, the letter, rows.
            watermark.lock(session.connection, [(header.source_node, header.incarnation)], self._node.clock.now_us())
            applied = lock_open(session.connection, (letter.source_node, letter.tx_id))
            written = [self._write(session, edit, batch.header) for edit in wanted if self._concerns_us(edit)]
            prepared = self._prepared(tx, header, [one for one in rest if one.lsn not in applied], letter)
            (result,) = GroupTransaction(self._node, self._preparer, session, mode).run([prepared])
            references = self._node.config.tables.foreign_keys == "check"
            for use, row, _ in written:
                check(session, {use: [row]}, references=references)
            rows = tuple(one for _, _, one in written)
            self._audit(session, letter, batch, rows)
            done.append(EditedResult(result, rows))
            reach(CrashPoint.CHOICE_WRITTEN)
            if self._dry_run:
                raise _DryError

        try:
            self._committing.run(work, patiently=True, dry=self._dry_run)
        except _DryError:
            return done[0]
        # So that what was edited is on its way with the next message or export.
        self._committing.seal()
        return done[0]

    def _concerns_us(self, edit: Edit) -> bool:
        """Whether there is a row to write: of a table that is not here nothing is kept either."""
        return edit.change is not None or edit.table in self._tables.shapes()

    def _prepared(self, tx: Incoming, header: BatchHeader, rest: Sequence[Change], letter: Letter) -> Prepared:
        checker = self._preparer.checker(header)
        checked = tuple(checker.check(rest))
        # By the checksum of what came: the same bytes are a duplicate from here on, whichever way they come.
        return Prepared(
            tx,
            letter.sha256,
            checked,
            writes_as_main=checker.writes_as_main,
            generation=self._preparer.generation,
        )

    def _write(self, session: ApplySession, edit: Edit, header: BatchHeader) -> tuple[TableUse, RowWrite, EditedRow]:
        use = self._use(edit, header)
        (state,) = session.lock(use.shape, use.meta, [edit.pk])
        if session.unsealed(use.shape, [state.key]):
            raise UnsealedError(f"own writes of {use.name} are not sealed yet")
        (now,) = LogicalSession(session).images(use.shape, [edit.pk], use.shape.meta)
        image, meta = (now, use.shape.meta) if edit.change is None else (edit.change.image, use.meta)
        append_only = self._node.config.tables.policy_for(use.name) is Policy.APPEND_ONLY
        if append_only and edit.change is not None and now is not None:
            text = f"{use.name} is append-only, and {edit.pk.decode()} stands: nobody changes it"
            raise PoisonError(Reason.POLICY, text, table=use.name)
        write = self._choose(session, use_of(use.shape, meta), edit, state, image)
        row = EditedRow(
            use.name, edit.pk.decode(), _text(edit.came[-1].image) if edit.came else None, _text(image), not edit.change
        )
        return use_of(use.shape, meta), write, row

    def _use(self, edit: Edit, header: BatchHeader) -> TableUse:
        meta = header.tables.get(edit.table)
        shape = self._tables.shapes().get(edit.table)
        if edit.change is None and shape is not None:
            meta = shape.meta
        if meta is None:
            raise PoisonError(Reason.UNKNOWN_TABLE, f"the file's header does not name {edit.table!r}", table=edit.table)
        return self._tables.use(edit.table, TableMeta(pk=meta.pk, columns=meta.columns))

    def _choose(
        self, session: ApplySession, use: TableUse, edit: Edit, state: RowState, image: bytes | None
    ) -> RowWrite:
        settles = tuple(sorted({state.version, *(change.version for change in edit.came)} - {NEVER}))
        base = settles[-1] if settles else NEVER
        write = RowWrite(state.key, edit.pk, image, base, state.base if base == state.version else NEVER)
        session.choose(use.shape, use.meta, write, settles)
        now_us, connection = self._node.clock.now_us(), session.connection
        choice = Choice(use.name, state.key, self._node.facts.node_id, base, None, frozenset(settles))
        remember(connection, [choice], now_us)
        waiting = Histories(connection).of(use.name, state.key).waiting
        closed = [one.number for one in waiting if one.version in settles and one.number is not None]
        settle(connection, closed, Winner.NEITHER, by=self._actor, note="an edited dead letter", now_us=now_us)
        return write

    def _audit(self, session: ApplySession, letter: Letter, batch: EditedBatch, rows: Sequence[EditedRow]) -> None:
        detail = {
            "sha256": letter.sha256,
            "edited_sha256": batch.sha256,
            "rows": [{"table": one.table, "pk": readable(one.pk), "kept": one.kept} for one in rows[:100]],
            "rows_total": len(rows),
        }
        line = audit.Line("edited", letter.source_node, letter.tx_id, self._actor, detail)
        audit.write(session.connection, [line], self._node.clock.now_us())


def _readable(letter: Letter, tx: Incoming) -> BatchHeader:
    if tx.in_parts:
        raise UsageError(f"{letter.tx_id} came in {letter.parts} parts: too large to be edited")
    if tx.error is not None or tx.header is None or tx.payload is None:
        raise UsageError(f"{letter.tx_id} can't be read ({letter.error}): import a whole copy of it instead")
    if tx.key != (letter.source_node, letter.tx_id):
        raise UsageError(f"{letter.tx_id} is not known to be from its source: dlq replay --trust-source comes first")
    return tx.header


def _text(image: bytes | None) -> str | None:
    return None if image is None else image.decode("utf-8")
