"""Whole messages at one look: batches of one part each, just as this release writes them.

Most messages are like that, and a backlog is nothing else. What is not plainly so is for `common.wire.decode`, which
checks as strictly, and also tells what is wrong.
"""

import hashlib
from collections.abc import Mapping

import msgspec

from common.versions import Version
from common.wire.headers import PlainHeader, plain_tables
from common.wire.limits import DEFAULT_LIMITS, Limits
from common.wire.lines import HEADER_OPENS, LINE_OF_CHANGE, LINE_OF_END
from common.wire.records import IMAGES_OF, NO_IMAGE, TableMeta
from common.wire.signing import Proof


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


class _End(msgspec.Struct, frozen=True, gc=False, tag="end", tag_field="type"):
    tx_id: str
    changes: int
    sha256: str
    key: str | None = None
    signature: str | None = None


class PlainTx(msgspec.Struct, frozen=True):
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


_lines = msgspec.json.Decoder(PlainHeader | PlainChange | _End)


def plain_txs(body: bytes, limits: Limits = DEFAULT_LIMITS) -> list[PlainTx] | None:
    """Return the txs of an uncompressed message; None where something in it wants a closer look."""
    try:
        if not body.isascii():
            # msgspec steps over values without looking whether they are UTF-8.
            body.decode("utf-8")
        lines = _lines.decode_lines(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None
    if not body.endswith(b"\n"):
        return None
    found: list[PlainTx] = []
    at = place = 0
    view = memoryview(body)
    while place < len(lines):
        header = lines[place]
        if type(header) is not PlainHeader or header.parts != 1 or header.requires or header.tx_sha256 is not None:
            return None
        end_place = place + 1 + header.changes
        changes = lines[place + 1 : end_place]
        first = body.find(b"\n", at) + 1
        # From the newline before, since there may be no change at all.
        end = body.find(LINE_OF_END, first - 1) + 1
        stop = body.find(b"\n", end) + 1
        closing = lines[end_place] if end_place < len(lines) else None
        tables = plain_tables(header)
        if type(closing) is not _End or not end or tables is None or stop - at > limits.max_part_bytes:
            return None
        if closing.tx_id != header.tx_id or closing.changes != header.changes:
            return None
        # Lines are counted by the offsets, objects by their types: both must mean the same end. And every line says at
        # once what it is, as `common.wire.decode` wants it for a look at many.
        if not body.startswith(HEADER_OPENS, at) or body.count(b"\n", first, end) != header.changes:
            return None
        if body.count(LINE_OF_CHANGE, first - 1, end) != header.changes:
            return None
        if hashlib.sha256(view[at:end]).hexdigest() != closing.sha256:
            return None
        if not _are_whole(header, tables, changes):
            return None
        content, proof = hashlib.sha256(view[first:end]).hexdigest(), Proof(closing.key, closing.signature)
        found.append(PlainTx(header, tables, changes, content, closing.sha256, proof))
        at, place = stop, end_place + 1
    return found if at == len(body) else None


def _are_whole(header: PlainHeader, tables: Mapping[str, TableMeta], changes: "list[PlainChange]") -> bool:
    """Tell whether these are changes of this tx, each above the one before, in tables of the header, with their images.

    The same as `common.wire.changes.TxReader` asks of each."""
    last_lsn = header.from_lsn - 1
    for change in changes:
        if type(change) is not PlainChange or change.tx_id != header.tx_id or change.table not in tables:
            return False
        if not last_lsn < change.lsn <= header.to_lsn:
            return False
        last_lsn = change.lsn
        images = bytes(change.before)[:1] == b"{", bytes(change.after)[:1] == b"{"
        if images != IMAGES_OF.get(change.op) or bytes(change.pk)[:1] != b"{":
            return False
    return True
