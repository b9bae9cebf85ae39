"""What a file may not hold although its checksums are right: refused before the first row, with the line named."""

from __future__ import annotations

import gc
import gzip
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from common.wire.compress import compress
from tests.support.applying import Origin, Tx, World, close_world, item, open_world, resealed, sqlite_url
from tests.support.cli import document, rowferry
from tests.support.private import write_private


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = open_world(sqlite_url(tmp_path))
    yield made
    close_world(made)


@pytest.fixture
def config_file(world: World, tmp_path: Path) -> Path:
    return write_private(
        tmp_path / "rowferry.toml", f'[node]\nid = "here"\ndatabase = "{world.node.config.node.database}"\n'
    )


def imported(config_file: Path, *bodies: bytes, code: int = 0, name: str = "in.jsonl") -> Any:
    file = config_file.parent / name
    file.write_bytes(b"".join(bodies))
    return document(config_file, "import-change-log", str(file), code=code)


def refusals(report: Any) -> list[tuple[str, int]]:
    return [(one["check"], one["line"]) for one in report["findings"] if one["refuses"]]


def nothing_was_written(world: World) -> bool:
    tables = ("item", "rf_applied_tx", "rf_sync_state", "rf_dead_letter", "rf_audit", "rf_tx_part")
    return all(world.one(f"SELECT count(*) FROM {table}") == 0 for table in tables)


