"""`rf_attempt`: txs begun after something went wrong, so that one which kills the process is found and set aside.

A tx is noted as begun, and that is committed, before it is decoded; the note goes away in the commit that ends it. A
note that is found again counts one more attempt, but not within one process: who lives to begin again was not killed.
"""

from collections.abc import Mapping, Sequence

import sqlalchemy as sa

from common.crash_points import CrashPoint, reach
from common.runtime.node import Node
from common.schema import tables as rf
from consumer.dedup import TxKey
from consumer.statements import keyed, reading, upsert, writing

MOST_ATTEMPTS = 3


class Attempts:
    """Notes of one process."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._begun: dict[TxKey, int] = {}

    def next_ones(self, keys: Sequence[TxKey]) -> Mapping[TxKey, int]:
        """Return which attempt the next one of each tx would be; notes nothing."""
        with reading(self._node.database) as connection:
            return self._counts(connection, keys)

    def begin(self, keys: Sequence[TxKey]) -> Mapping[TxKey, int]:
        """Note txs as begun, committed; return which attempt of each this is."""

        def note(connection: sa.Connection) -> Mapping[TxKey, int]:
            counts = self._counts(connection, keys)
            now_us = self._node.clock.now_us()
            upsert(connection, rf.attempt, [_row(key, count, now_us) for key, count in counts.items()])
            return counts

        counts = writing(self._node.database, note)
        self._begun.update(counts)
        reach(CrashPoint.ATTEMPT_BEGUN)
        return counts

    def ended(self, keys: Sequence[TxKey]) -> None:
        """Forget txs that came to an end; their notes went away in the commit."""
        for key in keys:
            self._begun.pop(key, None)

    def end_now(self, keys: Sequence[TxKey]) -> None:
        """Take away the notes in a commit of its own."""
        writing(self._node.database, lambda connection: end_attempts(connection, keys))
        self.ended(keys)

    def crashed(self) -> None:
        """Count the next try as a new attempt: an error that nobody foresaw is as bad as a kill."""
        self._begun.clear()

    def mark_busy(self, name: str) -> bool:
        """Note that the loop `name` is at work; True when the one before it never took its note away."""
        key = _loop_key(name)

        def note(connection: sa.Connection) -> bool:
            found = key in _stored(connection, [key])
            upsert(connection, rf.attempt, [_row(key, 0, self._node.clock.now_us())])
            return found

        return writing(self._node.database, note)

    def close(self, name: str) -> None:
        """Take away the note of `mark_busy`, and of what waits out an outage: the loop ends as it should."""
        self.end_now([_loop_key(name), *self._begun])

    def _counts(self, connection: sa.Connection, keys: Sequence[TxKey]) -> dict[TxKey, int]:
        stored = _stored(connection, keys)
        return {key: self._begun.get(key) or stored.get(key, 0) + 1 for key in keys}


def end_attempts(connection: sa.Connection, keys: Sequence[TxKey]) -> None:
    """Take away notes, in the commit that ends the txs."""
    for source_node, tx_ids in _by_source(keys).items():
        where = keyed(connection, rf.attempt.c.source_node, source_node, rf.attempt.c.tx_id, tx_ids)
        connection.execute(sa.delete(rf.attempt).where(where))


def _stored(connection: sa.Connection, keys: Sequence[TxKey]) -> dict[TxKey, int]:
    found: dict[TxKey, int] = {}
    table = rf.attempt
    for source_node, tx_ids in _by_source(keys).items():
        query = sa.select(table.c.tx_id, table.c.attempts)
        query = query.where(keyed(connection, table.c.source_node, source_node, table.c.tx_id, tx_ids))
        found |= {(source_node, row.tx_id): row.attempts for row in connection.execute(query)}
    return found


def _by_source(keys: Sequence[TxKey]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for source_node, tx_id in keys:
        found.setdefault(source_node, []).append(tx_id)
    return found


def _loop_key(name: str) -> TxKey:
    return "", f"intake:{name}"


def _row(key: TxKey, attempts: int, now_us: int) -> dict[str, object]:
    return {"source_node": key[0], "tx_id": key[1], "attempts": attempts, "began_us": now_us}
