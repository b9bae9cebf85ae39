"""Keys and images of a batch, as this database's table will hold them."""

from collections.abc import Callable, Sequence

import msgspec

from common.dialects.sqlite.catalog import SqliteTable
from common.dialects.sqlite.incoming import Reader, UnfitError, reader
from common.dialects.sqlite.values import Row, Value
from common.errors import PoisonError, Reason
from common.wire.records import TableMeta
from common.wire.unreadable import UNREADABLE

_object = msgspec.json.Decoder(dict[str, object])


class ImageDecoder:
    """Reads what a sender described by `meta`. Raises PoisonError: unknown column, type."""

    def __init__(self, table: SqliteTable, meta: TableMeta) -> None:
        self._table = table
        self._name = table.shape.name
        self._key = [(name, self._reader(name, meta)) for name in table.shape.pk]
        self._readers: dict[str, Reader] = {
            name: self._reader(name, meta) for name, column in table.columns.items() if not column.shape.generated
        }

    def key(self, pk: bytes) -> Row:
        """Return a key's values in the order of this table's primary key."""
        values = self._parsed(pk)
        if len(values) != len(self._key):
            raise self._poison(Reason.UNKNOWN_COLUMN, f"its key is {sorted(values)}, here it is another")
        return tuple([self._value(name, read, self._take(values, name)) for name, read in self._key])

    def image(self, image: bytes) -> dict[str, Value]:
        """Return a row's values by column; columns that this database computes itself are left to it."""
        found: dict[str, Value] = {}
        readers = self._readers
        for name, value in self._parsed(image).items():
            read = readers.get(name)
            if read is not None:
                found[name] = self._value(name, read, value)
            elif name not in self._table.columns:
                raise self._poison(Reason.UNKNOWN_COLUMN, f"{self._name} has no column {name!r} here")
        return found

    def _reader(self, name: str, meta: TableMeta) -> Reader:
        column = self._table.columns[name]
        return reader(meta.columns.get(name, column.shape.logical), column.affinity)

    def _parsed(self, data: bytes) -> dict[str, object]:
        try:
            return _object.decode(data)
        except UNREADABLE as error:
            raise self._poison(Reason.TYPE, f"an image of {self._name} can't be read: {error}") from error

    def _take(self, values: dict[str, object], name: str) -> object:
        if name not in values:
            raise self._poison(Reason.UNKNOWN_COLUMN, f"the key of {self._name} has no {name!r}")
        return values[name]

    def _value(self, name: str, read: Callable[[object], Value], value: object) -> Value:
        try:
            return read(value)
        except UnfitError as error:
            raise self._poison(Reason.TYPE, f"{self._name}.{name}: {error}") from error

    def _poison(self, reason: Reason, message: str) -> PoisonError:
        return PoisonError(reason, message, table=self._name)


def spell_decimals_as_in_the_key(
    meta: TableMeta, pk: Sequence[str], wanted: Sequence[tuple[Row, dict[str, Value] | None]]
) -> None:
    """A decimal has one spelling as a key and may have another in the image: 1.5 and 1.50. A text column would keep
    the image's, and later changes, which name the key's, would not find the row."""
    decimals = [(place, name) for place, name in enumerate(pk) if meta.columns.get(name) == "decimal"]
    for key, image in wanted if decimals else ():
        for place, name in decimals:
            if image is not None and isinstance(key[place], str):
                image[name] = key[place]
