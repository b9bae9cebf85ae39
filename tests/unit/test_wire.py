"""A first way there and back; the property tests go further."""

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, cast

import msgspec
import pytest

from common.versions import NEVER, Version
from common.wire import decode
from common.wire.changes import TxReader
from common.wire.decode import Broken, read_body, read_parts
from common.wire.encode import encode_change, encode_tx, header_line
from common.wire.headers import plain_header
from common.wire.limits import DEFAULT_LIMITS
from common.wire.lines import Line, line_type
from common.wire.records import Part, TableMeta, TxHeader

TX = "0192f000-0000-7000-8000-000000000001"


@dataclass
class Sealed:
    header: TxHeader
    sizes: list[int]

    def lines(self) -> Iterator[bytes]:
        for lsn, size in enumerate(self.sizes, start=self.header.from_lsn):
            pk = b'{"id":%d}' % lsn
            after = b'{"id":%d,"v":"%s"}' % (lsn, b"x" * size)
            yield encode_change(
                lsn=lsn,
                tx_id=TX,
                table="t",
                op="I",
                pk=pk,
                before=None,
                after=after,
                version=Version(0, 5, "a"),
                base=NEVER,
                captured_at="2026-01-01T00:00:00.000000Z",
            )


def sealed(sizes: list[int]) -> Sealed:
    tables = {"t": TableMeta(pk=("id",), columns={"id": "int", "v": "text"})}
    header = TxHeader(TX, "a", "i", "2026-01-01T00:00:00.000000Z", 5, 4 + len(sizes), 4, tables)
    return Sealed(header, sizes)


@pytest.mark.parametrize("sizes", [[3], [10] * 500, [20_000, 1, 9000], [1, 100_000]])
def test_every_part_is_small_and_the_changes_come_back(sizes: list[int]) -> None:
    tx = sealed(sizes)
    encoded = list(encode_tx(tx, 8192))
    assert all(len(part.body) <= 8192 for part in encoded)
    parts = read_body(b"".join(part.body for part in encoded))
    whole = [part for part in parts if isinstance(part, Part)]
    assert len(whole) == len(parts) == len(encoded)
    changes = list(TxReader(whole[0].header, [part.payload for part in whole]))
    assert [len(msgspec.json.decode(c.after)["v"]) for c in changes] == sizes


def test_an_altered_byte_breaks_one_batch_and_not_its_neighbours() -> None:
    body = next(encode_tx(sealed([3, 4]))).body
    bad = body.replace(b"xxx", b"xyx")
    found = list(read_parts(io.BytesIO(body + bad + body)))
    assert [type(one) for one in found] == [Part, Broken, Part]
    assert isinstance(found[1], Broken)
    assert found[1].raw == bad


@pytest.mark.parametrize(("columns", "kept"), [(10, True), (10_000, False)])
def test_a_description_of_tables_is_remembered_unless_it_is_very_long(columns: int, kept: bool) -> None:
    meta = TableMeta(pk=("c0",), columns={f"c{number}": "int" for number in range(columns)})
    header = TxHeader(TX, "a", "inc", "2026-01-01T00:00:00.000000Z", 1, 1, 0, {"t": meta})
    one, other = (plain_header(header_line(header, 1, 1, 1, None)) for _ in range(2))
    assert one is not None
    assert other is not None
    assert one == other
    assert (one.tables is other.tables) == kept


def _buffered(body: bytes) -> list[Part | Broken]:
    """As a message that was wrapped comes, and a file."""
    return list(read_parts(cast(BinaryIO, io.BufferedReader(io.BytesIO(body)))))  # type: ignore[arg-type,unused-ignore]


def _plain(body: bytes) -> list[Part | Broken]:
    return list(read_parts(io.BytesIO(body)))


