"""Sealed txs to `rowferry/1` bytes: header, change lines, end line; large txs in parts, long lines in chunks."""

import base64
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from common.versions import Version
from common.wire.records import FORMAT, SealedTx, TableMeta, TxHeader

DEFAULT_MAX_BATCH_BYTES = 4 * 1024 * 1024
_LEAST_ROOM = 1024
_ROOM_FOR_END_LINE = 256
_CHANGE = (
    b'{"type":"change","lsn":%d,"tx_id":"%s","table":%s,"op":"%s","pk":%s,"before":%s,"after":%s,'
    b'"version":%s,"base":%s,"captured_at":"%s"}\n'
)
_ROOM_FOR_THE_REST = 2_048
"""More than a header without its tables, and the end line, ever take."""
_MOST_TABLES_KNOWN = 1_000
_json = msgspec.json.Encoder()
_tables_known: dict[int, tuple[Mapping[str, TableMeta], msgspec.Raw]] = {}
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
) -> bytes:
    """Return one change line with its newline. `pk`, `before`, `after` are JSON objects already encoded."""
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
        captured_at.encode(),
    )


def encode_tx(tx: SealedTx, max_batch_bytes: int = DEFAULT_MAX_BATCH_BYTES) -> Iterator[EncodedPart]:
    """Yield the tx's parts in order; most txs have one. Holds about one part in memory.

    A tx that doesn't fit one part is read twice: each header says how many parts there are and what the whole weighs.
    """
    lines = _few_lines(tx, max_batch_bytes)
    if lines is not None:
        yield _finish(tx.header, _Segment(lines, changes=len(lines)), 1, _Plan(1, ""))
        return
    room = _room_for_lines(tx.header, max_batch_bytes)
    segments = _segments(tx, room)
    first = next(segments, None) or _Segment([])
    second = next(segments, None)
    if second is None:
        yield _finish(tx.header, first, 1, _Plan(1, ""))
        return
    del first, second, segments
    plan = _plan(tx, room)
    for number, segment in enumerate(_segments(tx, room), start=1):
        yield _finish(tx.header, segment, number, plan)


def header_fields(header: TxHeader, changes: int, part: int, parts: int, tx_sha256: str | None) -> dict[str, Any]:
    """Return a batch header as the JSON object it becomes, keys in their written order."""
    fields: dict[str, Any] = {
        "type": "batch",
        "format": FORMAT,
        "tx_id": header.tx_id,
        "source_node": header.source_node,
        "incarnation": header.incarnation,
        "exported_at": header.exported_at,
        "from_lsn": header.from_lsn,
        "to_lsn": header.to_lsn,
        "prev_lsn": header.prev_lsn,
        "changes": changes,
        "part": part,
        "parts": parts,
    }
    if tx_sha256 is not None:
        fields["tx_sha256"] = tx_sha256
    if header.grouped:
        fields["grouped"] = True
    if header.requires:
        fields["requires"] = list(header.requires)
    fields["tables"] = _tables_json(header.tables)
    return fields


def _tables_json(tables: Mapping[str, TableMeta]) -> msgspec.Raw:
    found = _tables_known.get(id(tables))
    if found is not None and found[0] is tables:
        return found[1]
    if len(_tables_known) >= _MOST_TABLES_KNOWN:
        _tables_known.clear()
    described = {name: {"pk": list(meta.pk), "columns": dict(meta.columns)} for name, meta in tables.items()}
    encoded = msgspec.Raw(_json.encode(described))
    _tables_known[id(tables)] = tables, encoded
    return encoded


def seal_part(fields: dict[str, Any], lines: Sequence[bytes]) -> bytes:
    """Return header line, `lines` and the end line with count and checksum."""
    body = b"".join((_json.encode(fields), b"\n", *lines))
    end = {
        "type": "end",
        "tx_id": fields["tx_id"],
        "changes": fields["changes"],
        "sha256": hashlib.sha256(body).hexdigest(),
    }
    return body + _json.encode(end) + b"\n"


def _few_lines(tx: SealedTx, max_batch_bytes: int) -> list[bytes] | None:
    """Return the lines of a tx that fits one part for sure, as nearly all do; None when that wants a closer look."""
    if tx.header.requires:
        return None
    room = max_batch_bytes - len(bytes(_tables_json(tx.header.tables))) - _ROOM_FOR_THE_REST
    lines = []
    for line in tx.lines():
        room -= len(line)
        if room < 0:
            return None
        lines.append(line)
    return lines


def _room_for_lines(header: TxHeader, max_batch_bytes: int) -> int:
    widest = header_fields(header, 10**9, 10**6, 10**6, "0" * 64)
    return max(max_batch_bytes - len(_json.encode(widest)) - _ROOM_FOR_END_LINE, _LEAST_ROOM)


def _finish(header: TxHeader, segment: _Segment, number: int, plan: _Plan) -> EncodedPart:
    fields = header_fields(header, segment.changes, number, plan.parts, plan.tx_sha256 or None)
    return EncodedPart(header, number, plan.parts, seal_part(fields, segment.lines))


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
