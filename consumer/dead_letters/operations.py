"""What an operator does with dead letters; command line, HTTP and the page call these and no queries of their own."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from common.crash_points import CrashPoint, reach
from common.errors import OutageError, PoisonError, Reason, UsageError
from common.ports.dead_letters import DeadLetter
from common.runtime.node import Node
from common.wire.decode import read_body
from common.wire.proving import part_fault
from common.wire.records import Part
from consumer import audit
from consumer.apply.group import Applier
from consumer.dead_letters.copies import BrokerCopies
from consumer.dead_letters.edited import EditedReplay, EditedResult
from consumer.dead_letters.editing import EditedBatch
from consumer.dead_letters.loading import from_bytes, load
from consumer.dead_letters.pieces import Pieces
from consumer.dead_letters.renamed import RenamedReplay
from consumer.dead_letters.renaming import Renames
from consumer.dead_letters.states import LetterState
from consumer.dead_letters.table_store import (
    Failure,
    Letter,
    Selection,
    body_of,
    bytes_id,
    find,
    mark_copied,
    settle,
    write_failures,
)
from consumer.dedup import TxKey, look_up
from consumer.early import EarlyRetries
from consumer.inbox import Inbox, delete_parts, stored_batches
from consumer.incoming import Incoming, Outcome, Result
from consumer.statements import reading, writing

log = logging.getLogger(__name__)

_AT_ONCE = 500
"""So many ids go into one query."""


@dataclass(frozen=True, slots=True)
class Replay:
    """How a replay goes about it."""

    actor: str
    dry_run: bool = False
    trust_source: bool = False
    """Also apply batches whose sender could not prove to be their source."""
    in_pieces: bool = False
    """Apply what can be applied of a letter, where it is not one transaction of its source. Not for a dry run."""


class DeadLetters:
    """The dead letters of one node. `copies`: the broker's, where there is a broker that keeps them."""

    def __init__(self, node: Node, copies: BrokerCopies | None = None) -> None:
        self._node = node
        self._copies = copies
        self._trust = node.config.trust()
        self.copies_stay: str | None = None
        """Why the broker's copies of what was settled are still there; None: they are not."""

    def find(self, selection: Selection) -> list[Letter]:
        """Return the selected letters."""
        with reading(self._node.database) as connection:
            return find(connection, selection)

    def replay(self, selection: Selection, how: Replay, advance: Callable[[int], None]) -> list[Result]:
        """Try the selected open letters again, each in a transaction of its own; versions decide over each row.

        May be killed at any point and run again: a letter and its rows change in one commit."""
        applier = Applier(self._node)
        results: dict[TxKey, Result] = {}
        for letter in self.find(selection):
            if letter.state.is_open:
                results[letter.source_node, letter.tx_id] = self._replay_one(applier, letter, how)
            advance(1)
        return self._followed_up(applier, results, how)

    def replay_renamed(
        self, selection: Selection, renames: Renames, how: Replay, advance: Callable[[int], None]
    ) -> list[Result]:
        """Apply those of the selected open letters that have one of these names, under the names here. See `renamed`.

        Raises UsageError, before anything is done, for a name that none of them has."""
        renamed = RenamedReplay(self._node, how.actor, renames, dry_run=how.dry_run)
        concerned, known = [], set[str]()
        for letter in self.find(selection):
            names = renamed.concern(letter) if letter.state.is_open else set()
            known |= names
            if names:
                concerned.append(letter)
            else:
                advance(1)
        for name in renames.names:
            if name not in known:
                raise UsageError(f"{name}: none of these dead letters has a table or column of that name")
        results: dict[TxKey, Result] = {}
        for letter in concerned:
            results[letter.source_node, letter.tx_id] = renamed.replay(letter)
            advance(1)
        return self._followed_up(Applier(self._node), results, how)

    def _followed_up(self, applier: Applier, results: dict[TxKey, Result], how: Replay) -> list[Result]:
        """Try what may have waited for these, and return it all."""
        if not how.dry_run:
            for result in EarlyRetries(self._node, applier.apply).after(list(results.values())):
                # Of those that were not asked for only the ones that got through are worth telling.
                if result.incoming.key in results or result.outcome is Outcome.APPLIED:
                    results[result.incoming.key] = result
            reach(CrashPoint.REPLAYED)
            self._clear_copies_if_it_can()
        return list(results.values())

    def replay_edited(
        self, batches: Sequence[EditedBatch], how: Replay, advance: Callable[[int], None]
    ) -> list[EditedResult]:
        """Apply letters as somebody has edited them, each in a transaction of its own. See `edited`.

        Killed on the way it can be called again: what it has applied by then is left. Raises UsageError, before
        anything is done, where another one is not open, or none is."""
        letters = self._letters_of(batches)
        edited, applier = EditedReplay(self._node, how.actor, dry_run=how.dry_run), Applier(self._node)
        found = []
        for letter, batch in zip(letters, batches, strict=True):
            found.append(edited.replay(letter, batch) if letter.state.is_open else _applied_before(letter))
            advance(1)
        if not how.dry_run:
            results = EarlyRetries(self._node, applier.apply).after([one.result for one in found])
            found += [EditedResult(result) for result in results if result.outcome is Outcome.APPLIED]
            reach(CrashPoint.REPLAYED)
            self._clear_copies_if_it_can()
        return found

    def _letters_of(self, batches: Sequence[EditedBatch]) -> list[Letter]:
        letters = [self._letter_of(batch) for batch in batches]
        is_over = not any(letter.state.is_open for letter in letters)
        with reading(self._node.database) as connection:
            done = audit.edits(connection)
        for letter, batch in zip(letters, batches, strict=True):
            is_ours = (letter.source_node, letter.tx_id, batch.sha256) in done
            if not letter.state.is_open and (is_over or not is_ours):
                raise UsageError(f"{letter.tx_id} is already {letter.state.value}")
        return letters

    def _letter_of(self, batch: EditedBatch) -> Letter:
        header = batch.header
        letters = self.find(Selection(tx_ids=(header.tx_id,), source_node=header.source_node))
        if not letters:
            raise UsageError(f"{header.tx_id} of {header.source_node}: no such dead letter")
        return letters[0]

    def note_export(self, letters: Sequence[Letter], file: str, actor: str) -> None:
        """Audit that letters were written to a file."""
        lines = [audit.Line("exported", one.source_node, one.tx_id, actor, {"file": file}) for one in letters]
        now_us = self._node.clock.now_us()
        writing(self._node.database, lambda connection: audit.write(connection, lines, now_us))

    def discard(self, selection: Selection, reason: str, actor: str) -> list[Letter]:
        """Give up the selected open letters for good. Return them as they are then."""
        if not reason.strip():
            raise UsageError("discarding needs a reason: --reason TEXT")
        letters = {(letter.source_node, letter.tx_id): letter for letter in self.find(selection)}
        now_us = self._node.clock.now_us()

        def give_up(connection: sa.Connection) -> list[TxKey]:
            # Somebody may have replayed one since it was found: that one is no longer open.
            keys = settle(connection, sorted(letters), LetterState.DISCARDED, by=actor, note=reason, now_us=now_us)
            delete_parts(connection, keys)
            lines = [audit.Line("discarded", *key, actor, {"reason": reason}) for key in keys]
            audit.write(connection, lines, now_us)
            return keys

        given_up = writing(self._node.database, give_up)
        self._clear_copies_if_it_can()
        return self._as_they_are(given_up)

    def _as_they_are(self, keys: Sequence[TxKey]) -> list[Letter]:
        found: dict[TxKey, Letter] = {}
        with reading(self._node.database) as connection:
            for start in range(0, len(keys), _AT_ONCE):
                tx_ids = tuple({tx_id for _, tx_id in keys[start : start + _AT_ONCE]})
                for letter in find(connection, Selection(tx_ids=tx_ids, state=LetterState.DISCARDED)):
                    found[letter.source_node, letter.tx_id] = letter
        return [found[key] for key in keys if key in found]

    def batches(self, letter: Letter) -> Iterator[bytes]:
        """Yield the bytes of a letter as they travelled; a tx in parts piece by piece."""
        key = letter.source_node, letter.tx_id
        with reading(self._node.database) as connection:
            body = body_of(connection, *key)
            if body is not None:
                yield body
            else:
                yield from stored_batches(connection, key)

    def restore_from_queue(self) -> int:
        """Write letters into the table that only the broker still has; return how many. Raises OutageError."""
        if self._copies is None:
            raise UsageError("--from-queue needs RabbitMQ: there is no [broker] with an amqp:// URL")
        return sum(self._restore(copy) for copy in self._copies.read_all())

    def clear_copies(self) -> None:
        """Take off the broker's copies of what is settled. Raises OutageError."""
        if self._copies is not None:
            self._copies.remove_settled()

    def _clear_copies_if_it_can(self) -> None:
        """What was settled is committed: a broker that is away is no reason to say nothing of it."""
        try:
            self.clear_copies()
        except OutageError as error:
            self.copies_stay = str(error)
            log.warning("dead_letters.copies_stay", extra={"error": str(error)})

    def _replay_one(self, applier: Applier, letter: Letter, how: Replay) -> Result:
        with reading(self._node.database) as connection:
            tx = load(connection, letter, self._trust, how.actor, trust_source=how.trust_source)
        if how.in_pieces:
            return Pieces(self._node, how.actor).replay(letter, tx)
        if how.dry_run:
            return applier.try_out(tx, lambda _: None)
        return applier.apply([tx])[0]

    def _restore(self, copy: DeadLetter) -> bool:
        source_node = copy.source_node or "unknown"
        key = source_node, copy.tx_id or bytes_id(copy.body)
        with reading(self._node.database) as connection:
            if key in look_up(connection, [key]):
                return False
        tx = self._restored_tx(copy, key)
        if tx is None:
            return False
        sha256 = Applier(self._node).content_sha256(tx)
        reason = Reason(copy.reason) if copy.reason in set(Reason) else Reason.FORMAT
        state = LetterState.FORKED if reason is Reason.FORKED else LetterState.DEAD
        failure = Failure(tx, state, reason, copy.error, None, sha256)

        def keep(connection: sa.Connection) -> None:
            write_failures(connection, [failure], self._node.clock.now_us())
            mark_copied(connection, [key], copied=True)

        writing(self._node.database, keep)
        return True

    def _restored_tx(self, copy: DeadLetter, key: tuple[str, str]) -> Incoming | None:
        """Return the tx of a copy; None while other parts of it are missing."""
        origin = copy.origin or "queue"
        match read_body(copy.body):
            case [Part() as part] if part.header.parts > 1 and part_fault(part, self._trust) is None:
                return Inbox(self._node).take(part, origin, lost=True)
            case _:
                tx = from_bytes(copy.body, key, origin, self._trust)
        if tx.key != key:
            error = PoisonError(Reason.SOURCE, copy.error)
            return Incoming(*key, origin, None, copy.body, error=error)
        return tx


def _applied_before(letter: Letter) -> EditedResult:
    tx = Incoming(letter.source_node, letter.tx_id, letter.origin, None, b"")
    return EditedResult(Result(tx, Outcome.DUPLICATE, error="this edit of it was applied before"))


def left_waiting(results: list[Result]) -> bool:
    """Tell whether something is still set aside, or waits for a choice now."""
    return any(result.outcome.set_aside or result.counts.waiting for result in results)
