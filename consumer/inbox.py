"""Parts of large txs wait in `rf_tx_part` until all are there; each is committed before its delivery is let go of.

A source that was given another `max_batch_bytes` cuts the same tx elsewhere when it sends it again. Parts of two cuts
can't be put together, so the later cut stands.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import sqlalchemy as sa

from common.crash_points import CrashPoint, reach
from common.errors import PoisonError, Reason
from common.runtime.node import Node
from common.schema import tables as rf
from common.wire.compress import compress, decompress
from common.wire.decode import read_body
from common.wire.headers import read_header
from common.wire.limits import DEFAULT_LIMITS, UNBOUNDED, Limits
from common.wire.proving import part_fault
from common.wire.records import BatchHeader, Part
from common.wire.signing import Trust
from consumer.dead_letters.table_store import bytes_id
from consumer.dedup import BROKEN_REASONS, NOTHING, Facts, Known, Standing, TxKey, is_anothers_place, look_up, stand
from consumer.incoming import Incoming
from consumer.statements import among_given, as_list, insert_missing, reading, selective, writing
from consumer.watermark import read_mark

log = logging.getLogger(__name__)

_MOST_UNFINISHED_BYTES = 16 * 1024**3
STANDS_APART = sa.exists().where(
    rf.dead_letter.c.source_node == rf.tx_part.c.source_node, rf.dead_letter.c.tx_id == rf.tx_part.c.tx_id
)
"""The part is of a dead letter, whose body it is: it waits for a person, and not for more parts."""


class Inbox:
    """Takes parts; gives out a tx once its last part is here."""

    def __init__(self, node: Node, limits: Limits = DEFAULT_LIMITS) -> None:
        self._node = node
        self._limits = limits
        self._trust = node.config.trust()

    def take(self, part: Part, origin: str, *, lost: bool = False) -> Incoming | None:
        """Store a part of a larger tx. Returns the whole tx, what to set aside instead, or None: more must come.

        `lost` says that its tx was set aside and this node's table has lost it: that nothing is noted of a tx below
        the watermark does not mean then that it was applied."""
        key = (part.header.source_node, part.header.tx_id)
        try:
            found = writing(self._node.database, lambda connection: self._store(connection, part, key, lost=lost))
        except PoisonError as error:
            return _refused(part, origin, error)
        reach(CrashPoint.PART_STORED)
        return Incoming(*key, origin, part.header, None) if found and self._is_proven(key) else None

    def complete_ones(self) -> list[Incoming]:
        """Return txs of which all parts are here and that are no dead letters: a process died before it took them."""
        table = rf.tx_part
        columns = (table.c.source_node, table.c.tx_id)
        query = sa.select(*columns).where(~STANDS_APART).group_by(*columns, table.c.parts)
        query = query.having(sa.func.count() == table.c.parts).order_by(*columns)
        with reading(self._node.database) as connection:
            keys = [(row.source_node, row.tx_id) for row in connection.execute(query)]
        proven = [key for key in keys if self._is_proven(key)]
        with reading(self._node.database) as connection:
            return [stored_tx(connection, key, "rf_tx_part") for key in proven]

    def _is_proven(self, key: TxKey) -> bool:
        """Tell whether its source has signed each stored part of a tx, where it has to; what it has not goes.

        Whoever brings parts looks at their signatures first; but a key may be new since some were stored."""
        if not self._trust.asks(key[0]):
            return True
        with reading(self._node.database) as connection:
            found = list(unproven_parts(connection, key, self._trust))
        if not found:
            return True
        numbers = [number for number, _ in found]
        log.warning("unproven_parts_dropped", extra={"source_node": key[0], "tx_id": key[1], "error": str(found[0][1])})
        drop = sa.delete(rf.tx_part).where(_is(key), rf.tx_part.c.part.in_(numbers))
        writing(self._node.database, lambda connection: connection.execute(drop))
        return False

    def _store(self, connection: sa.Connection, part: Part, key: TxKey, *, lost: bool) -> bool:
        """Store a part; tell whether it is the one with which its tx is to be taken up."""
        # All parts of a whole tx may come again: it is taken up once, not once a part.
        is_last = part.header.part == part.header.parts
        # In this order: the commit that applies a tx takes its parts away, and may come between the two looks.
        stored = _Stored.load(connection, key)
        known = look_up(connection, [key]).get(key, NOTHING)
        is_unknown = known is NOTHING and not stored.numbers and not lost
        if _is_done(known, part.header) or (is_unknown and _is_passed(connection, part)):
            return is_last
        if stored.header is not None and stored.header.of_tx != part.header.of_tx:
            text = f"part {part.header.part} of {key[1]} does not belong to the parts that came before"
            raise PoisonError(Reason.CONTENT, text)
        if not stored.is_whole:
            self._add(connection, part, key, stored)
            return stored.is_whole
        return self._mended(connection, part, key, known) or is_last

    def _add(self, connection: sa.Connection, part: Part, key: TxKey, stored: "_Stored") -> None:
        number = part.header.part
        if stored.header is not None and stored.header.parts != part.header.parts:
            stored.drop_from(connection, key, 1)
        elif number in stored.numbers and _rest(connection, key, number) != _split(part)[1]:
            # Sent in order, so the parts before this one were the same in both cuts.
            stored.drop_from(connection, key, number)
        if number in stored.numbers:
            # That it came again shows that it is being sent: `stale_txs`.
            here = sa.and_(_is(key), rf.tx_part.c.part == number)
            connection.execute(sa.update(rf.tx_part).where(here).values(received_us=self._node.clock.now_us()))
            return
        if not stored.numbers:
            self._check_room(connection, key[0], part)
        insert_missing(connection, rf.tx_part, [_row(part, self._node.clock.now_us())])
        stored.header = part.header
        stored.numbers.add(number)

    def _mended(self, connection: sa.Connection, part: Part, key: TxKey, known: Known) -> bool:
        """Put a part in the place of one that came before, where the parts were found not to fit together."""
        number = part.header.part
        if known.letter is None or known.letter.reason not in BROKEN_REASONS:
            return False
        here = sa.and_(_is(key), rf.tx_part.c.part == number, rf.tx_part.c.parts == part.header.parts)
        if connection.execute(sa.select(rf.tx_part.c.part).where(here)).first() is None:
            return False
        if _rest(connection, key, number) == _split(part)[1]:
            return False
        connection.execute(sa.delete(rf.tx_part).where(here))
        insert_missing(connection, rf.tx_part, [_row(part, self._node.clock.now_us())])
        return True

    def _check_room(self, connection: sa.Connection, source_node: str, part: Part) -> None:
        table = rf.tx_part
        query = sa.select(sa.func.count(table.c.tx_id.distinct()), sa.func.sum(table.c.bytes))
        is_of_source = selective(connection.dialect.name, table.c.source_node == source_node)
        txs, size = connection.execute(query.where(is_of_source, ~STANDS_APART)).one()
        if txs >= self._limits.max_unfinished_txs or int(size or 0) + len(part.payload) > _MOST_UNFINISHED_BYTES:
            text = f"{source_node} has {txs} unfinished txs of {size} bytes here already"
            raise PoisonError(Reason.LIMIT, text)


def stored_tx(connection: sa.Connection, key: TxKey, origin: str, replayed_by: str | None = None) -> Incoming:
    """Return a tx whose parts are stored, with the header of its first part."""
    table = rf.tx_part
    query = sa.select(table.c.header).where(_is(key)).order_by(table.c.part).limit(1)
    header = read_header(connection.execute(query).scalar_one().encode())
    return Incoming(*key, origin, header, None, replayed_by=replayed_by)


def stored_payloads(connection: sa.Connection, key: TxKey) -> Callable[[], Iterator[bytes]]:
    """Return a function that reads the change lines of the stored parts in order, one part at a time."""

    def read() -> Iterator[bytes]:
        for _, rest in _parts(connection, key):
            # A part may hold no change line at all.
            yield rest[: rest.rfind(b"\n", 0, -1) + 1]

    return read


def stored_batches(connection: sa.Connection, key: TxKey) -> Iterator[bytes]:
    """Yield the stored parts as they travelled, byte for byte."""
    for header, rest in _parts(connection, key):
        yield header.encode("utf-8") + rest


def unproven_parts(connection: sa.Connection, key: TxKey, trust: Trust) -> Iterator[tuple[int, PoisonError]]:
    """Yield the numbers of stored parts whose signature does not hold, and why. Reads nothing where none is asked."""
    if not trust.asks(key[0]):
        return
    for batch in stored_batches(connection, key):
        match read_body(batch):
            case [Part() as part] if (fault := part_fault(part, trust)) is not None:
                yield part.header.part, fault


def has_parts(connection: sa.Connection, key: TxKey) -> bool:
    """Tell whether parts of a tx are stored."""
    return connection.execute(sa.select(rf.tx_part.c.part).where(_is(key)).limit(1)).first() is not None


def delete_parts(connection: sa.Connection, keys: Sequence[TxKey]) -> None:
    """Take away the parts of txs that are applied or discarded."""
    if connection.execute(_ANY_PART).first() is None:
        # Nearly always: looking for thousands of ids would take longer.
        return
    by_source: dict[str, list[str]] = {}
    for source_node, tx_id in keys:
        by_source.setdefault(source_node, []).append(tx_id)
    dialect = connection.dialect.name
    for source_node, tx_ids in by_source.items():
        connection.execute(_delete_parts(dialect), {"source": source_node, "tx_ids": as_list(dialect, tx_ids)})


def stale_txs(connection: sa.Connection, before_us: int) -> list[TxKey]:
    """Return txs of which parts are missing and nothing came since `before_us`, whereas what follows them in their
    source's log was applied since, and that also before `before_us`.

    Their rest is not on its way any more: what a source sends comes in order by each road, and whatever other road had
    it has had the same time. What they belong to is missing with them as without them (`gaps` does not look at parts).
    Of a source that says nothing all stays, and what follows does not count as soon as it came: this node itself may
    have been off in the middle of a tx, and the rest waits in its queue, maybe longer than the source keeps its log."""
    part = rf.tx_part.c
    came_us = sa.func.max(part.received_us)
    columns = part.source_node, part.tx_id
    query = sa.select(*columns, came_us.label("came_us"), sa.func.min(part.header).label("header"))
    query = query.where(~STANDS_APART).group_by(*columns)
    query = query.having(sa.func.count() < sa.func.max(part.parts), came_us < before_us)
    found = connection.execute(query.order_by(*columns)).all()
    return [
        (row.source_node, row.tx_id)
        for row in found
        if _has_gone_on(connection, read_header(row.header.encode()), row.came_us, before_us)
    ]


def _has_gone_on(connection: sa.Connection, header: BatchHeader, since_us: int, before_us: int) -> bool:
    """Tell whether something that follows a tx in its source's log was applied between two instants."""
    applied = rf.applied_tx.c
    log_of = sa.and_(applied.source_node == header.source_node, applied.incarnation == header.incarnation)
    later = sa.and_(log_of, applied.prev_lsn >= header.to_lsn, applied.applied_us.between(since_us + 1, before_us - 1))
    return connection.execute(sa.select(applied.tx_id).where(later).limit(1)).first() is not None


