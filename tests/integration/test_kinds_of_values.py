"""What JSON a value may be is said by the type in the header, and means the same on every kind of database."""

from __future__ import annotations

from typing import Any

import pytest

from common.versions import Version
from common.wire.records import TableMeta
from tests.support.applying import Origin, World, Write, resealed

COLUMNS = {
    "i": "int",
    "d": "decimal",
    "f": "float",
    "b": "bool",
    "t": "text",
    "y": "bytes",
    "da": "date",
    "ti": "time",
    "ts": "timestamp",
    "tz": "timestamptz",
    "iv": "interval",
    "u": "uuid",
    "j": "json",
    "r": "pg:int4range",
}
DECLARED = {
    "i": ("bigint", "bigint"),
    "d": ("numeric", "numeric"),
    "f": ("double precision", "double"),
    "b": ("boolean", "boolean"),
    "t": ("text", "text"),
    "y": ("bytea", "blob"),
    "da": ("date", "date"),
    "ti": ("time", "time"),
    "ts": ("timestamp", "timestamp"),
    "tz": ("timestamptz", "timestamptz"),
    "iv": ("interval", "interval"),
    "u": ("uuid", "uuid"),
    "j": ("json", "json"),
    "r": ("int4range", "text"),
}
RIGHT: dict[str, list[Any]] = {
    "i": [7, -(2**63), 2**63 - 1, {"$int": 5}],
    "d": ["7", "1.5", "-0.25"],
    "f": [7, 1.5, -1e300, 1152921504606847000, 2**60, 5e-324, "Infinity", "-Infinity", {"$float": 1.5}],
    "b": [True, False],
    "t": ["", "5", "true", "text", {"$text": "dGV4dA=="}],
    "y": ["", "AP8=", {"$bytes": "AP8="}],
    "da": ["2026-01-02"],
    "ti": ["10:00:00"],
    "ts": ["2026-01-02T10:00:00"],
    "tz": ["2026-01-02T10:00:00+00:00"],
    "iv": ["P1D"],
    "u": ["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"],
    "j": ['{"a": 1}', "null", "5"],
    "r": ["[1,5)"],
}
"""Beside NULL, which every column takes."""
NEVER_RIGHT = [
    [1],
    [],
    {},
    {"a": 1},
    {"$int": "5"},
    {"$int": True},
    {"$int": 2**63},
    {"$int": -(2**63) - 1},
    {"$int": 5, "$float": 5.5},
    {"$float": "1.5"},
    {"$text": 5},
    {"$text": "dGV4d"},
    {"$bytes": "AP8"},
    {"$other": 5},
]
WRONG: dict[str, list[Any]] = {
    "i": ["7", 1.5, 1.0, True, "", *NEVER_RIGHT],
    "d": [1.5, 7, True, *NEVER_RIGHT],
    "f": [
        "1.5",
        "7",
        "inf",
        "nan",
        True,
        "",
        2**60 + 1,
        10**400,
        {"$float": 2**60 + 1},
        {"$int": 2**53 + 1},
        *NEVER_RIGHT,
    ],
    "b": ["t", "true", 1, 0, 1.0, *NEVER_RIGHT],
    "t": [5, 1.5, True, *NEVER_RIGHT],
    "y": ["AP8", "A P8=", "AP8=\n", "?", 5, True, *NEVER_RIGHT],
    **{name: [20260102, 1.5, True, *NEVER_RIGHT] for name in ("da", "ti", "ts", "tz", "iv", "u", "j", "r")},
}
META = TableMeta(pk=("id",), columns={"id": "int", **COLUMNS})
TYPED_KEYS = {"kb": "bool", "kt": "text", "ky": "bytes"}


@pytest.fixture(params=["as it comes", "long way alone"])
def receiver(request: pytest.FixtureRequest, world: World) -> World:
    at_work = 0 if world.node.database.features.name == "postgresql" else 1
    columns = ", ".join(f"{name} {declared[at_work]}" for name, declared in DECLARED.items())
    world.execute(f"CREATE TABLE v (id bigint PRIMARY KEY, {columns})")
    for name, logical in TYPED_KEYS.items():
        declared = DECLARED[next(column for column, one in COLUMNS.items() if one == logical)][at_work]
        world.execute(f"CREATE TABLE {name} (id {declared} PRIMARY KEY)")
    world.node.capture().install(list(world.node.captured_tables().values()))
    if request.param == "long way alone":
        world.intake()._lane._is_open = False
    return world


def row(number: int, name: str, value: Any) -> Write:
    image = {"id": number, **dict.fromkeys(COLUMNS), name: value}
    return Write("I", "v", image, 10 + number)


def outcomes(world: World) -> dict[str, str]:
    """Return the reason of each tx that was set aside."""
    return {letter[0]: letter[1] for letter in world.letters()}


