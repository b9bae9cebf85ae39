"""Digests of rows and of chunks of rows: the same on every database that holds the same values. Pure.

A row belongs to a chunk by the digest of its key, since databases don't sort keys alike. A chunk's sum is that of its
rows' digests, in whatever order they are read.
"""

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import NamedTuple

import msgspec

from common.errors import PoisonError, Reason
from common.versions import Version
from common.wire.forms import Form, Plain, Reader, reader
from common.wire.unreadable import UNREADABLE

MOST_BITS = 16
"""So many chunks of one table at most, as a power of two."""
ROWS_A_CHUNK = 512
_DIGEST_BYTES = 16
_SUMS = 1 << (8 * _DIGEST_BYTES)
_json = msgspec.json.Encoder()
_object = msgspec.json.Decoder(dict[str, object])


class Chunk(NamedTuple):
    """What stands in one chunk."""

    rows: int
    gone: int
    """Keys of which only a version is known: deleted, or stepped back. They are not in the sum."""
    sum: str


def bits_for(count: int) -> int:
    """Return into how many chunks so many rows are cut, as a power of two."""
    return min(MOST_BITS, max(0, (count - 1) // ROWS_A_CHUNK).bit_length())


def chunk_of(key: bytes, bits: int) -> int:
    """Return the chunk of a key's digest."""
    return int.from_bytes(key[:4], "big") >> (32 - bits)


class RowForm:
    """Rows of one table as one side writes them, to digests in the forms that both sides share."""

    def __init__(self, pk: Sequence[str], columns: Mapping[str, str], forms: Mapping[str, Form]) -> None:
        """`columns`: to logical types, as that side has them. Columns that `forms` does not name are left out."""
        self._readers = [(name, reader(columns[name], forms[name])) for name in sorted(forms)]
        named = dict(self._readers)
        self._key = [(name, named[name]) for name in sorted(pk)]

    def key(self, pk: bytes) -> bytes:
        """Return the digest of a key. Raises PoisonError for what is none of this table."""
        fields = _fields(pk)
        if len(fields) != len(self._key):
            raise PoisonError(Reason.FORMAT, "a key has not the columns of its table")
        return _digest(_read(fields, self._key))

    def values(self, image: bytes) -> bytes:
        """Return the digest of a row's values. Raises PoisonError for what is no row of this table."""
        return _digest(_read(_fields(image), self._readers))


class Sums:
    """The chunks of one table while its rows are read, in the finest cut."""

    def __init__(self) -> None:
        self._rows = [0] * (1 << MOST_BITS)
        self._gone = [0] * (1 << MOST_BITS)
        self._sums = [0] * (1 << MOST_BITS)

    @property
    def count(self) -> int:
        """How many keys there were."""
        return sum(self._rows) + sum(self._gone)

    def add(self, key: bytes, version: Version, values: bytes | None) -> None:
        """Count a row; without values one that does not stand."""
        chunk = chunk_of(key, MOST_BITS)
        if values is None:
            self._gone[chunk] += 1
            return
        told = f"{version.main_epoch} {version.hlc} {version.node_id}".encode()
        row = blake2b(key + values + told, digest_size=_DIGEST_BYTES).digest()
        self._rows[chunk] += 1
        self._sums[chunk] = (self._sums[chunk] + int.from_bytes(row, "big")) % _SUMS

    def chunks(self, bits: int) -> dict[int, Chunk]:
        """Return the chunks in another cut; those in which nothing is are left out."""
        wide, found = 1 << (MOST_BITS - bits), {}
        for number in range(1 << bits):
            part = slice(number * wide, (number + 1) * wide)
            rows, gone = sum(self._rows[part]), sum(self._gone[part])
            if rows or gone:
                total = sum(self._sums[part]) % _SUMS
                found[number] = Chunk(rows, gone, f"{total:0{2 * _DIGEST_BYTES}x}")
        return found


def _fields(text: bytes) -> dict[str, object]:
    try:
        return _object.decode(text)
    except UNREADABLE as error:
        raise PoisonError(Reason.FORMAT, f"it is no JSON object: {error}") from error


def _read(fields: Mapping[str, object], readers: Sequence[tuple[str, Reader]]) -> list[Plain]:
    try:
        return [read(fields[name]) for name, read in readers]
    except KeyError as error:
        raise PoisonError(Reason.FORMAT, f"column {error} is missing") from error


def _digest(values: list[Plain]) -> bytes:
    return blake2b(_json.encode(values), digest_size=_DIGEST_BYTES).digest()