def count_parts(connection: sa.Connection, keys: Sequence[TxKey]) -> int:
    """Return how many parts of these txs are stored."""
    count = sa.select(sa.func.count()).select_from(rf.tx_part)
    return sum(connection.execute(count.where(_is(key))).scalar_one() for key in keys)


def drop_stale(connection: sa.Connection, most: int, *, key: TxKey, before_us: int) -> int:
    """Take some parts of a tx away, the last ones first, unless one has come since `before_us`; return how many."""
    part = rf.tx_part.c
    # The lock that keeps a part from being put to these.
    connection.execute(sa.select(part.part).where(_is(key)).order_by(part.part).limit(1).with_for_update())
    query = sa.select(part.part, part.received_us).where(_is(key)).order_by(part.part.desc())
    found = connection.execute(query).all()
    if not found or max(row.received_us for row in found) >= before_us:
        return 0
    numbers = [row.part for row in found[:most]]
    connection.execute(sa.delete(rf.tx_part).where(_is(key), part.part.in_(numbers)))
    return len(numbers)


_ANY_PART = sa.select(sa.literal(1)).select_from(rf.tx_part).limit(1)


@cache
def _delete_parts(dialect: str) -> sa.Delete:
    is_one = among_given(dialect, rf.tx_part.c.tx_id, "tx_ids")
    is_of_source = selective(dialect, rf.tx_part.c.source_node == sa.bindparam("source"))
    return sa.delete(rf.tx_part).where(is_of_source, is_one)


