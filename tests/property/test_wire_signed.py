"""Signed bytes: whoever alters any bit of them, sums made anew or not, is refused; and signing changes nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import Reason
from common.transports.directory.acks import Acks, BrokenAcksError, read_acks, write_acks
from common.wire.control import Gone, Heartbeat, Request, Said, encode_control, said_in
from common.wire.decode import Broken, read_body
from common.wire.plain import NotPlainError, plain_txs
from common.wire.records import Part
from common.wire.signing import BadKeyError, Purpose, Signer, Trust, key_id, new_private_key
from tests.docs.test_wire_schema import HEARTBEAT
from tests.support.applying import Origin, item, resealed

KEY, OTHER = Signer(new_private_key()), Signer(new_private_key())
TRUST = Trust({"a": [OTHER.public, KEY.public]}, required=True)
"""Everybody must sign: who speaks under another name is refused too."""
TX = Origin("a").tx(item(1, "one", 10), item(2, "two", 11))
SIGNED = TX.signed(KEY)
REQUEST = Request(from_node="a", to_node="b", incarnation="i", after_lsn=1, until_lsn=9, asked_at="2026-01-01")
GONE = Gone(from_node="a", to_node="b", incarnation="i", after_lsn=1, until_lsn=9)


def believed(body: bytes) -> list[bytes]:
    """What of `body` is taken for what a node has said, by both readings; they agree."""
    found = []
    for one in read_body(body):
        if isinstance(one, Part):
            source = one.header.source_node
            if TRUST.fault(source, Purpose.BATCH, one.sha256, one.proof) is None:
                found.append(one.payload)
    with suppress(NotPlainError):
        plain = list(plain_txs(body))
        faults = [TRUST.fault(tx.header.source_node, Purpose.BATCH, tx.batch_sha256, tx.proof) for tx in plain]
        assert len(found) == faults.count(None)
    return found


def test_what_is_signed_is_believed_with_any_known_key_and_is_the_same_bytes_again() -> None:
    assert TX.signed(KEY) == SIGNED
    assert believed(SIGNED) == believed(TX.signed(OTHER)) != []
    assert read_body(SIGNED)[0].payload == read_body(TX.body)[0].payload  # type: ignore[union-attr]
    large = Origin("a").tx(*(item(number, "x" * 300, number + 1) for number in range(60)))
    parts = large.parts(4096, KEY)
    assert len(parts) > 2
    assert all(len(part) <= 4096 for part in parts)
    assert len(believed(b"".join(parts))) == len(parts)


def test_any_bit_turned_is_refused() -> None:
    for altered in turned(SIGNED):
        assert believed(altered) == []


def test_any_bit_turned_is_refused_with_a_right_sum_too() -> None:
    *lines, end = SIGNED.splitlines(keepends=True)
    for altered in turned(b"".join(lines)):
        if altered.endswith(b"\n"):
            assert believed(resealed(altered + end, b"", b"")) == []


def turned(body: bytes) -> Iterator[bytes]:
    """Every way to turn one bit."""
    for place in range(len(body)):
        for bit in range(8):
            yield body[:place] + bytes([body[place] ^ (1 << bit)]) + body[place + 1 :]


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        ({"key": None, "signature": None}, Reason.UNSIGNED),
        ({"signature": None}, Reason.UNSIGNED),
        ({"key": "0" * 16}, Reason.UNKNOWN_KEY),
        ({"key": OTHER.key_id}, Reason.BAD_SIGNATURE),
        ({"signature": "x"}, Reason.BAD_SIGNATURE),
        ({"signature": "A" * 86 + "=="}, Reason.BAD_SIGNATURE),
        ({"signature": "é" * 88}, Reason.BAD_SIGNATURE),
    ],
)
def test_the_reason_tells_what_is_wrong(end: dict[str, str | None], reason: Reason) -> None:
    *lines, last = SIGNED.splitlines(keepends=True)
    fields = {name: value for name, value in (json.loads(last) | end).items() if value is not None}
    (part,) = read_body(b"".join(lines) + json.dumps(fields).encode() + b"\n")
    assert isinstance(part, Part)
    fault = TRUST.fault("a", Purpose.BATCH, part.sha256, part.proof)
    assert fault is not None
    assert fault.reason is reason


@pytest.mark.parametrize("key", [5, ["x"], {"k": 1}])
def test_a_key_that_is_no_text_breaks_the_batch(key: object) -> None:
    *lines, last = SIGNED.splitlines(keepends=True)
    body = b"".join(lines) + json.dumps(json.loads(last) | {"key": key}).encode() + b"\n"
    assert all(isinstance(one, Broken) for one in read_body(body))


def test_who_has_to_sign() -> None:
    nobody, one = Trust({}, required=False), Trust({"a": [KEY.public]}, required=False)
    assert [trust.asks(name) for trust in (nobody, one, TRUST) for name in ("a", "A", "b")] == [
        *(False, False, False),
        *(True, True, False),
        *(True, True, True),
    ]
    (part,) = read_body(SIGNED)
    assert isinstance(part, Part)
    assert TRUST.proves("a", Purpose.BATCH, part.sha256, part.proof)
    assert not nobody.proves("a", Purpose.BATCH, part.sha256, part.proof)
    # What is good for one thing is good for nothing else.
    assert TRUST.fault("a", Purpose.SAYING, part.sha256, part.proof) is not None


@pytest.mark.parametrize("control", [REQUEST, GONE, HEARTBEAT])
def test_what_is_said_beside_batches_is_signed_too(control: Request | Gone | Heartbeat) -> None:
    line = encode_control(control, KEY)
    (said,) = said_in(line) or ()
    assert said.what == control
    assert is_believed(said)
    (unsigned,) = said_in(encode_control(control)) or ()
    assert not is_believed(unsigned)
    assert unsigned.sha256 == said.sha256


@given(st.data())
def test_any_bit_turned_in_it_is_refused(data: st.DataObject) -> None:
    line = bytearray(encode_control(data.draw(st.sampled_from([REQUEST, GONE, HEARTBEAT])), KEY))
    bit = data.draw(st.integers(0, len(line) * 8 - 1))
    line[bit // 8] ^= 1 << (bit % 8)
    for said in said_in(bytes(line)) or ():
        assert not is_believed(said)


def is_believed(said: Said) -> bool:
    """Tell whether it is taken for node a's."""
    return getattr(said.what, "sender", None) == "a" and not TRUST.fault("a", Purpose.SAYING, said.sha256, said.proof)


