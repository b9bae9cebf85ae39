"""Sealed txs to `rowferry/1` bytes: header, change lines, end line; large txs in parts, long lines in chunks."""

import base64
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from common.versions import Version
from common.wire.records import FORMAT, SealedTx, SmallTx, TableMeta, TxHeader
from common.wire.signing import Purpose, Signer

DEFAULT_MAX_BATCH_BYTES = 4 * 1024 * 1024
_LEAST_ROOM = 1024
_ROOM_FOR_END_LINE = 512
_CHANGE = (
    b'{"type":"change","lsn":%d,"tx_id":"%s","table":%s,"op":"%s","pk":%s,"before":%s,"after":%s,'
    b'"version":%s,"base":%s,%s"captured_at":"%s"}\n'
)
_ROOM_FOR_THE_REST = 2_048
"""More than a header without its tables, and the end line, ever take."""
_MOST_TABLES_KNOWN = 1_000
_json = msgspec.json.Encoder()
_tables_known: dict[int, tuple[Mapping[str, TableMeta], bytes]] = {}
"""By identity: a log gives thousands of txs with one and the same description of their tables."""


class EncodedPart(msgspec.Struct, frozen=True):
    """One batch, or one part of it, ready to travel."""

    header: TxHeader
    part: int
    parts: int
    body: bytes

    @property
    def is_last(self) -> bool:
        """Whether the tx is complete once this part and all before it have arrived."""
        return self.part == self.parts


@dataclass(slots=True)
class _Segment:
    """The lines of one part while it is filled."""

    lines: list[bytes]
    size: int = 0
    changes: int = 0

    def add(self, line: bytes, *, ends_change: bool) -> None:
        self.lines.append(line)
        self.size += len(line)
        self.changes += ends_change


@dataclass(frozen=True, slots=True)
class _Plan:
    parts: int
    tx_sha256: str


def encode_change(
    *,
    lsn: int,
    tx_id: str,
    table: str,
    op: str,
    pk: bytes,
    before: bytes | None,
    after: bytes | None,
    version: Version,
    base: Version | None,
    captured_at: str,
    resolves: str | None = None,
) -> bytes:
    """Return one change line with its newline. `pk`, `before`, `after` are JSON objects already encoded, `resolves`
    is a JSON list."""
    return _CHANGE % (
        lsn,
        tx_id.encode(),
        _json.encode(table),
        op.encode(),
        pk,
        b"null" if before is None else before,
        b"null" if after is None else after,
        _json.encode(version),
        _json.encode(base),
        b"" if resolves is None else b'"resolves":%s,' % resolves.encode(),
        captured_at.encode(),
    )


def encode_tx(
    tx: SealedTx, max_batch_bytes: int = DEFAULT_MAX_BATCH_BYTES, signer: Signer | None = None
) -> Iterator[EncodedPart]:
    """Yield the tx's parts in order; most txs have one. Holds about one part in memory.

    A tx that doesn't fit one part is read twice: each header says how many parts there are and what the whole weighs.
    """
    body = small_batch(tx, max_batch_bytes, signer) if isinstance(tx, SmallTx) else None
    if body is not None:
        yield EncodedPart(tx.header, 1, 1, body)
        return
    room = _room_for_lines(tx.header, max_batch_bytes)
    segments = _segments(tx, room)
    first = next(segments, None) or _Segment([])
    second = next(segments, None)
    if second is None:
        yield _finish(tx.header, first, 1, _Plan(1, ""), signer)
        return
    del first, second, segments
    plan = _plan(tx, room)
    for number, segment in enumerate(_segments(tx, room), start=1):
        yield _finish(tx.header, segment, number, plan, signer)


def small_batch(
    tx: SmallTx, max_batch_bytes: int = DEFAULT_MAX_BATCH_BYTES, signer: Signer | None = None
) -> bytes | None:
    """Return the one batch of a tx that fits for sure, as nearly all do; None where that wants a closer look."""
    header = tx.header
    room = max_batch_bytes - len(_tables_json(header.tables)) - _ROOM_FOR_THE_REST
    if header.requires or len(tx.payload) > room:
        return None
    changes = tx.payload.count(b"\n")
    return _closed(header.tx_id, header_line(header, changes, 1, 1, None) + tx.payload, changes, signer)


