"""Parts of large txs wait in `rf_tx_part` until all are there; each is committed before its delivery is let go of."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa

from common.errors import PoisonError, Reason
from common.runtime.crash_points import CrashPoint, reach
from common.runtime.node import Node
from common.schema import tables as rf
from common.wire.compress import compress, decompress
from common.wire.limits import DEFAULT_LIMITS, UNBOUNDED, Limits
from common.wire.records import BatchHeader, Part
from consumer.dead_letters.table_store import bytes_id
from consumer.dedup import BROKEN_REASONS, NOTHING, Known, TxKey, look_up
from consumer.incoming import Incoming
from consumer.statements import insert_missing, reading, writing

_MOST_UNFINISHED_BYTES = 16 * 1024**3


@dataclass(frozen=True, slots=True)
class _Stored:
    """What is here of a tx before a part is stored."""

    count: int = 0
    parts: int = 0
    has_this: bool = False

    @property
    def is_whole(self) -> bool:
        return 0 < self.count == self.parts


class Inbox:
    """Takes parts; gives out a tx once its last part is here."""

    def __init__(self, node: Node, limits: Limits = DEFAULT_LIMITS) -> None:
        self._node = node
        self._limits = limits

    def take(self, part: Part, origin: str) -> Incoming | None:
        """Store a part of a larger tx. Returns the whole tx, what to set aside instead, or None: more must come."""
        key = (part.header.source_node, part.header.tx_id)
        try:
            found = writing(self._node.database, lambda connection: self._store(connection, part, key))
        except PoisonError as error:
            return _refused(part, origin, error)
        reach(CrashPoint.PART_STORED)
        return Incoming(*key, origin, part.header, None) if found else None

    def complete_ones(self) -> list[Incoming]:
        """Return txs of which all parts are here and that are no dead letters: a process died before it took them."""
        table, letter = rf.tx_part, rf.dead_letter
        columns = (table.c.source_node, table.c.tx_id)
        apart = sa.exists().where(letter.c.source_node == table.c.source_node, letter.c.tx_id == table.c.tx_id)
        query = sa.select(*columns).where(~apart).group_by(*columns, table.c.parts)
        query = query.having(sa.func.count() == table.c.parts).order_by(*columns)
        with reading(self._node.database) as connection:
            keys = [(row.source_node, row.tx_id) for row in connection.execute(query)]
            return [stored_tx(connection, key, "rf_tx_part") for key in keys]

    def _store(self, connection: sa.Connection, part: Part, key: TxKey) -> bool:
        """Store a part; tell whether it is the one with which its tx is to be taken up."""
        # All parts of a whole tx may come again: it is taken up once, not once a part.
        is_last = part.header.part == part.header.parts
        known = look_up(connection, [key]).get(key, NOTHING)
        if _is_done(known, part.header):
            return is_last
        stored = _stored(connection, part, key)
        if stored.is_whole and stored.parts != part.header.parts:
            # The same tx, cut in another way: what is here is enough.
            return is_last
        if stored.parts not in (0, part.header.parts):
            # Whoever cuts it anew sends it anew from its first part on.
            delete_parts(connection, [key])
            stored = _Stored()
        if not stored.count:
            self._check_room(connection, key[0], part)
        fresh = not stored.has_this
        if not fresh and _is_broken(known) and stored_payload(connection, key, part.header.part) != part.payload:
            # Another copy of a tx whose parts don't fit together may be the right one.
            connection.execute(sa.delete(rf.tx_part).where(_is(key), rf.tx_part.c.part == part.header.part))
            fresh, stored = True, replace(stored, count=stored.count - 1)
        if fresh:
            insert_missing(connection, rf.tx_part, [_row(part, self._node.clock.now_us())])
        return stored.count + fresh == part.header.parts and (fresh or is_last)

    def _check_room(self, connection: sa.Connection, source_node: str, part: Part) -> None:
        table = rf.tx_part
        query = sa.select(sa.func.count(table.c.tx_id.distinct()), sa.func.sum(table.c.bytes))
        txs, size = connection.execute(query.where(table.c.source_node == source_node)).one()
        if txs >= self._limits.max_unfinished_txs or int(size or 0) + len(part.payload) > _MOST_UNFINISHED_BYTES:
            text = f"{source_node} has {txs} unfinished txs of {size} bytes here already"
            raise PoisonError(Reason.LIMIT, text)


def stored_tx(connection: sa.Connection, key: TxKey, origin: str, replayed_by: str | None = None) -> Incoming:
    """Return a tx whose parts are stored, with the header of its first part."""
    table = rf.tx_part
    query = sa.select(table.c.header).where(_is(key)).order_by(table.c.part).limit(1)
    header = BatchHeader.model_validate_json(connection.execute(query).scalar_one())
    return Incoming(*key, origin, header, None, replayed_by=replayed_by)


def stored_payloads(connection: sa.Connection, key: TxKey) -> Callable[[], Iterator[bytes]]:
    """Return a function that reads the change lines of the stored parts in order, one part at a time."""

    def read() -> Iterator[bytes]:
        for _, rest in _parts(connection, key):
            yield _without_end_line(rest)

    return read


def stored_batches(connection: sa.Connection, key: TxKey) -> Iterator[bytes]:
    """Yield the stored parts as they travelled, byte for byte."""
    for header, rest in _parts(connection, key):
        yield header.encode("utf-8") + rest


def has_parts(connection: sa.Connection, key: TxKey) -> bool:
    """Tell whether parts of a tx are stored."""
    return connection.execute(sa.select(rf.tx_part.c.part).where(_is(key)).limit(1)).first() is not None


def delete_parts(connection: sa.Connection, keys: Sequence[TxKey]) -> None:
    """Take away the parts of txs that are applied or discarded."""
    for key in keys:
        connection.execute(sa.delete(rf.tx_part).where(_is(key)))


def stored_payload(connection: sa.Connection, key: TxKey, part: int) -> bytes:
    """Return the change lines of one stored part."""
    query = sa.select(rf.tx_part.c.payload).where(_is(key), rf.tx_part.c.part == part)
    return _without_end_line(decompress(bytes(connection.execute(query).scalar_one()), "zstd", UNBOUNDED))


def _without_end_line(rest: bytes) -> bytes:
    """Return the change lines of a part, of which there may be none."""
    return rest[: rest.rfind(b"\n", 0, -1) + 1]


def _stored(connection: sa.Connection, part: Part, key: TxKey) -> _Stored:
    """Look at what is here. Raises PoisonError where it is of another tx than `part`."""
    table = rf.tx_part
    first = connection.execute(sa.select(table.c.header).where(_is(key)).order_by(table.c.part).limit(1)).scalar()
    if first is None:
        return _Stored()
    header = BatchHeader.model_validate_json(first)
    if _identity(header) != _identity(part.header):
        text = f"part {part.header.part} of {key[1]} does not belong to the parts that came before"
        raise PoisonError(Reason.CONTENT, text)
    this = sa.func.max(sa.case((table.c.part == part.header.part, 1), else_=0))
    count, has_this = connection.execute(sa.select(sa.func.count(), this).where(_is(key))).one()
    return _Stored(count, header.parts, bool(has_this))


def _is_broken(known: Known) -> bool:
    return known.letter is not None and known.letter.reason in BROKEN_REASONS


def _parts(connection: sa.Connection, key: TxKey) -> Iterator[tuple[str, bytes]]:
    """Yield the header line of each part, and everything after it."""
    table = rf.tx_part
    numbers = connection.execute(sa.select(table.c.part).where(_is(key)).order_by(table.c.part)).scalars().all()
    for number in numbers:
        query = sa.select(table.c.header, table.c.payload).where(_is(key), table.c.part == number)
        row = connection.execute(query).one()
        yield row.header, decompress(bytes(row.payload), "zstd", UNBOUNDED)


def _is(key: TxKey) -> sa.ColumnElement[bool]:
    return sa.and_(rf.tx_part.c.source_node == key[0], rf.tx_part.c.tx_id == key[1])


def _is_done(known: Known, header: BatchHeader) -> bool:
    if known.applied_sha256 not in (None, header.tx_sha256):
        raise PoisonError(Reason.CONTENT, f"{header.tx_id} was applied with another content")
    return known.applied_sha256 is not None or (known.letter is not None and not known.letter.state.is_open)


def _identity(header: BatchHeader) -> tuple[object, ...]:
    return header.incarnation, header.prev_lsn, header.from_lsn, header.to_lsn, header.tx_sha256


def _refused(part: Part, origin: str, error: PoisonError) -> Incoming:
    return Incoming(part.header.source_node, bytes_id(part.raw), origin, None, part.raw, error=error)


def _row(part: Part, now_us: int) -> dict[str, Any]:
    header = part.header
    line_end = part.raw.index(b"\n") + 1
    return {
        "source_node": header.source_node,
        "tx_id": header.tx_id,
        "part": header.part,
        "parts": header.parts,
        "tx_sha256": header.tx_sha256,
        "header": part.raw[:line_end].decode("utf-8"),
        "payload": compress(part.raw[line_end:], "zstd"),
        "bytes": len(part.payload),
        "received_us": now_us,
    }
