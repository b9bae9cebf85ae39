"""Whatever a tx holds and however it is cut, wrapped and joined, the same change lines come out, or an error does."""

import base64
import io
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import PoisonError, Reason
from common.versions import NEVER, Version
from common.wire import headers
from common.wire.changes import TxReader
from common.wire.compress import compress, decompress
from common.wire.decode import Broken, read_body, read_parts
from common.wire.encode import encode_change, encode_tx
from common.wire.limits import Limits
from common.wire.records import Change, Part, TableMeta, TxHeader

values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.text(max_size=200),
    st.floats(allow_nan=False, allow_infinity=False),
)
images = st.dictionaries(st.text(min_size=1, max_size=12), values, max_size=5)
changes = st.lists(st.tuples(st.sampled_from("IUD"), images, st.integers(0, 9_000)), max_size=25)


@dataclass
class Sealed:
    header: TxHeader
    content: list[bytes]

    def lines(self) -> Iterator[bytes]:
        return iter(self.content)


def sealed(specs: list[tuple[str, dict[str, Any], int]], number: int = 1, table: str = "t") -> Sealed:
    tx_id = f"0192f000-0000-7000-8000-{number:012x}"
    content = []
    for lsn, (op, image, weight) in enumerate(specs, start=1):
        body = msgspec.json.encode({**image, "id": lsn, "padding": "y" * weight})
        content.append(
            encode_change(
                lsn=lsn,
                tx_id=tx_id,
                table=table,
                op=op,
                pk=b'{"id":%d}' % lsn,
                before=None if op == "I" else body,
                after=None if op == "D" else body,
                version=Version(0, lsn, "a"),
                base=NEVER if op != "I" else None,
                captured_at="2026-01-01T00:00:00.000000Z",
            )
        )
    meta = TableMeta(pk=("id",), columns={"id": "int"})
    header = TxHeader(
        tx_id, "a", "i1", "2026-01-01T00:00:00.000000Z", 1, max(len(specs), 1), 0, {table: meta}, grouped=True
    )
    return Sealed(header, content)


def parts_of(found: list[Part | Broken]) -> list[Part]:
    whole = [one for one in found if isinstance(one, Part)]
    assert len(whole) == len(found), found
    return whole


def read_back(parts: list[Part]) -> list[Change]:
    return list(TxReader(parts[0].header, [part.payload for part in parts]))


@given(changes, st.integers(1_500, 20_000))
def test_a_tx_comes_back_however_it_is_cut(specs: list[tuple[str, dict[str, Any], int]], size: int) -> None:
    tx = sealed(specs)
    encoded = list(encode_tx(tx, size))
    parts = parts_of(read_body(b"".join(one.body for one in encoded)))
    back = read_back(parts)
    assert [change.op for change in back] == [op for op, _, _ in specs]
    expected = [msgspec.json.decode(line, type=Change) for line in tx.content]
    assert [(bytes(c.before), bytes(c.after), c.version, c.base) for c in back] == [
        (bytes(c.before), bytes(c.after), c.version, c.base) for c in expected
    ]
    assert sum(part.header.changes for part in parts) == len(specs)
    assert {part.header.parts for part in parts} == {len(parts)}


@given(changes)
def test_every_way_of_cutting_has_the_same_content_checksum(specs: list[tuple[str, dict[str, Any], int]]) -> None:
    digests = set()
    for size in (1_500, 6_000, 4_000_000):
        parts = parts_of(read_body(b"".join(one.body for one in encode_tx(sealed(specs), size))))
        reader = TxReader(parts[0].header, [part.payload for part in parts])
        list(reader)
        digests.add(reader.content_sha256)
    assert len(digests) == 1


@given(changes, st.randoms(use_true_random=False), st.sampled_from(["cut", "flip", "drop-line", "swap-lines"]))
def test_no_damage_goes_unnoticed(specs: list[tuple[str, dict[str, Any], int]], dice: random.Random, how: str) -> None:
    body = next(encode_tx(sealed(specs))).body
    damaged = _damage(body, dice, how)
    if damaged == body:
        return
    found = read_body(damaged)
    assert not [one for one in found if isinstance(one, Part)] or not damaged


def _damage(body: bytes, dice: random.Random, how: str) -> bytes:
    if how == "cut":
        return body[: dice.randrange(len(body))]
    if how == "flip":
        place = dice.randrange(len(body))
        return body[:place] + bytes([body[place] ^ (1 << dice.randrange(8))]) + body[place + 1 :]
    lines = body.splitlines(keepends=True)
    place = dice.randrange(len(lines))
    if how == "drop-line":
        return b"".join(lines[:place] + lines[place + 1 :])
    lines[place], lines[-1 - place] = lines[-1 - place], lines[place]
    return b"".join(lines)


pieces = st.one_of(
    st.builds(
        lambda specs, size: b"".join(one.body for one in encode_tx(sealed(specs), size)), changes, st.just(2_500)
    ),
    st.builds(
        lambda specs, dice, how: _damage(next(encode_tx(sealed(specs))).body, dice, how),
        changes,
        st.randoms(use_true_random=False),
        st.sampled_from(["cut", "flip", "drop-line", "swap-lines"]),
    ),
    st.binary(max_size=50),
    st.just(b"\n"),
)


@given(st.lists(pieces, max_size=5))
def test_bytes_read_at_one_look_and_line_by_line_tell_the_same(found: list[bytes]) -> None:
    body = b"".join(found)
    assert [shown(one) for one in read_body(body)] == [shown(one) for one in read_parts(io.BytesIO(body))]


