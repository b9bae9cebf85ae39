"""Lines that nest: the same answer whoever reads them, however deep his own stack is."""

from __future__ import annotations

import hashlib
import io
import json
import sys
from collections.abc import Callable

import pytest

from common.errors import Reason
from common.wire.changes import TxReader
from common.wire.decode import Broken, read_body, read_parts
from common.wire.depth import MAX_DEPTH, nests_too_deep
from common.wire.plain import NotPlainError, plain_txs
from common.wire.records import Part

TX = "0192f000-0000-7000-8000-000000000001"
HEADER = {
    "type": "batch",
    "format": "rowferry/1",
    "tx_id": TX,
    "source_node": "a",
    "incarnation": "i",
    "exported_at": "2026-01-01T00:00:00.000000Z",
    "from_lsn": 1,
    "to_lsn": 1,
    "prev_lsn": 0,
    "changes": 1,
    "part": 1,
    "parts": 1,
    "tables": {"t": {"pk": ["id"], "columns": {"id": "int"}}},
}
CHANGE = {
    "type": "change",
    "lsn": 1,
    "tx_id": TX,
    "table": "t",
    "op": "I",
    "pk": {"id": 1},
    "before": None,
    "after": {"id": 1},
    "version": [0, 5, "a"],
    "base": None,
    "captured_at": "2026-01-01T00:00:00.000000Z",
}


def line(content: object, beside: bytes = b"") -> bytes:
    return json.dumps(content, separators=(",", ":")).encode()[:-1] + beside + b"}\n"


def nested(levels: int) -> bytes:
    """A key that nobody knows, in a line: as deep as `levels`, the line's own object among them."""
    return b',"u":' + b"[" * (levels - 1) + b"]" * (levels - 1)


def batch(header: bytes = b"", change: bytes = b"", end: bytes = b"") -> bytes:
    body = line(HEADER, header) + line(CHANGE, change)
    return body + line({"type": "end", "tx_id": TX, "changes": 1, "sha256": hashlib.sha256(body).hexdigest()}, end)


def read_from(stack: int, body: bytes) -> list[Part | Broken]:
    """Read with `stack` frames of somebody else's above."""
    return read_from(stack - 1, body) if stack else read_body(body)


@pytest.mark.parametrize("place", ["header", "change", "end"])
@pytest.mark.parametrize("read", [read_body, lambda body: list(read_parts(io.BytesIO(body)))], ids=["body", "file"])
def test_up_to_the_limit_a_line_is_taken_and_beyond_it_none(
    place: str, read: Callable[[bytes], list[Part | Broken]]
) -> None:
    (taken,) = read(batch(**{place: nested(MAX_DEPTH)}))
    assert isinstance(taken, Part)
    assert [change.lsn for change in TxReader(taken.header, [taken.payload])] == [1]
    for levels in (MAX_DEPTH + 1, 5_000, 200_000):
        found = read(batch(**{place: nested(levels)}))
        broken = [one for one in found if isinstance(one, Broken)]
        assert len(found) == len(broken) > 0
        assert (broken[0].error.reason, str(MAX_DEPTH) in str(broken[0].error)) == (Reason.LIMIT, True)


@pytest.mark.parametrize("place", ["header", "change", "end"])
@pytest.mark.parametrize("levels", [MAX_DEPTH, sys.getrecursionlimit() - 150])
def test_the_readers_own_stack_changes_nothing(place: str, levels: int) -> None:
    body = batch(**{place: nested(levels)})
    kinds = {tuple(type(one) for one in read_from(stack, body)) for stack in (0, 300, 600)}
    assert len(kinds) == 1


def test_a_message_that_nests_is_not_plain() -> None:
    assert len(list(plain_txs(batch(change=nested(MAX_DEPTH))))) == 1
    with pytest.raises(NotPlainError):
        list(plain_txs(batch(change=nested(MAX_DEPTH + 1))))


@pytest.mark.parametrize(
    "beside",
    [
        b',"u":"' + b"[" * 500 + b'"',
        b',"u":"\\"' + b"{" * 500 + b'\\\\"',
        b',"u":[' + b"[]," * 500 + b"[]]",
    ],
    ids=["in a string", "behind escapes", "beside each other"],
)
def test_brackets_that_nest_nothing_are_no_depth(beside: bytes) -> None:
    assert not nests_too_deep(batch(change=beside))
    (taken,) = read_body(batch(change=beside))
    assert isinstance(taken, Part)


def test_an_end_line_that_is_no_utf_8_is_no_end() -> None:
    for read in (read_body, lambda body: list(read_parts(io.BytesIO(body)))):
        (broken,) = read(batch(end=b',"u":"\xff"'))
        assert isinstance(broken, Broken)
        assert broken.error.reason is Reason.FORMAT