@dataclass(slots=True)
class _Stored:
    """Which parts of one tx are in the table; they are all of one cut."""

    numbers: set[int]
    header: BatchHeader | None
    """Of one of them."""

    @classmethod
    def load(cls, connection: sa.Connection, key: TxKey) -> "_Stored":
        # Whoever gives up what did not come whole waits for this one, and the other way round: `drop_stale`.
        first = sa.select(rf.tx_part.c.header).where(_is(key)).order_by(rf.tx_part.c.part).limit(1).with_for_update()
        text = connection.execute(first).scalar()
        if text is None:
            return cls(set(), None)
        numbers = set(connection.execute(sa.select(rf.tx_part.c.part).where(_is(key))).scalars())
        return cls(numbers, read_header(text.encode()))

    @property
    def is_whole(self) -> bool:
        return self.header is not None and len(self.numbers) == self.header.parts

    def drop_from(self, connection: sa.Connection, key: TxKey, number: int) -> None:
        """Take the parts from `number` on away, in the table too."""
        fields = {"source_node": key[0], "tx_id": key[1], "from_part": number}
        log.warning("parts_of_another_cut_dropped", extra=fields)
        connection.execute(sa.delete(rf.tx_part).where(_is(key), rf.tx_part.c.part >= number))
        self.numbers = {one for one in self.numbers if one < number}


