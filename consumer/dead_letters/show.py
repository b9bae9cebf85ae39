"""What a dead letter would do now: what blocks it, which rows it would change, what has overtaken it."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import sqlalchemy as sa

from common.config.model import Policy
from common.errors import EarlyError, PoisonError
from common.ports.dialect import ApplySession, RowState
from common.runtime.node import Node
from common.versions import Version
from common.wire.changes import TxReader
from consumer.apply.decision import Entry
from consumer.apply.group import Applier
from consumer.apply.prepare import Preparer
from consumer.apply.rows import decide_rows, lock_states
from consumer.dead_letters.documents import letter_document, result_document
from consumer.dead_letters.loading import load
from consumer.dead_letters.lsns import LsnSet
from consumer.dead_letters.table_store import Letter
from consumer.inbox import stored_payloads
from consumer.incoming import Counts, Incoming, Result
from consumer.main_node import MainNode
from consumer.readable import readable
from consumer.standing.logical import LogicalSession
from consumer.standing.store import Copies
from consumer.statements import reading
from consumer.tables import Tables
from consumer.verify import Checked

MOST_ROWS = 1_000


@dataclass(frozen=True, slots=True)
class RowEffect:
    """What one change would do to its row."""

    table: str
    pk: str
    op: str
    open: bool
    """False: it was applied in pieces before."""
    effect: str
    """`writes`, `overtaken` (the row has a later version), `stands` (it has this very version), `waits` (it met
    another write in a `manual` table: the row stays until somebody chooses) or `aside` (the row would step back)."""
    version: Version
    current_version: Version
    now: str | None
    then: str | None
    key: str
    """As in `rf_row_version`."""

    def as_dict(self) -> dict[str, Any]:
        """Return it as `--json` prints it."""
        fields = {name: getattr(self, name) for name in self.__slots__ if name != "key"}
        images = {name: readable(fields[name]) for name in ("pk", "now", "then")}
        return fields | images | {"version": list(self.version), "current_version": list(self.current_version)}


class _TakenBackError(Exception):
    """Ends the look: nothing was written, and the locks go."""


def show(node: Node, letter: Letter) -> dict[str, Any]:
    """Return everything about one letter. Writes nothing."""
    with reading(node.database) as connection:
        tx = load(connection, letter, node.config.trust(), replayed_by="nobody")
    rows, tried = _tried(node, tx)
    document = letter_document(letter)
    document["blocked_by"] = tried.error
    document["would"] = result_document(tried)
    return document | rows


def rows_document(node: Node, tx: Incoming) -> dict[str, Any]:
    """Return what a tx would do to its rows now, and what has overtaken it. Writes nothing."""
    return _tried(node, tx)[0]


def _tried(node: Node, tx: Incoming) -> tuple[dict[str, Any], Result]:
    effects, note = row_effects(node, tx)
    aside: set[RowEffect] = set()
    tried = Applier(node).try_out(tx, lambda connection: aside.update(_stepped_back(connection, effects)))
    effects = [replace(one, effect="aside") if one in aside else one for one in effects]
    document = {
        "rows": [effect.as_dict() for effect in effects],
        "rows_note": note,
        "overtaken": [
            {"table": one.table, "pk": readable(one.pk), "by": list(one.current_version)}
            for one in effects
            if one.open and one.effect == "overtaken"
        ],
    }
    return document, tried


def _stepped_back(connection: sa.Connection, effects: Sequence[RowEffect]) -> Iterator[RowEffect]:
    """Yield those of `effects` whose rows do not stand once all is written."""
    copies = Copies(connection)
    for table in sorted({one.table for one in effects}):
        written = [one for one in effects if one.table == table and one.open and one.effect == "writes"]
        kept = copies.get(table, [one.key for one in written])
        aside = {one.key for one in written if one.key in kept and kept[one.key].is_of(one.version)}
        yield from (one for one in written if one.key in aside)


def row_effects(node: Node, tx: Incoming) -> tuple[list[RowEffect], str | None]:
    """Return what the first changes of a tx would do, and why there may be none."""
    found: list[RowEffect] = []
    preparer = Preparer(Tables(node), MainNode(node))
    try:
        with suppress(_TakenBackError), node.database.apply_session() as session:
            checked = list(islice(_changes(session.connection, preparer, tx), MOST_ROWS))
            found = _effects(LogicalSession(session), checked, tx, node.config.tables.policy_for)
            raise _TakenBackError
    except (PoisonError, EarlyError) as error:
        return found, str(error)
    return found, f"the first {MOST_ROWS} rows" if len(found) == MOST_ROWS else None


def _changes(connection: sa.Connection, preparer: Preparer, tx: Incoming) -> Iterable[Checked]:
    if tx.error is not None:
        raise tx.error
    if tx.header is None:
        return ()
    payloads = stored_payloads(connection, tx.key)() if tx.payload is None else [tx.payload]
    return preparer.checker(tx.header).check(TxReader(tx.header, payloads))


def _effects(
    session: ApplySession, checked: list[Checked], tx: Incoming, policy_for: Callable[[str], Policy]
) -> list[RowEffect]:
    applied = tx.applied
    entries = [Entry(one.change, one.use, tx.source_node, Counts()) for one in checked]
    states = lock_states(session, entries)
    to_choose = [one for one in entries if policy_for(one.use.name) is Policy.MANUAL and one.change.lsn not in applied]
    if to_choose:
        # What waits follows from more than versions; who is refused altogether does not wait.
        with suppress(PoisonError):
            decide_rows(session, to_choose, policy_for)
    return [_effect(session, entry, state, applied) for entry, state in zip(entries, states, strict=True)]


def _effect(session: ApplySession, entry: Entry, state: RowState, applied: LsnSet) -> RowEffect:
    change = entry.change
    now = session.images(entry.use.shape, [bytes(change.pk)], entry.use.meta)[0]
    effect = "writes"
    if entry.counts.waiting:
        effect = "waits"
    elif state.version == change.version:
        effect = "stands"
    elif state.version > change.version:
        effect = "overtaken"
    return RowEffect(
        entry.use.name,
        bytes(change.pk).decode("utf-8"),
        change.op,
        change.lsn not in applied,
        effect,
        change.version,
        state.version,
        now.decode("utf-8") if now is not None else None,
        change.image.decode("utf-8") if change.image is not None else None,
        state.key,
    )