def header_line(header: TxHeader, changes: int, part: int, parts: int, tx_sha256: str | None) -> bytes:
    """Return the header line of a batch with its newline."""
    optional = ""
    if tx_sha256 is not None:
        optional += f'"tx_sha256":"{tx_sha256}",'
    if header.grouped:
        optional += '"grouped":true,'
    if header.requires:
        optional += f'"requires":{_json.encode(header.requires).decode()},'
    # Ids, instants and checksums hold nothing that JSON escapes.
    begins = (
        f'{{"type":"batch","format":"{FORMAT}","tx_id":"{header.tx_id}","source_node":"{header.source_node}",'
        f'"incarnation":"{header.incarnation}","exported_at":"{header.exported_at}","from_lsn":{header.from_lsn},'
        f'"to_lsn":{header.to_lsn},"prev_lsn":{header.prev_lsn},"changes":{changes},"part":{part},"parts":{parts},'
        f'{optional}"tables":'
    )
    return b"%s%s}\n" % (begins.encode(), _tables_json(header.tables))


def _tables_json(tables: Mapping[str, TableMeta]) -> bytes:
    found = _tables_known.get(id(tables))
    if found is not None and found[0] is tables:
        return found[1]
    if len(_tables_known) >= _MOST_TABLES_KNOWN:
        _tables_known.clear()
    described = {name: {"pk": list(meta.pk), "columns": dict(meta.columns)} for name, meta in tables.items()}
    encoded = _json.encode(described)
    _tables_known[id(tables)] = tables, encoded
    return encoded


def seal_part(tx_id: str, header: bytes, lines: Sequence[bytes], changes: int, signer: Signer | None = None) -> bytes:
    """Return header line, `lines` and the end line with count, checksum and, where there is a `signer`, signature."""
    return _closed(tx_id, b"".join((header, *lines)), changes, signer)


def _closed(tx_id: str, body: bytes, changes: int, signer: Signer | None) -> bytes:
    sha256 = hashlib.sha256(body).hexdigest()
    proof = "" if signer is None else signer.fields(Purpose.BATCH, sha256)
    end = f'{{"type":"end","tx_id":"{tx_id}","changes":{changes},"sha256":"{sha256}"{proof}}}\n'
    return body + end.encode()


def _room_for_lines(header: TxHeader, max_batch_bytes: int) -> int:
    widest = header_line(header, 10**9, 10**6, 10**6, "0" * 64)
    return max(max_batch_bytes - len(widest) - _ROOM_FOR_END_LINE, _LEAST_ROOM)


def _finish(header: TxHeader, segment: _Segment, number: int, plan: _Plan, signer: Signer | None) -> EncodedPart:
    line = header_line(header, segment.changes, number, plan.parts, plan.tx_sha256 or None)
    body = seal_part(header.tx_id, line, segment.lines, segment.changes, signer)
    return EncodedPart(header, number, plan.parts, body)


def _plan(tx: SealedTx, room: int) -> _Plan:
    digest = hashlib.sha256()

    def weighed() -> Iterator[bytes]:
        for line in tx.lines():
            digest.update(line)
            yield line

    return _Plan(sum(1 for _ in _cut(weighed(), room)), digest.hexdigest())


def _segments(tx: SealedTx, room: int) -> Iterator[_Segment]:
    return _cut(tx.lines(), room)


def _cut(lines: Iterator[bytes], room: int) -> Iterator[_Segment]:
    segment = _Segment([])
    for line in lines:
        for piece, ends_change in _pieces(line, room):
            if segment.lines and segment.size + len(piece) > room:
                yield segment
                segment = _Segment([])
            segment.add(piece, ends_change=ends_change)
    if segment.lines:
        yield segment


def _pieces(line: bytes, room: int) -> Iterator[tuple[bytes, bool]]:
    if len(line) <= room:
        yield line, True
        return
    lsn = msgspec.json.decode(line, type=_LsnOnly).lsn
    step = (room - 128) // 4 * 3
    starts = range(0, len(line), step)
    for n, start in enumerate(starts):
        last = n == len(starts) - 1
        data = base64.b64encode(line[start : start + step])
        flag = b"true" if last else b"false"
        yield b'{"type":"chunk","lsn":%d,"n":%d,"last":%s,"data":"%s"}\n' % (lsn, n, flag, data), last


class _LsnOnly(msgspec.Struct):
    lsn: int
