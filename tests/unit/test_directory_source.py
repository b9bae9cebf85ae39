"""What the source takes from the shared folder, and when."""

from __future__ import annotations

import io
import json
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import pytest

from common.errors import OutageError
from common.ports.dialect import LogHead
from common.ports.source import Delivery
from common.transports.directory import DirectorySink, DirectorySource
from common.transports.directory.content import Sizes, fault_in
from common.transports.directory.names import BatchFile
from common.wire.compress import Encoding
from tests.contract.sink_source import INCARNATION, SmallTx, bodies, envelopes, packed, plain, single

SETTLE_SECONDS = 600.0
SMALL = Sizes(whole_bytes=4096, piece_bytes=4096, broken_bytes=64 * 1024)


class Hands:
    """A clock that moves when told."""

    def __init__(self) -> None:
        self.us = time.time_ns() // 1000

    def now_us(self) -> int:
        return self.us

    def move(self, seconds: float) -> None:
        self.us += int(seconds * 1_000_000)


class Share:
    """A shared folder, its writers, and readers that remember a watermark."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.clock = Hands()
        self.passed: dict[str, int] = {}
        self.tx_ids: dict[str, str] = {}
        self.asked: list[tuple[str, str]] = []
        self._sources: list[DirectorySource] = []

    def write(self, *lsns: int, node: str = "a", size: int = 5, compression: Encoding | None = None) -> list[bytes]:
        sink = DirectorySink(self.path, node, compression=compression)
        sent = [single(node, lsn, size) for lsn in lsns]
        for envelope in sent:
            sink.send(envelope)
        sink.close()
        return [envelope.body for envelope in sent]

    def put(self, from_lsn: int, to_lsn: int, data: bytes, node: str = "a", ending: str = ".jsonl") -> Path:
        """Put bytes there as a copy that goes on, or that broke off, would."""
        path = self.file(from_lsn, to_lsn, node, ending)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        return path

    def file(self, from_lsn: int, to_lsn: int, node: str = "a", ending: str = ".jsonl") -> Path:
        return self.path / node / f"{node}.{INCARNATION}.{from_lsn:020d}-{to_lsn:020d}{ending}"

    def source(self, **changes: Any) -> DirectorySource:
        options: dict[str, Any] = {"passed": self._watermark, "settle_seconds": SETTLE_SECONDS, "clock": self.clock}
        self._sources.append(DirectorySource(self.path, "b", **{**options, **changes}))
        return self._sources[-1]

    def acks(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.path / "b" / "acks.json").read_bytes())
        return found

    def close(self) -> None:
        for source in self._sources:
            source.close()

    def _watermark(self, logs: Collection[tuple[str, str]]) -> dict[tuple[str, str], LogHead]:
        self.asked.extend(logs)
        return {key: LogHead(self.passed.get(key[0], 0), self.tx_ids.get(key[0])) for key in logs}


@pytest.fixture
def share(tmp_path: Path) -> Iterator[Share]:
    made = Share(tmp_path)
    yield made
    made.close()


def now(source: DirectorySource, count: int = 100) -> list[Delivery]:
    return source.receive(count, 0)


def read(source: DirectorySource) -> list[bytes]:
    return [plain(one) for one in now(source)]


def test_each_origin_is_read_from_its_oldest_lsn_on(share: Share) -> None:
    later, first = share.write(11), share.write(2)
    other = share.write(1, node="c")
    assert read(share.source()) == first + later + other


def test_a_delivery_says_where_it_is_from(share: Share) -> None:
    share.write(1)
    (got,) = now(share.source())
    assert got.source_node == "a"
    assert not got.verified
    assert got.origin == f"a/{share.file(1, 1).name}"


def test_own_batches_are_not_read_also_when_another_node_hands_them_on(share: Share) -> None:
    share.write(1, node="b")
    forwarder = DirectorySink(share.path, "main")
    forwarder.send(single("b", 1))
    sent = single("a", 1)
    forwarder.send(sent)
    assert read(share.source()) == [sent.body]


def test_only_regular_files_of_exactly_our_pattern_are_read(share: Share) -> None:
    (body,) = share.write(1)
    folder = share.path / "a"
    right = share.file(1, 1).name
    for wrong in (f"x{right}~", f"{right}.part", right.replace("-", "_"), "a.inc1.1-1.jsonl", "readme.txt", "a.json"):
        (folder / wrong).write_bytes(body)
    share.file(2, 2).symlink_to(folder / right)
    share.file(3, 3).mkdir()
    os.mkfifo(share.file(4, 4))
    (share.path / "linked").symlink_to(folder)
    (share.path / "no node").mkdir()
    (share.path / "no node" / right).write_bytes(body)
    assert read(share.source()) == [body]


def test_lsns_that_can_t_be_are_not_read(share: Share) -> None:
    (body,) = share.write(1)
    share.put(0, 5, body)
    share.put(5, 4, body)
    share.put(1, 10**19, body)
    assert read(share.source()) == [body]


def test_what_is_held_is_not_read_twice_and_what_is_acknowledged_never_again(share: Share) -> None:
    share.write(1, 2)
    source = share.source()
    first = now(source, 1)
    second = now(source)
    assert [one.origin for one in first + second] == [f"a/{share.file(lsn, lsn).name}" for lsn in (1, 2)]
    assert now(source) == []
    source.ack(first)
    source.ack(second)
    source.ack(second)
    assert now(source) == []


def test_a_file_that_went_while_it_was_held_is_another_one_when_it_comes_again(share: Share) -> None:
    """A node that was rewound writes LSNs anew, under names that its folder had before."""
    share.write(1, 2)
    source = share.source()
    held = now(source)
    share.file(1, 1).unlink()
    assert now(source) == []
    source.ack(held)
    anew = share.write(1, size=9)
    assert read(source) == anew


def _calls(source: DirectorySource) -> int:
    """Return how many functions one look takes: the same however busy the machine is."""
    made = Counter[str]()
    sys.setprofile(lambda _frame, event, _argument: made.update([event]))
    try:
        assert now(source) == []
    finally:
        sys.setprofile(None)
    return made["call"]


def test_a_look_at_what_is_read_takes_no_step_for_each_file(share: Share) -> None:
    """For a peer that is away files lie there by the thousand, and the folder is looked at each second."""
    source = share.source()
    taken = []
    for lsns in (range(1, 11), range(11, 200)):
        share.write(*lsns)
        share.passed["a"] = max(lsns)
        source.ack(now(source, 500))
        now(source)
        taken.append(_calls(source))
    assert taken[0] == taken[1]


def test_a_new_process_skips_what_was_read_and_passed(share: Share) -> None:
    share.write(1, 2, 3)
    source = share.source()
    got = now(source)
    share.passed["a"] = 2
    source.ack(got)
    source.close()
    assert [one.origin for one in now(share.source())] == [f"a/{share.file(3, 3).name}"]
    assert ("a", INCARNATION) in share.asked


def test_a_file_below_the_watermark_that_came_later_is_read(share: Share) -> None:
    """A node that was rewound writes LSNs anew; the receiver must get to see that."""
    share.write(2)
    source = share.source()
    got = now(source)
    share.passed["a"] = 5
    source.ack(got)
    source.close()
    late = share.write(1)
    os.utime(share.file(1, 1), ns=(time.time_ns() + 10**9, time.time_ns() + 10**9))
    assert read(share.source()) == late


def test_without_acks_of_its_own_everything_is_read(share: Share) -> None:
    sent = share.write(1)
    share.passed["a"] = 9
    (share.path / "b").mkdir()
    (share.path / "b" / "acks.json").write_bytes(b"{")
    assert read(share.source()) == sent


def test_acks_tell_the_writers_what_is_passed(share: Share) -> None:
    share.write(1, 2)
    source = share.source()
    got = now(source)
    share.passed["a"] = 2
    source.ack(got)
    source.close()
    acks = share.acks()
    assert acks["format"] == "rowferry-acks/1"
    assert acks["node"] == "b"
    assert acks["origins"] == {"a": {INCARNATION: 2}}


def test_acks_are_not_written_for_nothing(share: Share) -> None:
    source = share.source()
    source.close()
    assert os.listdir(share.path / "b") == []


def test_a_large_file_comes_in_pieces_and_is_done_with_the_last(share: Share) -> None:
    parts = envelopes(SmallTx("a", 1, [1500] * 20))
    sink = DirectorySink(share.path, "a")
    for part in parts:
        sink.send(part)
    source = share.source(sizes=SMALL)
    got = now(source)
    assert len(got) > 3
    assert bodies(got) == b"".join(part.body for part in parts)
    share.passed["a"] = 0
    source.ack(got[:-1])
    assert now(source) == []
    source.close()
    again = share.source(sizes=SMALL)
    got = now(again)
    again.ack(got)
    share.passed["a"] = 20
    again.close()
    assert now(share.source(sizes=SMALL)) == []


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_compressed_files_come_in_pieces_too(share: Share, compression: Encoding) -> None:
    sent = packed(*(single("a", lsn, size=1000) for lsn in range(1, 21)))
    sink = DirectorySink(share.path, "a", compression=compression)
    sink.send(sent)
    got = now(share.source(sizes=SMALL))
    assert len(got) > 3
    assert all(one.content_encoding is None for one in got)
    assert bodies(got) == sent.body


def _half(body: bytes) -> bytes:
    return body[: len(body) // 2]


def _without_newline(body: bytes) -> bytes:
    return body[:-1]


def _altered(body: bytes) -> bytes:
    return body.replace(b"xxx", b"xyx", 1)


def _first_batch_alone(body: bytes) -> bytes:
    return body[: body.index(b"\n", body.index(b'{"type":"end"')) + 1]


def _nothing(body: bytes) -> bytes:
    return body[:0]


FAULTS = [_half, _without_newline, _altered, _first_batch_alone, _nothing]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_torn_file_waits_until_it_is_whole(share: Share, fault: Callable[[bytes], bytes]) -> None:
    whole = packed(single("a", 1), single("a", 2)).body
    share.put(1, 2, fault(whole))
    other = share.write(3)
    source = share.source()
    assert read(source) == other
    share.clock.move(SETTLE_SECONDS / 2)
    assert read(source) == []
    share.put(1, 2, whole)
    now(source)
    assert read(source) == [whole]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_torn_file_that_has_settled_is_delivered_as_it_is(share: Share, fault: Callable[[bytes], bytes]) -> None:
    torn = fault(packed(single("a", 1), single("a", 2)).body)
    share.put(1, 2, torn)
    source = share.source()
    assert now(source) == []
    share.clock.move(SETTLE_SECONDS + 1)
    got = now(source)
    assert [one.body for one in got] == [torn]
    source.ack(got)
    assert now(source) == []


def test_a_broken_file_is_looked_at_no_further_than_its_first_fault() -> None:
    file = BatchFile("a", f"a.{INCARNATION}.{1:020d}-{1:020d}.jsonl", "a", INCARNATION, 1, 1)
    stream = io.BytesIO(b"no batch\n" + b"\n" * 4_000_000)
    assert "line 1 is no JSON object" in (fault_in(stream, 4_000_009, file) or "")
    assert stream.tell() < 1_000_000


def test_a_file_that_still_grows_is_not_given_up(share: Share) -> None:
    whole = packed(*(single("a", lsn) for lsn in range(1, 10))).body
    source = share.source()
    for end in range(len(whole) // 10, len(whole), len(whole) // 10):
        share.put(1, 9, whole[:end])
        share.clock.move(SETTLE_SECONDS - 1)
        assert now(source) == []
        assert now(source) == [], "quiet since the look before"
    share.put(1, 9, whole)
    now(source)
    assert read(source) == [whole]


def test_a_file_given_up_that_becomes_whole_after_all_is_read_again(share: Share) -> None:
    whole = packed(single("a", 1), single("a", 2)).body
    share.put(1, 2, _half(whole))
    source = share.source()
    share.clock.move(SETTLE_SECONDS + 1)
    source.ack(now(source))
    share.put(1, 2, whole)
    assert read(source) == [whole]


def test_a_torn_compressed_file_is_delivered_with_its_encoding(share: Share) -> None:
    share.write(1, compression="gzip", size=3000)
    path = share.file(1, 1, ending=".jsonl.gz")
    torn = _half(path.read_bytes())
    path.write_bytes(torn)
    source = share.source()
    assert now(source) == []
    share.clock.move(SETTLE_SECONDS + 1)
    (got,) = now(source)
    assert (got.body, got.content_encoding) == (torn, "gzip")


@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz"])
def test_of_a_very_large_broken_file_what_can_be_read_is_delivered(share: Share, ending: str) -> None:
    compression: Encoding | None = "gzip" if ending.endswith(".gz") else None
    sent = packed(*(single("a", lsn, size=1000) for lsn in range(1, 21)))
    DirectorySink(share.path, "a", compression=compression).send(sent)
    path = share.file(1, 20, ending=ending)
    path.write_bytes(path.read_bytes()[:-300])
    sizes = Sizes(whole_bytes=2000, piece_bytes=2000, broken_bytes=100)
    source = share.source(sizes=sizes)
    share.clock.move(SETTLE_SECONDS + 1)
    got = now(source)
    source.ack(got)
    assert sum(len(one.body) for one in got) > 300
    assert now(source) == []


def test_a_file_that_is_deleted_meanwhile_is_left_out(share: Share) -> None:
    share.write(1, 2)
    source = share.source()
    now(source, 1)
    share.file(2, 2).unlink()
    assert now(source) == []


def test_the_attempts_of_what_is_given_back_are_counted(share: Share) -> None:
    share.write(1)
    source = share.source()
    got = now(source)
    source.give_back(got, failed=True)
    (got_again,) = now(source)
    source.give_back([got_again], failed=False)
    (third,) = now(source)
    assert (third.attempts, third.redelivered) == (1, True)


def test_one_unreadable_folder_does_not_stop_the_others(share: Share, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = share.write(1)
    share.write(1, node="c")
    scandir = os.scandir

    def locked(path: Path) -> Any:
        if Path(path).name == "c":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", locked)
    assert read(share.source()) == sent


def test_a_share_that_is_not_mounted_is_an_outage(share: Share, tmp_path: Path) -> None:
    with pytest.raises(OutageError, match="mount the share"):
        DirectorySource(tmp_path / "share", "b")
    assert not (tmp_path / "share").exists()
    DirectorySource(tmp_path / "share", "b", create_root=True).close()


def test_a_share_that_goes_away_is_an_outage(tmp_path: Path) -> None:
    source = DirectorySource(tmp_path / "share", "b", create_root=True)
    (tmp_path / "share" / "b").rmdir()
    (tmp_path / "share").rmdir()
    with pytest.raises(OutageError, match="mount the share"):
        source.receive(1, 0)
    source.close()


def test_a_closed_source_says_so(share: Share) -> None:
    source = share.source()
    source.close()
    with pytest.raises(OutageError, match="open a new one"):
        source.receive(1, 0)


def test_waking_ends_the_wait(share: Share) -> None:
    source = share.source(poll_seconds=60.0)
    timer = threading.Timer(0.05, source.wake)
    timer.start()
    before = time.monotonic()
    assert source.receive(1, 60) == []
    assert time.monotonic() - before < 30
    timer.join()


def test_acks_that_can_t_be_written_stop_no_reading(share: Share, caplog: pytest.LogCaptureFixture) -> None:
    sent = share.write(1)
    (share.path / "b" / "acks.json").mkdir(parents=True)
    source = share.source()
    share.passed["a"] = 1
    got = now(source)
    assert [one.body for one in got] == sent
    source.ack(got)
    source.close()
    assert "directory.acks-not-written" in caplog.text
