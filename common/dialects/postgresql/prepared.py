"""Prepared statements, several in one round trip, by the calls of libpq that psycopg has.

psycopg's own cursors and pipelines take 80 to 100 us of Python for each statement, this 15; the server takes 50 for
most of those that move a small transaction. What stays psycopg's: connections, the ends of transactions, how values are
written and read, errors.
"""

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, LiteralString, NamedTuple
from weakref import WeakKeyDictionary

import psycopg
import sqlalchemy as sa
from psycopg import pq
from psycopg.adapt import PyFormat, Transformer
from psycopg.errors import error_from_result

from common.dialects.postgresql.placeholders import placed
from common.dialects.postgresql.readiness import Readiness
from common.errors import ContentionError

Raw = psycopg.Connection[tuple[Any, ...]]
Params = Sequence[Any] | Mapping[str, Any]

_MOST = 200
"""Statements that one connection keeps; their texts depend on the captured tables."""
_PREFIX = "rowferry_"
_LARGE_BYTES = 4096
"""What is larger goes out while the next statement is made: the server begins meanwhile."""
_GONE = "26000"
"""There is no prepared statement of this name."""


class Answer:
    """What one statement came to; not before the block of `together` is left."""

    __slots__ = ("_rows",)

    def __init__(self) -> None:
        self._rows: list[tuple[Any, ...]] | None = None

    def take(self, rows: list[tuple[Any, ...]]) -> None:
        """Note what came."""
        self._rows = rows

    def fetchall(self) -> list[tuple[Any, ...]]:
        """Return all rows."""
        if self._rows is None:
            raise LookupError("the answer of a statement is read before its round trip is over")
        return self._rows

    def fetchone(self) -> tuple[Any, ...] | None:
        """Return the first row, None where there is none."""
        rows = self.fetchall()
        return rows[0] if rows else None

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        return iter(self.fetchall())


_Key = tuple[bytes, tuple[int, ...]]
"""A statement, and the types of its values."""


class _Known:
    """Which statements one connection has prepared."""

    def __init__(self) -> None:
        self.names: OrderedDict[_Key, bytes] = OrderedDict()
        self.superfluous: list[bytes] = []
        self.is_doubtful = False
        self._made = 0

    def new_name(self) -> bytes:
        self._made += 1
        return f"{_PREFIX}{self._made}".encode()

    def drop(self, key: _Key) -> None:
        name = self.names.pop(key, None)
        if name is not None:
            self.superfluous.append(name)


_known: "WeakKeyDictionary[Raw, _Known]" = WeakKeyDictionary()


class _Sent(NamedTuple):
    """A message that the server answers."""

    key: _Key | None
    is_preparation: bool
    answer: Answer | None