def shown(one: Part | Broken) -> object:
    return one if isinstance(one, Part) else (one.error.reason, str(one.error), one.raw, one.line, one.header)


HEADER: dict[str, Any] = {
    "type": "batch",
    "format": "rowferry/1",
    "tx_id": "0192f000-0000-7000-8000-000000000001",
    "source_node": "a",
    "incarnation": "i",
    "exported_at": "2026-01-01T00:00:00.000000Z",
    "from_lsn": 5,
    "to_lsn": 6,
    "prev_lsn": 4,
    "changes": 2,
    "part": 1,
    "parts": 1,
    "tables": {"t": {"pk": ["id"], "columns": {"id": "int", "ü": "text"}}},
}
odd_values = st.one_of(
    st.sampled_from(
        [None, True, "", "a\n", "rowferry/1.7", "rowferry/2", -1, 0, 1, 1.0, 2**63, "x" * 65, [], ["f"], {}]
    ),
    st.sampled_from([{"t": {"pk": [], "columns": {}}}, {"": {"pk": ["a"], "columns": {"a": "int"}}}, "0" * 64]),
)


@given(
    st.dictionaries(st.sampled_from([*HEADER, "grouped", "tx_sha256", "requires", "later"]), odd_values, max_size=3),
    st.sets(st.sampled_from(sorted(HEADER)), max_size=1),
)
def test_a_plain_header_is_what_the_model_reads(odd: dict[str, Any], left_out: set[str]) -> None:
    line = msgspec.json.encode({key: value for key, value in {**HEADER, **odd}.items() if key not in left_out})
    plain = headers.plain_header(line)
    if plain is None:
        return
    model = headers.read_model(line)
    assert {name: getattr(plain, name) for name in plain.__struct_fields__} == {
        name: getattr(model, name) for name in plain.__struct_fields__
    }


@pytest.mark.parametrize("value", [b"1e400", b"9" * 5_000, b'{"a":[-1e999]}'])
@pytest.mark.parametrize("odd", [{}, {"format": "rowferry/1.1"}, {"part": None}])
def test_what_a_later_release_says_in_a_header_is_stepped_over(odd: dict[str, Any], value: bytes) -> None:
    said = {key: odd.get(key, known) for key, known in HEADER.items()}
    known = msgspec.json.encode({key: one for key, one in said.items() if one is not None})
    header = headers.read_header(known[:-1] + b',"later":' + value + b"}")
    assert (header.tx_id, header.parts) == (HEADER["tx_id"], 1)


@pytest.mark.parametrize("odd", [{"format": "rowferry/1.\u0661"}, {"grouped": "yes"}, {"grouped": 1}])
def test_what_only_looks_like_a_header_is_none(odd: dict[str, Any]) -> None:
    with pytest.raises(PoisonError) as refused:
        headers.read_header(msgspec.json.encode(HEADER | odd))
    assert refused.value.reason is Reason.FORMAT


def test_the_header_of_this_release_is_plain() -> None:
    assert headers.plain_header(msgspec.json.encode(HEADER).replace("ü".encode(), b"u")) is not None


@given(st.binary(max_size=400))
def test_any_bytes_are_read_without_a_crash(noise: bytes) -> None:
    assert all(isinstance(one, Broken) for one in read_body(noise))
    good = next(encode_tx(sealed([("I", {}, 1)]))).body
    found = list(read_parts(io.BytesIO(noise + b"\n" + good)))
    assert isinstance(found[-1], Part)


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_wrapped_bytes_come_back_and_a_bomb_is_stopped(encoding: Any) -> None:
    body = next(encode_tx(sealed([("I", {}, 5_000)] * 20))).body
    assert decompress(compress(body, encoding), encoding) == body
    with pytest.raises(PoisonError) as torn:
        decompress(compress(body, encoding)[:-9], encoding)
    assert torn.value.reason is Reason.CHECKSUM
    bomb = compress(b"\0" * 40_000_000, encoding)
    with pytest.raises(PoisonError) as stopped:
        decompress(bomb, encoding, Limits(max_ratio=10))
    assert stopped.value.reason is Reason.LIMIT


@pytest.mark.parametrize("odd", [{"lsn": 999}, {"type": "zzz"}])
def test_chunks_come_to_the_change_that_they_are_said_to_be_of(odd: dict[str, Any]) -> None:
    part = parts_of(read_body(next(encode_tx(sealed([("I", {"v": 1}, 9)]))).body))[0]
    line = msgspec.json.decode(part.payload)
    lsn = line["lsn"]

    def read(whole: dict[str, Any]) -> list[Change]:
        data = base64.b64encode(msgspec.json.encode(whole) + b"\n").decode()
        chunk = {"type": "chunk", "lsn": lsn, "n": 0, "last": True, "data": data}
        return list(TxReader(part.header, [msgspec.json.encode(chunk) + b"\n"]))

    assert [one.lsn for one in read(line)] == [lsn]
    with pytest.raises(PoisonError, match=f"lsn {lsn}: its chunks come to"):
        read(line | odd)


def test_parts_of_two_txs_do_not_make_one() -> None:
    one = parts_of(read_body(b"".join(p.body for p in encode_tx(sealed([("I", {"v": 1}, 900)] * 9), 3_000))))
    two = parts_of(read_body(b"".join(p.body for p in encode_tx(sealed([("I", {"v": 2}, 900)] * 9), 3_000))))
    assert len(one) > 1
    with pytest.raises(PoisonError) as caught:
        list(TxReader(one[0].header, [one[0].payload, *(part.payload for part in two[1:])]))
    assert caught.value.reason is Reason.CHECKSUM
