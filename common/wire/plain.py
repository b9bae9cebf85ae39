"""Whole messages at one look: batches of one part each, just as this release writes them.

Most messages are like that, and a backlog is nothing else. What is not plainly so is for `common.wire.decode`, which
checks as strictly, and also tells what is wrong.
"""

import hashlib
from collections.abc import Iterator, Mapping

import msgspec

from common.versions import Version
from common.wire.depth import nests_too_deep
from common.wire.headers import PlainHeader, is_plain, plain_tables
from common.wire.limits import DEFAULT_LIMITS, Limits
from common.wire.lines import CHANGE_OPENS, END_OPENS, HEADER_OPENS
from common.wire.records import IMAGES_OF, NO_IMAGE, TableMeta
from common.wire.signing import NO_PROOF, Proof
from common.wire.unreadable import UNREADABLE


class NotPlainError(Exception):
    """Something wants a closer look than is taken here."""


class PlainChange(msgspec.Struct, frozen=True, gc=False, tag="change", tag_field="type"):
    """A change line that has a row: see `common.wire.records.Change`."""

    lsn: int
    tx_id: str
    op: str
    table: str
    pk: msgspec.Raw
    version: Version
    before: msgspec.Raw = NO_IMAGE
    after: msgspec.Raw = NO_IMAGE
    base: Version | None = None
    resolves: tuple[Version, ...] = ()
    captured_at: str | None = None
    sql: str | None = None
    """Nobody here wants these two; but a line that has them as something else is none."""


class _End(msgspec.Struct, frozen=True, gc=False, tag="end", tag_field="type"):
    tx_id: str
    changes: int
    sha256: str
    key: str | None = None
    signature: str | None = None


class PlainTx(msgspec.Struct, frozen=True, gc=False):
    """One whole tx: checksum, counts, and the form of each change were right."""

    header: PlainHeader
    tables: Mapping[str, TableMeta]
    """Of the header; equal ones are one object."""
    changes: list[PlainChange]
    sha256: str
    """Over its change lines: what the tx is known by."""
    batch_sha256: str
    """Over every byte before its end line: what is signed."""
    proof: Proof
    """What its end line shows of who made it; nobody has looked at it yet."""


_header = msgspec.json.Decoder(PlainHeader).decode
_change = msgspec.json.Decoder(PlainChange).decode
_end = msgspec.json.Decoder(_End).decode


def plain_txs(body: bytes, limits: Limits = DEFAULT_LIMITS) -> Iterator[PlainTx]:
    """Yield the txs of an uncompressed message. Raises NotPlainError where something in it wants a closer look: then
    nothing of it counts."""
    try:
        if not body.isascii():
            # msgspec steps over values without looking whether they are UTF-8.
            body.decode("utf-8")
        *lines, torn = body.split(b"\n")
        if torn or nests_too_deep(body):
            raise NotPlainError
        yield from _txs(body, lines, limits)
    except UNREADABLE as error:
        raise NotPlainError from error


def _txs(body: bytes, lines: list[bytes], limits: Limits) -> Iterator[PlainTx]:
    view = memoryview(body)
    at = place = 0
    last: PlainHeader | None = None
    tables: Mapping[str, TableMeta] | None = None
    while place < len(lines):
        header = _header(_opened(lines, place, HEADER_OPENS))
        if header.parts != 1 or header.requires or header.tx_sha256 is not None or not is_plain(header):
            raise NotPlainError
        if last is None or not _are_alike(header, last):
            last, tables = header, plain_tables(header)
        if tables is None:
            raise NotPlainError
        end_place = place + 1 + header.changes
        closing = _end(_opened(lines, end_place, END_OPENS))
        if closing.tx_id != header.tx_id or closing.changes != header.changes:
            raise NotPlainError
        change_lines = lines[place + 1 : end_place]
        first = at + len(lines[place]) + 1
        end = first + sum(map(len, change_lines)) + header.changes
        stop = end + len(lines[end_place]) + 1
        if stop - at > limits.max_part_bytes or hashlib.sha256(view[at:end]).hexdigest() != closing.sha256:
            raise NotPlainError
        proof = Proof(closing.key, closing.signature) if closing.key or closing.signature else NO_PROOF
        content = hashlib.sha256(view[first:end]).hexdigest()
        yield PlainTx(header, tables, _changes(header, tables, change_lines), content, closing.sha256, proof)
        at, place = stop, end_place + 1


def _opened(lines: list[bytes], place: int, opens: bytes) -> bytes:
    """Return a line that says at once what it is: without its tag it could be decoded too."""
    if place < len(lines) and lines[place].startswith(opens):
        return lines[place]
    raise NotPlainError


def _are_alike(one: PlainHeader, other: PlainHeader) -> bool:
    """Tell whether `plain_tables` says the same of both."""
    if one.source_node != other.source_node or one.incarnation != other.incarnation:
        return False
    return one.tables == other.tables


def _changes(header: PlainHeader, tables: Mapping[str, TableMeta], lines: list[bytes]) -> list[PlainChange]:
    """Return the changes of these lines: changes of this tx, each above the one before, in tables of the header, with
    their images.

    The same as `common.wire.changes.TxReader` asks of each."""
    changes = list(map(_change, lines))
    tx_id, to_lsn, last_lsn = header.tx_id, header.to_lsn, header.from_lsn - 1
    for line, change in zip(lines, changes, strict=True):
        if not line.startswith(CHANGE_OPENS) or change.tx_id != tx_id or change.table not in tables:
            raise NotPlainError
        if not last_lsn < change.lsn <= to_lsn:
            raise NotPlainError
        last_lsn = change.lsn
        images = bytes(change.before)[:1] == b"{", bytes(change.after)[:1] == b"{"
        if images != IMAGES_OF.get(change.op) or bytes(change.pk)[:1] != b"{":
            raise NotPlainError
    return changes