class Prepared:
    """Executes on one connection, within its transaction, which it begins where none is. For one thread at a time."""

    def __init__(self, raw: Raw) -> None:
        self._raw = raw
        self._pgconn = raw.pgconn
        known = _known.get(raw)
        if known is None:
            known = _known[raw] = _Known()
        self._known = known
        self._values = Transformer(raw)
        self._is_open = False
        self._sent: list[_Sent] = []

    @property
    def raw(self) -> Raw:
        """The connection; not for use within a block of `together`."""
        return self._raw

    @contextmanager
    def together(self) -> Iterator[None]:
        """What is executed within the block goes to the server at once. Raises psycopg's errors of the first that
        failed; what follows it is not run. ContentionError: the connection has lost its prepared statements, try
        again."""
        self._is_open = True
        try:
            yield
        except BaseException:
            self._is_open = False
            self._abandon()
            raise
        self._is_open = False
        self._end()

    def execute(self, query: LiteralString | bytes, params: Params | None = None, *, binary: bool = False) -> Answer:
        """Execute one, by itself or within the block. Placeholders are psycopg's; `binary`: of the answer."""
        if not self._is_open:
            with self.together():
                return self.execute(query, params, binary=binary)
        text = query.encode() if isinstance(query, str) else query
        if params is None:
            given: list[Any] = []
            formats: Sequence[PyFormat] = ()
        else:
            text, names, formats = placed(text)
            given = [params[name] for name in names] if isinstance(params, Mapping) else list(params)
        values = self._values.dump_sequence(given, formats)
        if not self._sent:
            self._begin()
        key = text, self._values.types or ()
        self._pgconn.send_query_prepared(
            self._name(key), values, self._values.formats, pq.Format.BINARY if binary else pq.Format.TEXT
        )
        answer = Answer()
        self._sent.append(_Sent(key, is_preparation=False, answer=answer))
        if sum(map(len, filter(None, values))) > _LARGE_BYTES:
            self._pgconn.flush()
        return answer

    def _begin(self) -> None:
        known = self._known
        if known.is_doubtful:
            query = f"SELECT name FROM pg_prepared_statements WHERE starts_with(name, '{_PREFIX}')"
            there = {name.encode() for (name,) in self._raw.execute(query.encode(), prepare=False)}
            for key in [key for key, name in known.names.items() if name not in there]:
                del known.names[key]
            known.superfluous = [name for name in known.superfluous if name in there]
            known.is_doubtful = False
        self._pgconn.enter_pipeline_mode()
        if not self._raw.autocommit and self._pgconn.transaction_status == pq.TransactionStatus.IDLE:
            self._send(_begin_with(self._raw.isolation_level))
        while known.superfluous:
            self._send(b"DEALLOCATE " + known.superfluous.pop())

    def _send(self, command: bytes) -> None:
        self._pgconn.send_query_params(command, None)
        self._sent.append(_Sent(None, is_preparation=False, answer=None))

    def _name(self, key: _Key) -> bytes:
        names = self._known.names
        name = names.get(key)
        if name is None:
            name = self._known.new_name()
            self._pgconn.send_prepare(name, key[0], key[1])
            self._sent.append(_Sent(key, is_preparation=True, answer=None))
            names[key] = name
            if len(names) > _MOST:
                self._known.drop(next(iter(names)))
        else:
            names.move_to_end(key)
        return name

    def _abandon(self) -> None:
        """Leave the block because of another error: what was sent is run, what it came to is thrown away."""
        try:
            self._end()
        except (psycopg.Error, ContentionError):
            # The other error is the one to tell. The transaction is rolled back because of either.
            return

    def _end(self) -> None:
        sent, self._sent = self._sent, []
        if not sent:
            return
        try:
            self._pgconn.pipeline_sync()
            failed = self._received(sent)
            self._pgconn.exit_pipeline_mode()
        except BaseException:
            # It is not known which answer would come next: of no use any more, to anybody.
            self._raw.close()
            raise
        if failed is not None:
            error = error_from_result(failed)
            if error.sqlstate == _GONE:
                self._known.is_doubtful = True
                raise ContentionError(f"{error}: prepare anew")
            raise error

    def _received(self, sent: Sequence[_Sent]) -> "pq.abc.PGresult | None":
        """Take all answers; return the first that is an error."""
        ready = Readiness(self._pgconn.socket)
        while self._pgconn.flush():
            # The server may wait for its answers to be taken before it takes more.
            if ready.wait(writable=True):
                self._pgconn.consume_input()
        failed: pq.abc.PGresult | None = None
        for one in sent:
            result = self._next(ready)
            if result is None or self._next(ready) is not None:
                raise psycopg.InternalError("answers do not match what was asked")
            if result.status == pq.ExecStatus.TUPLES_OK:
                self._values.set_pgresult(result)
                if one.answer is not None:
                    one.answer.take(self._values.load_rows(0, result.ntuples, tuple))
            elif result.status == pq.ExecStatus.COMMAND_OK:
                if one.answer is not None:
                    one.answer.take([])
            else:
                if failed is None:
                    failed = result
                    if one.key is not None and not one.is_preparation:
                        # Its plan may be stale for good.
                        self._known.drop(one.key)
                if one.is_preparation and one.key is not None:
                    self._known.names.pop(one.key, None)
        last = self._next(ready)
        if last is None or last.status != pq.ExecStatus.PIPELINE_SYNC:
            raise psycopg.InternalError("answers do not end where they have to")
        self._values.set_pgresult(None)
        return failed

    def _next(self, ready: Readiness) -> "pq.abc.PGresult | None":
        while self._pgconn.is_busy():
            ready.wait()
            self._pgconn.consume_input()
        return self._pgconn.get_result()


def watch_rollbacks(engine: sa.Engine) -> None:
    """Have the statements of `engine`'s connections looked for again after a rollback: psycopg may have taken them away
    with its own."""
    sa.event.listen(engine, "rollback", _doubt)
    sa.event.listen(engine, "rollback_savepoint", _doubt)


def _doubt(connection: sa.Connection, *_: object) -> None:
    raw = None if connection.invalidated else connection.connection.driver_connection
    if isinstance(raw, psycopg.Connection) and raw.pgconn.transaction_status != pq.TransactionStatus.IDLE:
        known = _known.get(raw)
        if known is not None:
            known.is_doubtful = True


def _begin_with(isolation: psycopg.IsolationLevel | None) -> bytes:
    level = "" if isolation is None else f" ISOLATION LEVEL {isolation.name.replace('_', ' ')}"
    return f"BEGIN{level}".encode()