def test_every_type_takes_its_own_json_and_no_other(receiver: World) -> None:
    source = Origin("a", tables={"v": META})
    cases = [(name, value, True) for name, values in RIGHT.items() for value in [None, *values]]
    cases += [(name, value, False) for name, values in WRONG.items() for value in values]
    txs = [source.tx(row(number, name, value)) for number, (name, value, _) in enumerate(cases, 1)]
    # One at a time: a group in which one is bad goes the long way as a whole.
    for tx in txs:
        receiver.receive(tx.body)
    reasons = outcomes(receiver)
    found = {
        (name, repr(value)): reasons.get(tx.tx_id, "applied") for tx, (name, value, _) in zip(txs, cases, strict=True)
    }
    expected = {(name, repr(value)): "applied" if is_right else "type" for name, value, is_right in cases}
    assert found == expected
    assert receiver.one("SELECT count(*) FROM v") == sum(is_right for *_, is_right in cases)


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0.1 + 0.2, "0.30000000000000004"),
        ("Infinity", "Infinity"),
        ("-Infinity", "-Infinity"),
    ],
)
def test_a_float_in_a_text_column_becomes_its_text(receiver: World, number: Any, text: str) -> None:
    # As SQLite sends it of a column declared STRING, which keeps numbers.
    receiver.receive(Origin("a", tables={"v": META}).tx(row(1, "t", {"$float": number})).body)
    assert receiver.query("SELECT t FROM v") == [(text,)]


def test_an_update_is_looked_at_as_an_insert_is(receiver: World) -> None:
    source = Origin("a", tables={"v": META})
    first = row(1, "i", 7)
    receiver.receive(source.tx(first).body)
    image = {**first.row, "i": "8"}
    receiver.receive(source.tx(Write("U", "v", image, 20, base=Version(0, first.hlc, "a"))).body)
    assert list(outcomes(receiver).values()) == ["type"]
    assert receiver.one("SELECT i FROM v") == 7


@pytest.mark.parametrize(
    ("table", "right", "wrong"),
    [("kb", True, 1), ("kt", "1", 1), ("ky", "AP8=", "AP8=\n"), ("ky", "AP8=", "A P8=")],
)
def test_a_key_is_looked_at_too(receiver: World, table: str, right: Any, wrong: Any) -> None:
    meta = TableMeta(pk=("id",), columns={"id": TYPED_KEYS[table]})
    source = Origin("a", tables={table: meta})
    receiver.receive(source.tx(Write("I", table, {"id": wrong}, 10)).body)
    receiver.receive(source.tx(Write("I", table, {"id": right}, 11)).body)
    receiver.receive(source.tx(Write("D", table, {"id": wrong}, 12)).body)
    assert sorted(outcomes(receiver).values()) == ["type", "type"]
    assert receiver.one(f"SELECT count(*) FROM {table}") == 1


def test_what_has_no_form_says_where_and_what(receiver: World) -> None:
    receiver.receive(Origin("a", tables={"v": META}).tx(row(1, "i", "7")).body)
    (error,) = (line[0] for line in receiver.query("SELECT error FROM rf_dead_letter"))
    assert '"7" is no int' in error
    assert "column 'i'" in error


def test_text_that_is_no_utf_8_is_no_line(receiver: World) -> None:
    body = Origin("a", tables={"v": META}).tx(row(1, "t", "QQ")).body
    receiver.receive(resealed(body, b"QQ", b"\xff"))
    assert list(outcomes(receiver).values()) == ["format"]


@pytest.mark.parametrize("written", [b"1e400", b"1e-400", b"2e-324"])
def test_a_number_beyond_every_float_is_none(receiver: World, written: bytes) -> None:
    body = Origin("a", tables={"v": META}).tx(row(1, "f", 4.25)).body
    receiver.receive(resealed(body, b"4.25", written))
    assert list(outcomes(receiver).values()) == ["type"]


def test_a_float_is_one_key_however_it_is_written(receiver: World) -> None:
    at_work = 0 if receiver.node.database.features.name == "postgresql" else 1
    receiver.execute(f"CREATE TABLE kf (id {DECLARED['f'][at_work]} PRIMARY KEY)")
    receiver.node.capture().install(list(receiver.node.captured_tables().values()))
    source = Origin("a", tables={"kf": TableMeta(pk=("id",), columns={"id": "float"})})
    body = source.tx(Write("I", "kf", {"id": 2.0**60}, 10)).body
    receiver.receive(resealed(body, b'"pk":{"id":1.152921504606847e18}', b'"pk":{"id":1152921504606847000}'))
    assert outcomes(receiver) == {}
    assert receiver.one("SELECT count(*) FROM kf WHERE id = 1152921504606846976.0") == 1
