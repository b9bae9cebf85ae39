"""What is read at one look is what is read line by line; whatever happened to the bytes, it is that or nothing."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import PoisonError
from common.versions import Version
from common.wire.changes import TxReader
from common.wire.decode import read_body
from common.wire.plain import NotPlainError, plain_txs
from common.wire.records import Part
from tests.support.applying import Origin, Tx, Write, item, resealed


def read_closely(body: bytes) -> list[tuple[Any, ...]] | None:
    """Read as the long way does; None where something is wrong."""
    found: list[tuple[Any, ...]] = []
    for part in read_body(body):
        if not isinstance(part, Part):
            return None
        reader = TxReader(part.header, [part.payload])
        try:
            changes = list(reader)
        except PoisonError:
            return None
        rows = [(c.lsn, c.op, c.table, bytes(c.pk), c.version, c.base, bytes(c.after), c.resolves) for c in changes]
        found.append((part.header.tx_id, dict(part.header.tables), reader.content_sha256, rows))
    return found


def read_plainly(body: bytes) -> list[tuple[Any, ...]] | None:
    try:
        txs = list(plain_txs(body))
    except NotPlainError:
        return None
    return [
        (
            tx.header.tx_id,
            dict(tx.tables),
            tx.sha256,
            [(c.lsn, c.op, c.table, bytes(c.pk), c.version, c.base, bytes(c.after), c.resolves) for c in tx.changes],
        )
        for tx in txs
    ]


def message() -> tuple[list[Tx], bytes]:
    origin = Origin("a")
    txs = [
        origin.put(1, "one", 10),
        origin.tx(item(1, 'quoted \n{"type":"end",', 20, Version(0, 10, "a"), "U"), item(2, "ü", 21)),
        origin.tx(item(2, "ü", 30, Version(0, 21, "a"), "D")),
        origin.tx(Write("I", "code", {"id": 5, "code": "x"}, 40)),
    ]
    return txs, b"".join(tx.body for tx in txs)


def test_a_message_of_this_release_is_read_at_one_look() -> None:
    txs, body = message()
    found = read_plainly(body)
    assert found == read_closely(body)
    assert found is not None
    assert [one[0] for one in found] == [tx.tx_id for tx in txs]


@given(st.randoms(use_true_random=False), st.sampled_from(["flip", "cut", "drop", "double", "swap"]))
def test_altered_bytes_are_read_so_or_not_at_all(chance: random.Random, how: str) -> None:
    _, body = message()
    at = chance.randrange(len(body))
    lines = body.splitlines(keepends=True)
    place = chance.randrange(len(lines))
    match how:
        case "flip":
            altered = body[:at] + bytes([body[at] ^ (1 << chance.randrange(8))]) + body[at + 1 :]
        case "cut":
            altered = body[:at]
        case "drop":
            altered = b"".join(lines[:place] + lines[place + 1 :])
        case "double":
            altered = b"".join([*lines[: place + 1], *lines[place:]])
        case _:
            other = chance.randrange(len(lines))
            lines[place], lines[other] = lines[other], lines[place]
            altered = b"".join(lines)
    plainly = read_plainly(altered)
    assert plainly is None or plainly == read_closely(altered)


LIES = [
    (b'"changes":1', b'"changes":2'),
    (b'"parts":1', b'"parts":2'),
    (b'"part":1,"parts":1', b'"part":1,"parts":1,"requires":["later"]'),
    (b'"from_lsn":1', b'"from_lsn":0'),
    (b'"to_lsn":1', b'"to_lsn":7'),
    (b'"lsn":1', b'"lsn":9'),
    (b'"source_node":"a"', b'"source_node":"a b"'),
    (b'"format":"rowferry/1"', b'"format":"rowferry/2"'),
    (b'{"type":"change"', b'{"type":"chunk"'),
    (b'{"type":"change"', b' {"type":"change"'),
    (b'{"type":"change",', b"{"),
    (b'"tx_id":"0', b'"tx_id":"g'),
    (b'"tx_id":"', b'"tx_id":" '),
    (b'"table":"item"', b'"table":"item","type":"end"'),
    (b'"table":"item"', b'"table":"other"'),
    (b'"op":"I"', b'"op":"DDL"'),
    (b'"pk":{"id":1}', b'"pk":[1]'),
    (b'"name":"one"', b'"name":"\xff"'),
    (b'"version":[0,10,"a"]', b'"version":[0,10]'),
    (b'"captured_at":"', b'"captured_at":5,"":"'),
    (b'"op":"I"', b'"op":"I","sql":5'),
]


@pytest.mark.parametrize(("old", "new"), LIES, ids=[new.decode(errors="replace") for _, new in LIES])
def test_what_a_sender_says_wrongly_is_no_plainer_than_it_is(old: bytes, new: bytes) -> None:
    body = resealed(Origin("a").put(1, "one", 10).body, old, new)
    assert old in Origin("a").put(1, "one", 10).body
    plainly = read_plainly(body)
    assert plainly is None or plainly == read_closely(body)


def test_as_many_changes_as_lines_are_not_yet_a_change_a_line() -> None:
    """One line holds two of them, and two lines one; each opens as a change does."""
    origin = Origin("a")
    body = origin.tx(item(1, "one", 10), item(2, "two", 11), item(3, "three", 12)).body
    header, one, two, three, end, _ = body.split(b"\n")
    split = two[:-1] + b',"later":\n{"type":"change",' + b'"x":1}}'
    crafted = b"\n".join([header, one + three.replace(b'"lsn":3', b'"lsn":2'), split.replace(b'"lsn":2', b'"lsn":3')])
    altered = resealed(crafted + b"\n" + end + b"\n", b"", b"")
    assert read_plainly(body) is not None
    assert read_plainly(altered) is None
    assert read_closely(altered) is None
