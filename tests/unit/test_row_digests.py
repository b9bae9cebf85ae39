"""Digests are the same in every release and on every database: nodes that compare themselves may differ in both."""

from __future__ import annotations

import pytest

from common.errors import PoisonError
from common.versions import NEVER, Version
from common.wire.forms import Form, form_of
from common.wire.row_digests import MOST_BITS, ROWS_A_CHUNK, Chunk, RowForm, Sums, bits_for, chunk_of

POSTGRESQL = {"id": "int", "name": "text", "price": "decimal", "at": "timestamptz", "raw": "bytes", "doc": "json"}
SQLITE = POSTGRESQL | {"price": "float", "at": "text"}
FORMS = {name: form_of(logical) for name, logical in POSTGRESQL.items()}
ON_POSTGRESQL = (
    b'{"id":7,"name":"\xc3\xa4","price":"1.50","at":"2026-11-23T07:00:00+00:00","raw":"AAE=","doc":"{\\"a\\": 1.0}"}'
)
ON_SQLITE = b'{"doc":"{\\"a\\":1}","raw":"AAE=","at":"2026-11-23 09:00:00+02:00","price":1.5,"name":"\xc3\xa4","id":7}'
KEY = "7ce76f7ac73316c27bd96080a3ff8ad1"
VALUES = "35c54c7e29a881f67ce95c416b3324b8"
SUM = "f7ec5c8000f4421087bfe1b047c83bac"


def test_what_a_row_s_digests_are_never_changes() -> None:
    """Should this fail, nodes of this release and of the one before find all rows different."""
    for columns, image in ((POSTGRESQL, ON_POSTGRESQL), (SQLITE, ON_SQLITE)):
        form = RowForm(("id",), columns, FORMS)
        assert form.key(b'{"id":7}').hex() == KEY
        assert form.values(image).hex() == VALUES
    sums = Sums()
    sums.add(bytes.fromhex(KEY), Version(1, 1763888400000000, "store-042"), bytes.fromhex(VALUES))
    assert sums.chunks(0) == {0: Chunk(1, 0, SUM)}


def test_a_table_is_cut_into_chunks_of_some_hundred_rows() -> None:
    assert [bits_for(count) for count in (0, 1, ROWS_A_CHUNK, ROWS_A_CHUNK + 1, 200_000, 10**9)] == [
        0,
        0,
        0,
        1,
        9,
        MOST_BITS,
    ]


def test_a_coarser_cut_has_the_sums_of_the_finer_ones() -> None:
    form, sums = RowForm(("id",), {"id": "int"}, {"id": Form.NUMBER}), Sums()
    keys = [form.key(b'{"id":%d}' % number) for number in range(500)]
    for number, key in enumerate(keys):
        sums.add(key, Version(0, number, "a"), key if number % 5 else None)
    assert sums.count == 500
    for bits in (0, 3, 8, MOST_BITS):
        chunks = sums.chunks(bits)
        assert sum(chunk.rows for chunk in chunks.values()) == 400
        assert sum(chunk.gone for chunk in chunks.values()) == 100
        assert chunks.keys() == {chunk_of(key, bits) for key in keys}
        assert sum(int(chunk.sum, 16) for chunk in chunks.values()) % 2**128 == int(sums.chunks(0)[0].sum, 16)


def test_the_order_of_rows_counts_nothing_and_each_of_them_does() -> None:
    form = RowForm(("id",), {"id": "int"}, {"id": Form.NUMBER})
    keys = [form.key(b'{"id":%d}' % number) for number in range(50)]

    def summed(rows: list[tuple[bytes, Version, bytes | None]]) -> dict[int, Chunk]:
        sums = Sums()
        for row in rows:
            sums.add(*row)
        return sums.chunks(2)

    rows = [(key, NEVER, key) for key in keys]
    assert summed(rows) == summed(rows[::-1])
    assert summed(rows) != summed(rows[:-1])
    assert summed(rows) != summed([*rows[:-1], (keys[-1], Version(0, 1, "a"), keys[-1])])
    assert summed(rows) != summed([*rows[:-1], (keys[-1], NEVER, keys[0])])


@pytest.mark.parametrize("text", [b"", b"[]", b'{"name":1}', b'{"id":1,"more":2}', b'{"id":1', b"\xff", b"[" * 10_000])
def test_what_is_no_key_is_no_key(text: bytes) -> None:
    with pytest.raises(PoisonError):
        RowForm(("id",), {"id": "int"}, {"id": Form.NUMBER}).key(text)
