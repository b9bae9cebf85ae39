"""Raw images and keys of the wire as recordsets: values stay JSON text until PostgreSQL reads them."""

import base64
import binascii
import re
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import msgspec

from common.dialects.postgresql.reading import WRAPPED, Reading, class_comes_back, key_reading, reading, takes_text
from common.dialects.postgresql.shapes import key_columns
from common.dialects.postgresql.types import PgColumn
from common.errors import PoisonError, Reason
from common.ports.dialect import TableShape
from common.wire.records import TableMeta

_NESTED = re.compile(rb":\s*[\[{]")
_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])
_wrapped = msgspec.json.Decoder(dict[str, str | int | float])


class ColumnSet(NamedTuple):
    """The columns of one statement."""

    sent: tuple[str, ...]
    stayed: tuple[str, ...] = ()
    """Columns that the sender did not name, as they stood here."""

    @property
    def names(self) -> tuple[str, ...]:
        return (*self.sent, *self.stayed)


class Rows:
    """Reads what one sender says about one table. Any thread."""

    @staticmethod
    def of(table: TableShape, meta: TableMeta) -> "Rows":
        """Return those of before where there were any: they have their statements written. Raises PoisonError."""
        return _rows_of(table, meta.pk, tuple(meta.columns.items()))

    def __init__(self, table: TableShape, meta: TableMeta) -> None:
        self.table = table
        self._statements: dict[Hashable, tuple[bytes, ...]] = {}
        self._logical = meta.columns
        self._columns = {column.name: column for column in table.columns}
        # A column of SQLite's that has no type counts as bytes and takes anything; what is none names its class.
        self._no_bytes = frozenset(
            name
            for name, column in self._columns.items()
            if column.logical != "bytes" and meta.columns.get(name) == "bytes"
        )
        self._known_keys: dict[tuple[str, ...], tuple[str, ...]] = {}
        if set(meta.pk) != set(table.pk):
            raise PoisonError(
                Reason.UNKNOWN_COLUMN,
                f"table {table.name!r} has the key {list(table.pk)} here, {list(meta.pk)} at the sender",
                table=table.name,
            )

    def once(self, what: Hashable, write: Callable[[], Iterable[str]]) -> tuple[bytes, ...]:
        """Return the statements that `write` makes for this table and sender; they are written once. `what` they
        are: a word, and what else they depend on."""
        known = self._statements.get(what)
        if known is None:
            known = self._statements[what] = tuple(one.encode() for one in write())
        return known

    def key_readings(self) -> list[Reading]:
        """How the columns of the primary key are read."""
        return [key_reading(column, self._logical_of(column.name)) for column in key_columns(self.table)]

    def asked_readings(self) -> list[Reading]:
        """The same for keys that only a look is taken at: in other letters they name the same row."""
        return [self._reading(column.name) for column in key_columns(self.table)]

    def keys(self, pks: Sequence[bytes]) -> str:
        """Return the keys as one JSON array. Each names the columns of the primary key, as `lock` was promised."""
        array = self._plain_array(pks)
        if array is not None:
            return array
        wanted = frozenset(self.table.pk)
        plain = [self._plain(pk) for pk in pks]
        for fields, _ in plain:
            if frozenset(fields) != wanted:
                raise PoisonError(Reason.FORMAT, f"pk of {self.table.name!r} names {fields}", table=self.table.name)
        return _array(json for _, json in plain)

    def leaves_out(self, image: bytes) -> bool:
        """Tell whether an image does not name every column that is written here."""
        names = self._plain(image)[0]
        return any(one.name not in names for one in self.table.columns if not one.generated)

    def by_columns(self, images: Sequence[tuple[bytes, bytes | None]]) -> dict[ColumnSet, str]:
        """Return images as JSON arrays, one for each set of columns that they name; generated ones are left out.

        An image comes with the row as it stood, if its other columns are to stay so, or None.
        Raises PoisonError for a column that this table does not have."""
        if not any(stood for _, stood in images):
            array = self._plain_array([image for image, _ in images])
            if array is not None:
                return {ColumnSet(self._written(tuple(self._logical))): array}
        groups: dict[ColumnSet, list[str]] = {}
        for image, stood in images:
            names, json = self._plain(image)
            columns = ColumnSet(self._written(names))
            if stood is not None:
                columns, json = self._completed(columns, json, stood)
            groups.setdefault(columns, []).append(json)
        return {columns: _array(jsons) for columns, jsons in groups.items()}

    def column_readings(self, columns: ColumnSet) -> list[Reading]:
        """How the columns of a group are read: those that stayed are in this node's own form."""
        own = [reading(self._columns[name], self._columns[name].logical) for name in columns.stayed]
        return [*(self._reading(name) for name in columns.sent), *own]

    def _completed(self, columns: ColumnSet, json: str, stood: bytes) -> tuple[ColumnSet, str]:
        fields = _fields.decode(stood)
        stayed = tuple(name for name in fields if name not in columns.sent)
        merged = {**_fields.decode(json), **{name: fields[name] for name in stayed}}
        return ColumnSet(columns.sent, stayed), msgspec.json.encode(merged).decode()

    def _reading(self, name: str) -> Reading:
        return reading(self._columns[name], self._logical_of(name))

    def _logical_of(self, name: str) -> str:
        return "text" if name in self._no_bytes else self._logical.get(name, self._columns[name].logical)

    def _plain_array(self, objects: Sequence[bytes]) -> str | None:
        return None if self._no_bytes else _plain_array(objects)

    def _written(self, names: tuple[str, ...]) -> tuple[str, ...]:
        known = self._known_keys.get(names)
        if known is not None:
            return known
        for name in names:
            if name not in self._columns:
                raise PoisonError(
                    Reason.UNKNOWN_COLUMN, f"table {self.table.name!r} has no column {name!r}", table=self.table.name
                )
        missing = [name for name in self.table.pk if name not in names]
        if missing:
            raise PoisonError(Reason.FORMAT, f"image of {self.table.name!r} lacks {missing}", table=self.table.name)
        # In the table's order, so that senders with another order share the statement.
        written = tuple(column.name for column in self.table.columns if column.name in names and not column.generated)
        self._known_keys[names] = written
        return written

    def _plain(self, json: bytes) -> tuple[tuple[str, ...], str]:
        """Return the names in an object, and the object with its wrapped values as plain strings."""
        try:
            fields = _fields.decode(json)
            if self._no_bytes or _NESTED.search(json):
                return tuple(fields), self._unwrapped(fields)
            return tuple(fields), json.decode()
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise PoisonError(Reason.FORMAT, f"image of {self.table.name!r}: {error}", table=self.table.name) from error

    def _unwrapped(self, fields: Mapping[str, msgspec.Raw]) -> str:
        plain: dict[str, msgspec.Raw | str] = {}
        for name, raw in fields.items():
            value = bytes(raw)
            is_wrapped = value[:1] in (b"{", b"[")
            if name in self._no_bytes and not is_wrapped and value != b"null":
                raise self._unfit(name, value, "the bytes ")
            plain[name] = self._unwrap(name, value) if is_wrapped else raw
        return msgspec.json.encode(plain).decode()

    def _unwrap(self, name: str, value: bytes) -> str:
        column = self._columns.get(name)
        is_bytes = column is not None and column.logical == "bytes" and self._logical.get(name) == "bytes"
        try:
            ((kind, inner),) = _wrapped.decode(value).items()
            if (kind == "$bytes") != is_bytes or kind not in WRAPPED:
                raise self._unfit(name, value)
            text = base64.b64decode(str(inner), validate=True).decode() if kind == "$text" else str(inner)
        except (ValueError, msgspec.DecodeError, binascii.Error) as error:
            raise self._unfit(name, value) from error
        if isinstance(column, PgColumn) and kind == "$text" and not takes_text(column, text):
            message = f"value {text[:80]} does not fit column {name} {column.declared}"
            raise PoisonError(Reason.TYPE, message, table=self.table.name)
        if column is None or name not in self.table.pk:
            return text
        if not class_comes_back(column, kind, text, is_loose=name in self._no_bytes):
            raise self._unfit(name, value, "the key ")
        return text.removesuffix(".0") if kind == "$float" and column.logical == "float" else text

    def _unfit(self, name: str, value: bytes, what: str = "") -> PoisonError:
        shown = value[:80].decode(errors="replace")
        where = f"column {name!r} of table {self.table.name!r}"
        return PoisonError(Reason.TYPE, f"{where} can't hold {what}{shown}", table=self.table.name)


@lru_cache(maxsize=500)
def _rows_of(table: TableShape, pk: tuple[str, ...], columns: tuple[tuple[str, str], ...]) -> Rows:
    return Rows(table, TableMeta.model_construct(pk=pk, columns=dict(columns)))


def _array(jsons: Iterable[str]) -> str:
    return "[" + ",".join(jsons) + "]"


def _plain_array(objects: Sequence[bytes]) -> str | None:
    """Return JSON objects as one array at one look; None where a value may be wrapped, or is no text."""
    joined = b"[" + b",".join(objects) + b"]"
    opens_nothing_else = joined.count(b"{") == len(objects) and joined.count(b"[") == 1
    if not opens_nothing_else and _NESTED.search(joined):
        return None
    try:
        return joined.decode()
    except UnicodeDecodeError:
        return None
