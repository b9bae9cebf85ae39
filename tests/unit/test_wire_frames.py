"""What is wrapped in many pieces: concatenated files are read to their end; what holds next to nothing is refused."""

from __future__ import annotations

import gzip
import io
import struct

import pytest
from backports import zstd

from common.errors import PoisonError, Reason
from common.wire.compress import Encoding, Wrapping, compress, decompress, decompress_at_once, open_decompressed
from tests.support.applying import Origin

SKIPPED = struct.pack("<II", 0x184D2A50, 0)
"""A frame of zstd that holds nothing and says so."""


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_as_many_pieces_as_there_are_batches_are_read(encoding: Encoding) -> None:
    origin = Origin("a")
    batches = [origin.put(number, "x", 1).body for number in range(3_000)]
    wrapped = b"".join(compress(batch, encoding) for batch in batches)
    assert decompress(wrapped, encoding) == b"".join(batches)


@pytest.mark.parametrize(
    ("encoding", "piece"),
    [
        ("gzip", gzip.compress(b"", mtime=0)),
        ("gzip", gzip.compress(b" ", mtime=0)),
        ("zstd", zstd.compress(b"")),
        ("zstd", zstd.compress(b" ")),
        ("zstd", SKIPPED),
    ],
)
def test_pieces_that_hold_next_to_nothing_are_refused_soon(encoding: Encoding, piece: bytes) -> None:
    raw = io.BytesIO(piece * 200_000)
    with pytest.raises(PoisonError, match="next to nothing") as refused:
        open_decompressed(raw, encoding, 200_000 * len(piece)).read()
    assert refused.value.reason is Reason.LIMIT
    # Each takes its time, whatever it holds: it is not what was read that costs, but how many of them.
    assert raw.tell() < 100_000


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
@pytest.mark.parametrize("cut", [1, 5, 20])
def test_what_is_torn_is_told_wherever_it_is_torn(encoding: Encoding, cut: int) -> None:
    one = compress(b"x" * 5_000 + bytes(range(256)) * 40, encoding)
    for bad in (one[:-cut], one + one[:-cut], one + one[:cut], one + b"garbage"):
        with pytest.raises(PoisonError) as refused:
            decompress(bad, encoding)
        assert refused.value.reason is Reason.CHECKSUM


def test_zeros_behind_a_gzip_file_are_padding() -> None:
    assert decompress(gzip.compress(b"one") + bytes(100_000) + gzip.compress(b"two") + bytes(7), "gzip") == b"onetwo"


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
@pytest.mark.parametrize("size", [1, 7, 4096])
def test_it_is_read_in_pieces_of_any_size(encoding: Encoding, size: int) -> None:
    text = b"".join(b"%d," % number for number in range(20_000))
    stream = open_decompressed(io.BytesIO(compress(text, encoding) + compress(text, encoding)), encoding, 10_000)
    assert b"".join(iter(lambda: stream.read(size), b"")) == text * 2


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_at_once_goes_what_is_whole_and_not_large(encoding: Encoding) -> None:
    body = bytes(range(256)) * 1000
    assert decompress_at_once(compress(body, encoding, quick=True), encoding) == body
    assert decompress_at_once(compress(body, encoding) * 2, encoding) == body * 2
    assert decompress_at_once(compress(body, encoding)[:-1], encoding) is None
    assert decompress_at_once(compress(body, encoding) + b"more", encoding) is None
    assert decompress_at_once(b"", encoding) == b""
    assert decompress_at_once(compress(body * 40, encoding), encoding) is None, "ten megabytes are read in pieces"
    assert decompress_at_once(body, None) is body
    assert decompress_at_once(compress(body, encoding), "br") is None


ZEROS = bytes(40_000_000)


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
@pytest.mark.parametrize("quick", [True, False])
def test_what_this_node_wraps_is_never_taken_for_a_bomb(encoding: Encoding, quick: bool) -> None:
    wrapped = compress(ZEROS, encoding, quick=quick)
    assert decompress(wrapped, encoding) == ZEROS
    assert len(wrapped) < len(ZEROS) / 900, "what is added is no more than it takes"
    with pytest.raises(PoisonError):
        decompress((gzip.compress if encoding == "gzip" else zstd.compress)(ZEROS * 2), encoding)


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_nor_is_a_stream_that_it_wraps(encoding: Encoding) -> None:
    wrapping = Wrapping(encoding)
    wrapped = b"".join([*(wrapping.add(ZEROS[:1_000_000]) for _ in range(40)), wrapping.end()])
    assert decompress(wrapped, encoding) == ZEROS
    assert (gzip.decompress if encoding == "gzip" else zstd.decompress)(wrapped) == ZEROS, "others read it too"
    small = Wrapping(encoding)
    assert decompress(small.add(b"one") + small.add(b"two") + small.end(), encoding) == b"onetwo"