def test_acks_are_signed(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    acks = Acks("a", {("c", "i1"): 7, ("b", "i2"): 9}, 5)
    write_acks(tmp_path, acks, 1, KEY)
    assert read_acks(tmp_path, "a", TRUST) == read_acks(tmp_path, "a") == acks
    file = tmp_path / "a" / "acks.json"
    written = file.read_text()
    for old, new in (
        ("7", "8"),
        ('"c"', '"d"'),
        (KEY.key_id, OTHER.key_id),
        ('"read_until_ns": 5', '"read_until_ns": 6'),
    ):
        assert old in written
        file.write_text(written.replace(old, new))
        with pytest.raises(BrokenAcksError):
            read_acks(tmp_path, "a", TRUST)
    put_back = Acks("a", acks.passed, 5, {("c", "i1"): 11}, {("c", "i1"): "0192"})
    for old, new in (("11", "12"), ("0192", "0193")):
        write_acks(tmp_path, put_back, 1, KEY)
        assert read_acks(tmp_path, "a", TRUST) == put_back
        file.write_text(file.read_text().replace(old, new))
        with pytest.raises(BrokenAcksError):
            read_acks(tmp_path, "a", TRUST)
    write_acks(tmp_path, acks, 1)
    with pytest.raises(BrokenAcksError, match="not signed"):
        read_acks(tmp_path, "a", TRUST)
    assert "key" not in json.loads(file.read_text())


@pytest.mark.parametrize(
    "text",
    ["", "x", "ed25519:AAAA", KEY.public + "=", KEY.public[:-2] + "B="],
    ids=["nothing", "no-key", "short", "padded", "spelled-otherwise"],
)
def test_what_is_no_key_is_refused(text: str) -> None:
    with pytest.raises(BadKeyError):
        key_id(text)
    with pytest.raises(BadKeyError):
        Signer(text)
