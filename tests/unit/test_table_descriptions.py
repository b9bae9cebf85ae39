"""What is read out of a catalog's texts, and the page that says which type becomes which."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.dialects.postgresql import describing as pg_describing
from common.dialects.postgresql import making as pg_making
from common.dialects.postgresql.type_names import parse_type
from common.dialects.sqlite import describing as sqlite_describing
from common.dialects.sqlite import making as sqlite_making
from common.ports.table_making import Kind, Literal

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "snapshot-tables.md"


@pytest.mark.parametrize(
    ("declared", "sql"),
    [
        ("integer", "integer"),
        ("numeric(10,-2)", "numeric(10,-2)"),
        ("character varying(20)[]", "character varying(20)[]"),
        ("timestamp(3) with time zone", "timestamp(3) with time zone"),
        ("interval day to second(3)", "interval day to second(3)"),
        ('"char"', '"char"'),
        ("mood", '"mood"'),
        ('shop."Pair of"[]', '"shop"."Pair of"[]'),
        ('"a""b; --"', '"a""b; --"'),
        ("geometry(Point,4326)", '"geometry"(Point,4326)'),
    ],
)
def test_types_are_put_together_anew(declared: str, sql: str) -> None:
    found = parse_type(declared)
    assert found is not None
    assert found.sql == sql


@pytest.mark.parametrize(
    "declared",
    [
        "",
        "int; x",
        "text, b text",
        "text not null",
        'a"',
        '"',
        '""',
        "a.b.c",
        "text[][]",
        "A",
        "int)",
        "t(a b)",
        "t('x')",
    ],
)
def test_what_no_catalog_writes_is_no_type(declared: str) -> None:
    assert parse_type(declared) is None


@given(st.text(alphabet="aT\"().,; '-[]\n1\0", max_size=20))
def test_nothing_but_names_and_sizes_gets_through(declared: str) -> None:
    found = parse_type(declared)
    if found is not None:
        outside = re.sub(r'"(?:[^"\0]|"")+"', "", found.sql)
        assert re.fullmatch(r"[a-z0-9 ]*\.?(\([\w,-]+\))?[a-z ]*(\[\])?", outside), found.sql


@pytest.mark.parametrize(
    ("written", "literal"),
    [
        ("0", Literal(Kind.NUMBER, "0")),
        ("(-1.50)", Literal(Kind.NUMBER, "-1.50")),
        ("'-1'::integer", Literal(Kind.NUMBER, "-1")),
        ("true", Literal(Kind.BOOL, "true")),
        ("NULL::text", Literal(Kind.NULL)),
        ("'it''s :: \\'::text", Literal(Kind.TEXT, "it's :: \\")),
        ("'a'::name", None),
        ("'a'::text || 'b'::text", None),
        ("now()", None),
        ("CURRENT_TIMESTAMP", None),
        ("('a'::text)::mood", None),
    ],
)
def test_constants_of_postgresql(written: str, literal: Literal | None) -> None:
    assert pg_describing.literal_of(written, {"text"}) == literal


@pytest.mark.parametrize(
    ("written", "literal"),
    [
        ("+.5", Literal(Kind.NUMBER, "0.5")),
        ("- 1.e3", Literal(Kind.NUMBER, "-1.0e3")),
        ("False", Literal(Kind.BOOL, "false")),
        ("null", Literal(Kind.NULL)),
        ("'it''s'", Literal(Kind.TEXT, "it's")),
        ('"a""b"', Literal(Kind.TEXT, 'a"b')),
        ("X'00fF'", Literal(Kind.BYTES, "00ff")),
        ("'a' || 'b'", None),
        ("CURRENT_TIMESTAMP", None),
        (".", None),
        ("-", None),
        ("x'0'", None),
        ("1 + 1", None),
    ],
)
def test_constants_of_sqlite(written: str, literal: Literal | None) -> None:
    assert sqlite_describing.literal_of(written) == literal


def test_the_page_has_the_types_of_the_code() -> None:
    rows = re.findall(r"^\| `([a-z]+)` \| `([^`]+)` \| `([^`]+)` \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert {name: (pg, sqlite) for name, pg, sqlite in rows} == {
        name: (pg_making.KEEPS[name], sqlite_making.KEEPS[name]) for name in pg_making.KEEPS
    }
    assert sqlite_making.KEEPS.keys() == pg_making.KEEPS.keys()