def _parts(connection: sa.Connection, key: TxKey) -> Iterator[tuple[str, bytes]]:
    """Yield the header line of each part, and everything after it."""
    query = sa.select(rf.tx_part.c.part, rf.tx_part.c.header).where(_is(key)).order_by(rf.tx_part.c.part)
    for row in connection.execute(query).all():
        yield row.header, _rest(connection, key, row.part)


def _rest(connection: sa.Connection, key: TxKey, number: int) -> bytes:
    query = sa.select(rf.tx_part.c.payload).where(_is(key), rf.tx_part.c.part == number)
    return decompress(bytes(connection.execute(query).scalar_one()), "zstd", UNBOUNDED)


def _is(key: TxKey) -> sa.ColumnElement[bool]:
    return sa.and_(rf.tx_part.c.source_node == key[0], rf.tx_part.c.tx_id == key[1])


def _is_done(known: Known, header: BatchHeader) -> bool:
    if known.applied_sha256 not in (None, header.tx_sha256):
        raise PoisonError(Reason.CONTENT, f"{header.tx_id} was applied with another content")
    return known.is_settled


def _is_passed(connection: sa.Connection, part: Part) -> bool:
    """Tell whether a tx of which nothing is noted any more lies below the watermark: it would wait here for ever."""
    header = part.header
    mark = read_mark(connection, header.source_node, header.incarnation)
    facts = Facts(header.tx_id, header.from_lsn, header.to_lsn, header.tx_sha256 or "")
    return stand(facts, NOTHING, mark) is Standing.DUPLICATE and not is_anothers_place(connection, header)


def _refused(part: Part, origin: str, error: PoisonError) -> Incoming:
    header = part.header
    return Incoming(header.source_node, bytes_id(part.raw), origin, None, part.raw, error=error, claims=header.tx_id)


def _row(part: Part, now_us: int) -> dict[str, Any]:
    header = part.header
    line, rest = _split(part)
    return {
        "source_node": header.source_node,
        "tx_id": header.tx_id,
        "part": header.part,
        "parts": header.parts,
        "tx_sha256": header.tx_sha256,
        "header": line.decode("utf-8"),
        "payload": compress(rest, "zstd"),
        "bytes": len(part.payload),
        "received_us": now_us,
    }


def _split(part: Part) -> tuple[bytes, bytes]:
    """Return the header line, and everything after it."""
    line_end = part.raw.index(b"\n") + 1
    return part.raw[:line_end], part.raw[line_end:]
