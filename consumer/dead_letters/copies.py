"""Keeps the broker's copies of dead letters in step with the table: after the commit, before the acknowledgement."""

from collections.abc import Callable, Iterator

import sqlalchemy as sa

from common.clock import to_iso
from common.crash_points import CrashPoint, reach
from common.ports.dead_letters import DeadLetter, DeadLetterMirror, RetryTimer
from common.runtime.node import Node
from consumer.dead_letters.table_store import Letter, body_of, mark_copied, settled_with_copy, uncopied
from consumer.inbox import stored_batches
from consumer.statements import reading, writing

_PAGE = 100
_HELD_US = 180_000_000
"""Nobody goes through the queue for so long."""
PageQuery = Callable[[sa.Connection, int], list[Letter]]


class BrokerCopies:
    """Publishes and removes copies. Every step may be repeated: a copy too many does no harm."""

    def __init__(self, node: Node, mirror: DeadLetterMirror) -> None:
        self._node = node
        self._mirror = mirror

    def publish_missing(self) -> int:
        """Publish every dead letter that has no copy yet; return how many. Raises OutageError."""
        count = 0
        while letters := self._page(uncopied):
            for letter in letters:
                with reading(self._node.database) as connection:
                    for copy in _copies(connection, letter):
                        self._mirror.publish(copy)
                reach(CrashPoint.LETTER_COPIED)
                self._note(letter, copied=True)
                reach(CrashPoint.LETTER_NOTED)
                count += 1
        return count

    def remove_settled(self) -> int:
        """Take off the copies of letters that are settled; return how many letters. Raises OutageError.

        One that is not seen may be in the hands of another looker: its letter waits for a later call, for a while."""
        count = 0
        while letters := self._page(settled_with_copy):
            seen = self._mirror.remove([letter.tx_id for letter in letters])
            reach(CrashPoint.COPY_REMOVED)
            done = letters if seen >= len(letters) else [letter for letter in letters if self._is_long_ago(letter)]
            for letter in done:
                self._note(letter, copied=False)
            count += len(done)
            if len(done) < len(letters):
                break
        return count

    def _is_long_ago(self, letter: Letter) -> bool:
        return self._node.clock.now_us() - (letter.settled_us or 0) > _HELD_US

    def read_all(self) -> list[DeadLetter]:
        """Return what the broker has. Raises OutageError."""
        return list(self._mirror.read_all())

    @property
    def timer(self) -> RetryTimer | None:
        """The broker's clock of retries, where it has one."""
        return self._mirror if isinstance(self._mirror, RetryTimer) else None

    def close(self) -> None:
        """Give back the mirror's connection."""
        self._mirror.close()

    def _page(self, query: PageQuery) -> list[Letter]:
        with reading(self._node.database) as connection:
            return query(connection, _PAGE)

    def _note(self, letter: Letter, *, copied: bool) -> None:
        key = letter.source_node, letter.tx_id
        writing(self._node.database, lambda connection: mark_copied(connection, [key], copied=copied))


def _copies(connection: sa.Connection, letter: Letter) -> Iterator[DeadLetter]:
    key = letter.source_node, letter.tx_id
    body = body_of(connection, *key)
    bodies = iter([body]) if body is not None else stored_batches(connection, key)
    for part, one in enumerate(bodies, start=1):
        yield DeadLetter(
            tx_id=letter.tx_id,
            body=one,
            reason=letter.reason,
            error=letter.error,
            source_node=letter.source_node,
            attempts=letter.attempts,
            first_failure=to_iso(letter.first_failed_us),
            last_failure=to_iso(letter.last_failed_us),
            origin=letter.origin,
            extra={"part": part, "parts": letter.parts},
        )