FAULTS = {
    "no JSON": (b'"name":"two"', b'"name":two'),
    "a NaN token": (b'"price":"1.50"},"version":[0,20', b'"price":NaN},"version":[0,20'),
    "half a surrogate": (b'"name":"two"', b'"name":"\\ud800"'),
    "no UTF-8": (b'"name":"two"', b'"name":"\xff"'),
    "an LSN too many digits long": (b'"lsn":2', b'"lsn":1e400'),
    "an LSN outside the header": (b'"lsn":2', b'"lsn":9'),
    "an LSN twice": (b'"lsn":2', b'"lsn":1'),
    "an unknown op": (b'"table":"item","op":"I","pk":{"id":2}', b'"table":"item","op":"X","pk":{"id":2}'),
    "a table that is not in the header": (
        b'"table":"item","op":"I","pk":{"id":2}',
        b'"table":"x","op":"I","pk":{"id":2}',
    ),
    "another tx_id": (b'"lsn":2,"tx_id":"0192', b'"lsn":2,"tx_id":"0193'),
    "two objects on a line": (b'{"type":"change","lsn":2', b'{"type":"change","x":1}{"type":"change","lsn":2'),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("in_parts", [False, True])
def test_a_change_line_that_is_no_change(world: World, config_file: Path, fault: str, in_parts: bool) -> None:
    tx = Origin("a").tx(*(item(number, name, number * 10) for number, name in ((1, "one"), (2, "two"), (3, "three"))))
    old, new = FAULTS[fault]
    if in_parts:
        lines = [line.replace(old, new) for line in tx.lines()]
        bodies = cut_by_hand(tx, [lines[:1], lines[1:]])
        line = 3 + 2
    else:
        bodies, line = [resealed(tx.body, old, new)], 3
    assert bodies != [tx.body]
    good = Origin("b").put(9, "good", 10).body
    assert refusals(imported(config_file, *bodies, good, code=3)) == [("format", line)]
    assert nothing_was_written(world)


@pytest.mark.parametrize("levels", [101, 900])
@pytest.mark.parametrize("opens", [b'{"type":"batch"', b'{"type":"change"', b'{"type":"end"'])
def test_a_line_that_nests_too_deep(world: World, config_file: Path, opens: bytes, levels: int) -> None:
    """Also where this process could just read it in preflight, and not in the import that follows."""
    tx = Origin("a").tx(item(1, "one", 10))
    deep = opens.replace(b"{", b'{"u":' + b"[" * levels + b"]" * levels + b",")
    good = Origin("b").put(9, "good", 10).body
    report = imported(config_file, good, resealed(tx.body, opens, deep), code=3)
    assert "deeper than 100" in report["findings"][0]["message"]
    assert nothing_was_written(world)


def test_nothing_reads_on_what_a_refused_file_held(world: World, config_file: Path) -> None:
    """A reader left half way meets its closed database whenever the collector comes by: an error that no one sees."""
    tx = Origin("a").tx(item(1, "one", 10), item(2, "two", 20))
    old, new = FAULTS["a NaN token"]
    lines = [line.replace(old, new) for line in tx.lines()]
    gc.disable()
    try:
        assert refusals(imported(config_file, *cut_by_hand(tx, [lines[:1], lines[1:]]), code=3)) == [("format", 5)]
    finally:
        gc.enable()
    gc.collect()
    assert nothing_was_written(world)


def cut_by_hand(tx: Tx, groups: Sequence[Sequence[bytes]], sha256: str | None = None) -> list[bytes]:
    """Return a tx as parts, as somebody else's encoder might write them."""
    content = sha256 or hashlib.sha256(b"".join(line for group in groups for line in group)).hexdigest()
    fields = json.loads(tx.body.partition(b"\n")[0])
    found = []
    for part, group in enumerate(groups, start=1):
        shape = {"changes": len(group), "part": part, "parts": len(groups), "tx_sha256": content}
        body = json.dumps(fields | shape).encode() + b"\n" + b"".join(group)
        end = {"type": "end", "tx_id": tx.tx_id, "changes": len(group), "sha256": hashlib.sha256(body).hexdigest()}
        found.append(body + json.dumps(end).encode() + b"\n")
    return found


def three(names: Sequence[str] = ("one", "two", "three")) -> Tx:
    return Origin("a").tx(*(item(number, name, number * 10) for number, name in enumerate(names, start=1)))


def by_line(tx: Tx, sha256: str | None = None) -> list[bytes]:
    return cut_by_hand(tx, [[line] for line in tx.lines()], sha256)


def test_parts_that_are_not_of_one_content(world: World, config_file: Path) -> None:
    content = hashlib.sha256(b"".join(three().lines())).hexdigest()
    good, altered = by_line(three()), by_line(three(["one", "zwei", "three"]), content)
    assert refusals(imported(config_file, good[0], altered[1], good[2], code=3)) == [("checksum", 1)]
    both = imported(config_file, *good, altered[1], code=3)
    assert ("duplicate", 10) in refusals(both)
    whole = resealed(three().body, b'"part":1,', b'"tx_sha256":"%s","part":1,' % (b"0" * 64))
    assert refusals(imported(config_file, whole, code=3)) == [("checksum", 1)]
    assert nothing_was_written(world)


OTHER_HEADERS = {
    "tables": {"item": {"pk": ["id"], "columns": {"id": "int", "name": "bytes", "price": "decimal"}}},
    "requires": ["teleport"],
    "grouped": True,
    "to_lsn": 4,
}


@pytest.mark.parametrize("key", OTHER_HEADERS)
@pytest.mark.parametrize("odd", range(3))
def test_parts_that_do_not_say_the_same_of_their_tx(world: World, config_file: Path, key: str, odd: int) -> None:
    """Which of them counts must not be a matter of their order."""
    parts = by_line(three())
    parts[odd] = with_header(parts[odd], {key: OTHER_HEADERS[key]})
    line = 3 * max(odd, 1) + 1
    check = "duplicate" if key == "to_lsn" else "format"
    assert (check, line) in refusals(imported(config_file, *parts, code=3))
    assert nothing_was_written(world)
    world.receive(*reversed(parts))
    assert world.rows() == []
    assert {reason for _, reason, _ in world.letters()} == {"content"}
    assert world.one("SELECT count(*) FROM rf_applied_tx") == 0


def with_header(batch: bytes, fields: dict[str, Any]) -> bytes:
    """Return a batch that says something else of its tx, with a right checksum."""
    header, _, rest = batch.partition(b"\n")
    lines, _, end = rest.rstrip(b"\n").rpartition(b"\n")
    body = json.dumps(json.loads(header) | fields).encode() + b"\n" + lines + b"\n"
    return body + json.dumps(json.loads(end) | {"sha256": hashlib.sha256(body).hexdigest()}).encode() + b"\n"


def test_parts_in_any_order_and_more_than_once(world: World, config_file: Path) -> None:
    first, second, third = by_line(three())
    report = imported(config_file, third, first, third, second, first)
    assert (report["applied"], report["duplicates"], report["set_aside"]) == (1, 0, [])
    again = imported(config_file, first, second, third)
    assert (again["applied"], again["duplicates"], again["preflight"]["already_applied"]) == (0, 1, 1)
    assert imported(config_file, third)["applied"] == 0
    assert [row[1] for row in world.rows()] == ["one", "two", "three"]


def test_how_a_tx_is_cut_is_no_content(world: World, config_file: Path) -> None:
    lines = list(three().lines())
    other_cut = cut_by_hand(three(), [lines[:1], [], lines[1:2], lines[2:]])
    for bodies in (other_cut, by_line(three()), [three().body, *by_line(three()), *other_cut]):
        report = imported(config_file, *bodies)
        assert (report["applied"], report["set_aside"]) == (int(bodies is other_cut), [])
    assert world.one("SELECT count(*) FROM rf_tx_part") == 0


def test_a_queue_brings_the_same_tx_cut_anew(world: World) -> None:
    lines = list(three().lines())
    first, second, _ = by_line(three())
    world.receive(first, second)
    world.receive(*cut_by_hand(three(), [lines[:1], lines[1:]]))
    assert (len(world.rows()), world.letters()) == (3, [])


def test_a_good_copy_mends_parts_that_do_not_fit_together(world: World) -> None:
    content = hashlib.sha256(b"".join(three().lines())).hexdigest()
    good, altered = by_line(three()), by_line(three(["one", "zwei", "three"]), content)
    world.receive(good[0], altered[1], good[2])
    assert [reason for _, reason, _ in world.letters()] == ["checksum"]
    world.receive(*good)
    assert [row[1] for row in world.rows()] == ["one", "two", "three"]
    assert world.one("SELECT count(*) FROM rf_dead_letter WHERE state = 'dead'") == 0


def test_ddl_is_found_however_it_is_written(world: World, config_file: Path) -> None:
    tx = three()
    fields = json.loads(tx.body.partition(b"\n")[0])
    line = {"type": "change", "lsn": 1, "tx_id": tx.tx_id, "op": "DDL", "sql": "DROP TABLE item"}
    text = json.dumps(line).replace('"DDL"', '"\\u0044DL"').encode() + b"\n"
    body = json.dumps(fields | {"changes": 1, "to_lsn": 1}).encode() + b"\n" + text
    end = {"type": "end", "tx_id": tx.tx_id, "changes": 1, "sha256": hashlib.sha256(body).hexdigest()}
    report = imported(config_file, body, json.dumps(end).encode() + b"\n", code=3)
    assert refusals(report) == [("ddl", 1)]
    assert nothing_was_written(world)


def test_each_flipped_bit_and_each_cut_is_refused(world: World, config_file: Path) -> None:
    whole = Origin("a").put(1, "one", 10).body
    step = len(whole) * 8 // 40
    for bit in range(0, len(whole) * 8, step):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        assert imported(config_file, bytes(flipped), code=3)["refused"]
    for size in range(1, len(whole), len(whole) // 30):
        assert imported(config_file, whole[:size], code=3)["refused"]
    assert nothing_was_written(world)


def test_the_line_is_told_to_people_too(config_file: Path) -> None:
    file = config_file.parent / "in.jsonl.GZ"
    file.write_bytes(gzip.compress(resealed(three().body, b'"name":"two"', b'"name":two')))
    told = rowferry(config_file, "import-change-log", str(file))
    assert (told.exit_code, f"{file}, line 3: " in told.output) == (3, True)


@pytest.mark.parametrize(
    ("how", "says"),
    [
        (lambda body: body.replace(b"\n", b"\r\n"), "CR LF"),
        (lambda body: b"\xef\xbb\xbf" + body, "byte order mark"),
        (lambda body: body.decode().encode("utf-16"), "UTF-16"),
        (gzip.compress, "end with .gz"),
        (lambda body: compress(body, "zstd"), "end with .zst"),
    ],
    ids=["text mode", "byte order mark", "utf-16", "gzip", "zstd"],
)
def test_what_a_way_there_makes_of_a_file_is_told(
    world: World, config_file: Path, how: Callable[[bytes], bytes], says: str
) -> None:
    report = imported(config_file, how(Origin("a").put(1, "one", 10).body), code=3)
    assert says in report["findings"][0]["message"]
    assert nothing_was_written(world)


def test_a_person_is_told_one_line(config_file: Path) -> None:
    """That of the fault, not of the batch that it is in."""
    file = config_file.parent / "in.jsonl"
    file.write_bytes(Origin("a").put(1, "one", 10).body.replace(b'"one"', b'"two"'))
    told = rowferry(config_file, "import-change-log", str(file)).output
    assert f"{file}: line 3: not the sha256 of the batch that starts in line 1" in told


def test_one_is_one(config_file: Path) -> None:
    file = config_file.parent / "in.jsonl"
    file.write_bytes(Origin("a").put(1, "one", 10).body)
    told = rowferry(config_file, "import-change-log", str(file)).output
    assert "1 transaction with 1 change in 1 file\n" in told
