"""Applies a dead letter as somebody has edited it: all of it in one commit, and so that all nodes end alike.

Rows that were left as they came are applied as they came. A row that was edited becomes a new write of this node on top
of what came and of what stands, which settles both, just as a choice does (`consumer.settling`): other nodes, which may
have applied the batch as it came, take it over. A row that was taken out stays as it is here, by such a write too."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from common.config.model import Policy
from common.errors import EarlyError, PoisonError, Reason, UsageError
from common.ports.dialect import ApplySession, RowState, RowWrite
from common.runtime.node import Node
from common.versions import NEVER
from common.wire.changes import TxReader
from common.wire.records import BatchHeader, Change, TableMeta
from consumer import audit
from consumer.apply.rows import UnsealedError, check
from consumer.conflict.choices import Choice, Histories, remember
from consumer.conflict.record import Winner, settle
from consumer.dead_letters.another_form import AnotherForm, Form, readable_header
from consumer.dead_letters.editing import Edit, EditedBatch, edits
from consumer.dead_letters.table_store import Letter, SettledError
from consumer.incoming import Incoming, Outcome, Result
from consumer.readable import readable
from consumer.standing.logical import LogicalSession
from consumer.tables import TableUse, use_of


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


class EditedReplay:
    """Applies edited letters for `actor`. Killed anywhere, a letter is applied whole or not at all."""

    def __init__(self, node: Node, actor: str, *, dry_run: bool = False) -> None:
        self._node = node
        self._actor = actor
        self._form = AnotherForm(node, actor, dry_run=dry_run)

    def replay(self, letter: Letter, batch: EditedBatch) -> EditedResult:
        """Apply one letter. Raises OutageError; what is wrong with it is told in the result, and changes nothing."""
        tx, which = self._form.load(letter), {"edited_sha256": batch.sha256}
        try:
            header = readable_header(letter, tx)
        except UsageError as error:
            self._form.note_failure(letter, None, error, which)
            raise
        came = list(TxReader(header, [tx.payload or b""]))
        try:
            return self._applied(letter, tx, header, came, batch)
        except SettledError as error:
            return EditedResult(Result(tx, Outcome.DUPLICATE, settled=error.state))
        except (PoisonError, EarlyError) as error:
            return EditedResult(self._form.failed(letter, tx, error, which))

    def _applied(
        self, letter: Letter, tx: Incoming, header: BatchHeader, came: Sequence[Change], batch: EditedBatch
    ) -> EditedResult:
        wanted = edits(came, batch.changes)
        edited = {change.lsn for edit in wanted for change in edit.came}
        rest = [change for change in came if change.lsn not in edited]
        # As written in the file: what is wrong with it is found before anything is locked.
        for _ in self._form.preparer.checker(batch.header).check(
            [one.change for one in wanted if one.change is not None]
        ):
            pass
        written: list[tuple[TableUse, RowWrite, EditedRow]] = []

        def first(session: ApplySession) -> None:
            written[:] = [self._write(session, edit, batch.header) for edit in wanted if self._concerns_us(edit)]

        def last(session: ApplySession) -> None:
            references = self._node.config.tables.foreign_keys == "check"
            for use, row, _ in written:
                check(session, {use: [row]}, references=references)
            self._audit(session, letter, batch, [one for _, _, one in written])

        result = self._form.apply(Form(letter, tx, header, rest, first, last))
        return EditedResult(result, tuple(one for _, _, one in written))

    def _concerns_us(self, edit: Edit) -> bool:
        """Whether there is a row to write: of a table that is not here nothing is kept either."""
        return edit.change is not None or edit.table in self._form.tables.shapes()

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
        shape = self._form.tables.shapes().get(edit.table)
        if edit.change is None and shape is not None:
            meta = shape.meta
        if meta is None:
            raise PoisonError(Reason.UNKNOWN_TABLE, f"the file's header does not name {edit.table!r}", table=edit.table)
        return self._form.tables.use(edit.table, TableMeta(pk=meta.pk, columns=meta.columns))

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


def _text(image: bytes | None) -> str | None:
    return None if image is None else image.decode("utf-8")
