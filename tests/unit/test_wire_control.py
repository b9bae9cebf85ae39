"""Lines beside batches: read, left where they are not known, and never taken for what is damaged."""

from __future__ import annotations

import pytest

from common.wire.control import Gone, Request, Unknown, control_lines, encode_control
from common.wire.decode import Broken, read_body

REQUEST = Request(
    from_node="b", to_node="a", incarnation="i1", after_lsn=3, until_lsn=9, asked_at="2026-01-01T00:00:00Z"
)
GONE = Gone(from_node="a", to_node="b", incarnation="i1", after_lsn=3, until_lsn=9)


def test_they_come_back() -> None:
    assert control_lines(encode_control(REQUEST) + encode_control(GONE)) == [REQUEST, GONE]


def test_unknown_keys_are_ignored() -> None:
    assert control_lines(encode_control(GONE).replace(b'"from_node"', b'"new":[1],"from_node"')) == [GONE]


@pytest.mark.parametrize(
    ("line", "unknown"),
    [
        (b'{"type":"greeting","format":"rowferry/1","text":"hello"}\n', Unknown("greeting", "rowferry/1")),
        (b'{"format":"rowferry/1.7","type":"greeting"}\n', Unknown("greeting", "rowferry/1.7")),
        (b'{"type":"request","format":"rowferry/2"}\n', Unknown("request", "rowferry/2")),
    ],
)
def test_what_a_later_release_says_is_known_as_such(line: bytes, unknown: Unknown) -> None:
    assert control_lines(line) == [unknown]


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"garbage\n",
        b'{"type":"greeting"}\n',
        b'{"type":"greeting","format":"other/1"}\n',
        b'{"type":"greeting","format":"rowferry/1"}',
        b'{"type":"greeting","format":"rowferry/1","text":"\xff"}\n',
        b'{"type":"greeting","format":"rowferry/1"}\ngarbage\n',
        b'{"type":"batch","format":"rowferry/1"}\n',
        b'{"type":"end","format":"rowferry/1"}\n',
        b'{"type":"greeting","format":"rowferry/1","text":"' + b"x" * 70_000 + b'"}\n',
        b'{"type":"greeting","format":"rowferry/1","deep":' + b"[" * 5_000 + b"]" * 5_000 + b"}\n",
        encode_control(REQUEST).replace(b'"after_lsn":3', b'"after_lsn":-3'),
        encode_control(REQUEST).replace(b'"after_lsn":3', b'"after_lsn":9223372036854775808'),
        encode_control(REQUEST).replace(b'"to_node":"a"', b'"to_node":"../a"'),
        encode_control(REQUEST).replace(b'"to_node":"a"', b'"to_node":"a\\n"'),
        encode_control(GONE).replace(b',"until_lsn":9', b""),
    ],
)
def test_what_is_damaged_is_none(raw: bytes) -> None:
    assert control_lines(raw) is None


def test_to_who_reads_batches_they_are_broken() -> None:
    """As a file's preflight sees it, and a release that knew none of them."""
    (found,) = read_body(encode_control(REQUEST))
    assert isinstance(found, Broken)
    assert (found.header, found.raw) == (None, encode_control(REQUEST))


def test_more_of_them_than_anybody_sends_is_none() -> None:
    line = encode_control(REQUEST)
    most = 1024 * 1024 // len(line)
    assert len(control_lines(line * most) or ()) == most
    assert control_lines(line * (most + 1)) is None
