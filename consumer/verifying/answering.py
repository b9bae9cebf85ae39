"""What this node answers to a question of a comparison, from one moment of it."""

from collections.abc import Container, Iterable, Iterator, Mapping

import msgspec

from common.errors import PoisonError, Reason
from common.ports.dialect import TableShape
from common.ports.snapshot import FrozenRow
from common.wire.digests import (
    LONGEST_IMAGE,
    Asked,
    AskedTable,
    Cause,
    ChunkLine,
    Line,
    RowLine,
    ScannedLine,
    TableLine,
)
from common.wire.forms import Form
from common.wire.records import NO_IMAGE
from common.wire.row_digests import RowForm, Sums, bits_for, chunk_of
from consumer.standing.store import Copies
from consumer.verifying.causes import Causes
from consumer.verifying.moment import Moment

_ROWS_AT_ONCE = 10_000
_IMAGES_BYTES = 32 * 1024 * 1024
"""So much of rows themselves is in one answer; the others come with their digests, to be asked for again."""


def check_asked(moment: Moment, asked: Asked) -> None:
    """Raise PoisonError where a question is not one about this node's tables."""
    for name, wanted in asked.tables.items():
        table = moment.head.tables.get(name)
        if table is None or table.unfit is not None:
            raise PoisonError(Reason.UNKNOWN_TABLE, f"{name} is no table that can be compared here", table=name)
        if not set(table.pk) <= wanted.forms.keys() <= table.columns.keys():
            raise PoisonError(Reason.UNKNOWN_COLUMN, f"{name}: not the columns of its key, or of the table", table=name)


def answer(moment: Moment, asked: Asked) -> Iterator[Line]:
    """Yield the lines of the answer behind the first one. Raises OutageError, ContentionError."""
    causes = Causes(moment, {name: wanted.forms for name, wanted in asked.tables.items()})
    for name, wanted in asked.tables.items():
        shape = moment.shapes[name]
        if wanted.wants_rows:
            yield from _rows(moment, shape, wanted, causes, images=asked.images)
        else:
            yield from _chunks(moment, shape, wanted.forms, wanted.bits)


def everything(moment: Moment, forms: Mapping[str, Mapping[str, Form]]) -> Iterator[Line]:
    """Yield rows and chunks of these tables, for a file: it can't be asked again."""
    causes = Causes(moment, forms)
    for name in sorted(forms):
        shape, sums = moment.shapes[name], Sums()
        form = RowForm(shape.pk, shape.meta.columns, forms[name])
        apart, seen = causes.all(name), set[bytes]()
        for found in _keyed(moment, shape, form):
            if isinstance(found, ScannedLine):
                yield found
                continue
            row, key = found
            values = None if row.image is None else form.values(row.image)
            sums.add(key, row.version, values)
            if key in apart:
                seen.add(key)
            yield _line(name, row, values, causes, key)
        yield from _absent(name, apart.items(), seen)
        yield from _told(name, sums, bits_for(sums.count))


def own_sums(moment: Moment, shape: TableShape, forms: Mapping[str, Form]) -> Iterator[ScannedLine | Sums]:
    """Yield signs of life, and at last the chunks of one table."""
    sums, form = Sums(), RowForm(shape.pk, shape.meta.columns, forms)
    for found in _keyed(moment, shape, form):
        if isinstance(found, ScannedLine):
            yield found
            continue
        row, key = found
        sums.add(key, row.version, None if row.image is None else form.values(row.image))
    yield sums


def _chunks(moment: Moment, shape: TableShape, forms: Mapping[str, Form], bits: int) -> Iterator[Line]:
    for found in own_sums(moment, shape, forms):
        if isinstance(found, ScannedLine):
            yield found
        else:
            yield from _told(shape.name, found, max(bits, bits_for(found.count)))


def _told(table: str, sums: Sums, bits: int) -> Iterator[Line]:
    rows = gone = 0
    for number, chunk in sums.chunks(bits).items():
        rows, gone = rows + chunk.rows, gone + chunk.gone
        yield ChunkLine(table, number, *chunk)
    yield TableLine(table, bits, rows, gone)


def _rows(moment: Moment, shape: TableShape, wanted: AskedTable, causes: Causes, *, images: bool) -> Iterator[Line]:
    form = RowForm(shape.pk, shape.meta.columns, wanted.forms)
    chunks, keys = frozenset(wanted.chunks or ()), frozenset(map(bytes.fromhex, wanted.keys or ()))

    def is_wanted(key: bytes) -> bool:
        return key in keys or (bool(chunks) and chunk_of(key, wanted.bits) in chunks)

    seen = set[bytes]()
    rows = gone = 0
    room = _IMAGES_BYTES if images else 0
    for found in _keyed(moment, shape, form):
        if isinstance(found, ScannedLine):
            yield found
            continue
        row, key = found
        if is_wanted(key):
            seen.add(key)
            values = None if row.image is None else form.values(row.image)
            rows, gone = rows + (values is not None), gone + (values is None)
            line = _line(shape.name, row, values, causes, key)
            yield _whole(line, row, has_room=room > 0) if images else line
            room -= len(row.image or b"")
    yield from _absent(shape.name, [(key, one) for key, one in causes.all(shape.name).items() if is_wanted(key)], seen)
    yield TableLine(shape.name, wanted.bits, rows, gone)


def _absent(
    table: str, found: Iterable[tuple[bytes, tuple[bytes, Cause]]], seen: Container[bytes]
) -> Iterator[RowLine]:
    """Yield what is not here since a change of it waits, or was set aside."""
    for key, (pk, cause) in found:
        if key not in seen:
            yield RowLine(table, msgspec.Raw(pk), "absent", cause=cause)


def _keyed(moment: Moment, shape: TableShape, form: RowForm) -> Iterator[tuple[FrozenRow, bytes] | ScannedLine]:
    """Yield all rows with the digests of their keys, and now and then a sign of life."""
    copies, left = Copies(moment.look.connection), _ROWS_AT_ONCE
    for row in moment.look.rows(shape):
        if row.image is None and not row.deleted and copies.aside(shape.name, row.key, row.version) is None:
            continue
        yield row, form.key(row.pk)
        left -= 1
        if not left:
            left = _ROWS_AT_ONCE
            yield ScannedLine(_ROWS_AT_ONCE)


def _line(table: str, row: FrozenRow, values: bytes | None, causes: Causes, key: bytes) -> RowLine:
    pk = msgspec.Raw(row.pk)
    if row.image is None and not row.deleted:
        return RowLine(table, pk, "aside", row.version, None, "stepped-back")
    cause = causes.of(table, key)
    if values is None:
        return RowLine(table, pk, "deleted", row.version, None, cause)
    return RowLine(table, pk, "stands", row.version, values.hex(), cause)


def _whole(line: RowLine, row: FrozenRow, *, has_room: bool) -> RowLine:
    """Return a line with what it takes to write the row elsewhere."""
    is_there = row.image is not None and has_room and len(row.image) < LONGEST_IMAGE
    after = msgspec.Raw(row.image) if row.image is not None and is_there else NO_IMAGE
    return msgspec.structs.replace(line, base=row.base, after=after)
