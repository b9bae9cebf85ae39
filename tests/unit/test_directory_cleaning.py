"""When a writer deletes its files."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from common.transports.directory import CleanReport, DirectorySink
from common.transports.directory.acks import Acks, BrokenAcksError, read_acks, write_acks
from common.transports.directory.cleaning import Cleaner
from tests.contract.sink_source import INCARNATION, send_all, single

DAY_US = 86_400 * 1_000_000
KEEP_DAYS = 30


def acknowledge(root: Path, node: str, lsn: int, origin: str = "a") -> None:
    (root / node).mkdir(exist_ok=True)
    write_acks(root, Acks(node, {(origin, INCARNATION): lsn}), now_us=1)


def left(root: Path) -> int:
    return sum(name.endswith(".jsonl") for name in os.listdir(root / "a"))


@pytest.fixture
def sink(tmp_path: Path) -> DirectorySink:
    made = DirectorySink(tmp_path, "a")
    send_all(made, *(single("a", lsn) for lsn in (1, 2, 3)))
    return made


def clean(root: Path, sink: DirectorySink, *peers: str, days: float = 0) -> CleanReport:
    """Return the report, with its counts alone."""
    path = next(root.glob("a/*.jsonl"))
    found = sink.clean(peers, KEEP_DAYS, path.stat().st_mtime_ns // 1000 + int(days * DAY_US))
    return replace(found, kept_bytes=0, oldest_us=None)


def test_what_every_known_peer_has_passed_goes(tmp_path: Path, sink: DirectorySink) -> None:
    acknowledge(tmp_path, "b", 2)
    acknowledge(tmp_path, "c", 3)
    assert clean(tmp_path, sink, "a", "b", "c") == CleanReport(passed=2, expired=0, kept=1)
    assert left(tmp_path) == 1


def test_a_peer_that_has_left_no_acks_keeps_everything(tmp_path: Path, sink: DirectorySink) -> None:
    acknowledge(tmp_path, "b", 3)
    assert clean(tmp_path, sink, "b", "c") == CleanReport(passed=0, expired=0, kept=3)


def test_without_known_peers_only_age_counts(tmp_path: Path, sink: DirectorySink) -> None:
    acknowledge(tmp_path, "b", 3)
    assert clean(tmp_path, sink, days=KEEP_DAYS - 1).kept == 3
    assert clean(tmp_path, sink, days=KEEP_DAYS + 1) == CleanReport(passed=0, expired=3, kept=0)
    assert left(tmp_path) == 0


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"[" * 100_000,
        b'{"format":"rowferry-acks/2","node":"b","updated_at":"","origins":{}}',
        b'{"format":"rowferry-acks/1","node":"c","updated_at":"","origins":{"a":{"inc1":9}}}',
        b'{"format":"rowferry-acks/1","node":"b","updated_at":"","origins":{"a":{"inc1":"9"}}}',
        b" " * (5 * 1024 * 1024),
    ],
)
def test_broken_acks_delete_nothing_and_are_said_once(
    tmp_path: Path, sink: DirectorySink, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "acks.json").write_bytes(content)
    for _ in range(2):
        assert clean(tmp_path, sink, "b").kept == 3
    assert caplog.text.count("directory.acks-broken") == 1
    with pytest.raises(BrokenAcksError):
        read_acks(tmp_path, "b")


def test_linked_acks_are_not_followed(tmp_path: Path, sink: DirectorySink) -> None:
    acknowledge(tmp_path, "elsewhere", 3)
    (tmp_path / "b").symlink_to(tmp_path / "elsewhere")
    assert clean(tmp_path, sink, "b").kept == 3


def test_an_origin_needs_not_pass_its_own_batches(tmp_path: Path) -> None:
    forwarder = DirectorySink(tmp_path, "a")
    send_all(forwarder, single("b", 1))
    acknowledge(tmp_path, "c", 1, origin="b")
    assert clean(tmp_path, forwarder, "b", "c").passed == 1


def test_other_files_stay(tmp_path: Path, sink: DirectorySink) -> None:
    (tmp_path / "a" / "notes.txt").write_bytes(b"mine")
    clean(tmp_path, sink, days=KEEP_DAYS + 1)
    assert os.listdir(tmp_path / "a") == ["notes.txt"]


def test_a_folder_that_went_away_is_said_and_not_raised(
    tmp_path: Path, sink: DirectorySink, caplog: pytest.LogCaptureFixture
) -> None:
    for name in os.listdir(tmp_path / "a"):
        (tmp_path / "a" / name).unlink()
    (tmp_path / "a").rmdir()
    assert sink.clean(["b"], KEEP_DAYS, 0) == CleanReport(0, 0, 0)
    assert "directory.clean-failed" in caplog.text


def crowd(root: Path, *peers: str, room: int) -> CleanReport:
    """Clean with room for so many of the files, whose times of writing rise with their LSNs."""
    for age, path in enumerate(sorted(root.glob("a/*.jsonl"))):
        os.utime(path, (1_000_000 + age, 1_000_000 + age))
    size = max((path.stat().st_size for path in root.glob("a/*.jsonl")), default=0)
    return Cleaner(root, "a").clean(peers, KEEP_DAYS, 1_000_000_000_000, size * room)


def test_beyond_the_bound_the_oldest_go_that_nobody_lacks(tmp_path: Path, sink: DirectorySink) -> None:
    report = crowd(tmp_path, room=1)
    assert (report.crowded, report.kept, left(tmp_path)) == (2, 1, 1)
    assert [int(path.name[-26:-6]) for path in tmp_path.glob("a/*.jsonl")] == [3]
    assert report.kept_bytes == next(tmp_path.glob("a/*.jsonl")).stat().st_size


def test_what_a_known_peer_lacks_stays_however_much_it_is(tmp_path: Path, sink: DirectorySink) -> None:
    acknowledge(tmp_path, "b", 1)
    acknowledge(tmp_path, "c", 3)
    report = crowd(tmp_path, "b", "c", room=0)
    assert (report.passed, report.crowded, report.kept) == (1, 0, 2)