@pytest.mark.parametrize("read", [read_body, _buffered, _plain])
@pytest.mark.parametrize("line", [b"\n", b"1\n", b'{"type":"batch"}\n', b'{"type":"end"}\n', b'"\\u0062atch"\n'])
def test_many_lines_that_say_nothing_are_one_stretch_and_cost_next_to_nothing(
    line: bytes, read: Callable[[bytes], list[Part | Broken]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message of 600 bytes unwraps to 16 MiB of them: minutes for the intake, and gigabytes, or a million letters."""
    looks = 0

    class Counting:
        def decode(self, line: bytes) -> Line:
            nonlocal looks
            looks += 1
            return line_type.decode(line)

    monkeypatch.setattr(decode, "line_type", Counting())
    (part,) = encode_tx(sealed([3]), 8192)
    garbage = line * 5_000
    first, broken, last = read(part.body + garbage + part.body)
    assert isinstance(first, Part)
    assert isinstance(last, Part)
    assert isinstance(broken, Broken)
    assert broken.raw == garbage
    assert looks < 20
    after = garbage.count(b"\n") + part.body.count(b"\n") + 1
    assert (broken.line, last.line) == (part.body.count(b"\n") + 1, after)


@pytest.mark.parametrize("read", [read_body, _buffered])
@pytest.mark.parametrize(
    "line", [b"\n", b" \n", b"{}\n", b"x" * 98 + b"\n", b"\\u\n", b'"batch"\n', b"x" * 300 + b"\n"]
)
def test_lines_that_say_nothing_are_not_even_counted_one_by_one(
    line: bytes, read: Callable[[bytes], list[Part | Broken]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """16 MiB of line ends, each looked at alone, took eleven seconds."""
    fed: list[int] = []
    feed = decode._PartReader.feed

    def counting(reader: decode._PartReader, line: bytes, number: int) -> Iterator[Part | Broken]:
        fed.append(number)
        return feed(reader, line, number)

    monkeypatch.setattr(decode._PartReader, "feed", counting)
    garbage = line * (3 * 1024 * 1024 // len(line))
    (part,) = encode_tx(sealed([3]), 8192)
    lines = part.body.count(b"\n")
    broken, last = read(garbage + part.body)
    assert isinstance(broken, Broken)
    assert isinstance(last, Part)
    assert (broken.raw, broken.line, last.line) == (garbage, 1, garbage.count(b"\n") + 1)
    # Of a stream what is at hand at a time may end in the middle of a line, which is then read alone.
    assert len(fed) < 10 + lines + len(garbage) // io.DEFAULT_BUFFER_SIZE


@pytest.mark.parametrize("read", [read_body, _buffered, _plain])
def test_of_too_much_garbage_whole_lines_are_kept(read: Callable[[bytes], list[Part | Broken]]) -> None:
    line = b"x" * 70 + b"\n"
    most = DEFAULT_LIMITS.max_part_bytes
    (part,) = encode_tx(sealed([3]), 8192)
    broken, last = read(line * (most // len(line) + 5_000) + part.body)
    assert isinstance(broken, Broken)
    assert isinstance(last, Part)
    assert broken.raw == line * (most // len(line))


def test_a_message_is_cut_after_each_end_line_however_it_is_written() -> None:
    ends = [b'{"type":"end","x":1}\n', b' \t{ "type" : "end"}\n', b'{"type":"end"']
    body = b"\n\n" + b"".join(b'x {"type":"end"}\n{\n"type":"end"}\n' + end for end in ends)
    found = decode.split_batches(body)
    assert b"".join(found) == body
    assert [piece.endswith(end) for piece, end in zip(found, ends, strict=True)] == [True] * 3
    idle = b"\n" * (decode._AT_ONCE_BYTES + 10)
    assert decode.split_batches(idle + ends[0] + idle) == [idle + ends[0], idle]


def test_a_header_is_found_after_garbage_however_it_is_written() -> None:
    (part,) = encode_tx(sealed([3]), 8192)
    header, rest = part.body.split(b"\n", 1)
    escaped = header.replace(b'"batch"', b'"b\\u0061tch"', 1)
    fields = msgspec.json.decode(header)
    moved = msgspec.json.encode({key: fields[key] for key in reversed(fields)})
    for one in (header, escaped, moved):
        found = read_body(b"x\ny\n" + one + b"\n" + rest)
        assert [item.header is not None for item in found] == [False, True]
