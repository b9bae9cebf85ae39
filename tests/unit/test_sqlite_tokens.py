"""Tokens of values: one where an index of SQLite takes values for one, and only there."""

from __future__ import annotations

import sqlite3
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.dialects.sqlite.tokens import token, values_of
from common.dialects.sqlite.values import RawText

texts = st.text(alphabet="aAbB \u00e9\u00c9", max_size=4)
values = st.one_of(
    st.integers(-(2**63), 2**63 - 1),
    st.integers(-2, 2),
    st.floats(allow_nan=False),
    st.sampled_from([0.0, -0.0, 1.0, 2.0**53, 9.3e18, float("inf"), float("-inf")]),
    texts,
    st.binary(max_size=3),
)


def same_to_sqlite(one: Any, other: Any, collation: str) -> bool:
    connection = sqlite3.connect(":memory:")
    try:
        connection.execute(f"CREATE TABLE t (v BLOB COLLATE {collation} UNIQUE)")
        connection.execute("INSERT INTO t VALUES (?)", (one,))
        return connection.execute("INSERT OR IGNORE INTO t VALUES (?)", (other,)).rowcount == 0
    finally:
        connection.close()


@given(values, values, st.sampled_from(["BINARY", "NOCASE", "RTRIM"]))
def test_tokens_are_equal_where_sqlite_finds_a_clash(one: Any, other: Any, collation: str) -> None:
    assert (token([one], [collation]) == token([other], [collation])) == same_to_sqlite(one, other, collation)


@given(values, st.sampled_from(["BINARY", "NOCASE", "RTRIM"]))
def test_what_a_token_stands_for_is_found_by_it(one: Any, collation: str) -> None:
    text = token([one], [collation])
    assert text is not None
    (back,) = values_of(text)
    assert same_to_sqlite(one, back, collation)


@pytest.mark.parametrize("collation", ["BINARY", "NOCASE", "RTRIM"])
def test_null_has_no_token_and_text_that_is_not_utf_8_has_one(collation: str) -> None:
    assert token([1, None], [collation, collation]) is None
    text = token([RawText(b"\xffA ")], [collation])
    assert text is not None
    assert isinstance(values_of(text)[0], RawText)
