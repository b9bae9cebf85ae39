"""What the sink leaves in the shared folder."""

from __future__ import annotations

import gzip
import os
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from common.errors import OutageError
from common.transports.directory import DirectorySink
from common.wire.compress import Encoding
from tests.contract.sink_source import INCARNATION, SmallTx, envelopes, send_all, single


def name(from_lsn: int, to_lsn: int, node: str = "a", ending: str = ".jsonl") -> str:
    return f"{node}.{INCARNATION}.{from_lsn:020d}-{to_lsn:020d}{ending}"


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


@pytest.fixture
def sink(tmp_path: Path) -> Iterator[DirectorySink]:
    made = DirectorySink(tmp_path, "a")
    yield made
    made.close()


def test_names_say_origin_incarnation_and_lsns(tmp_path: Path, sink: DirectorySink) -> None:
    sent = single("a", 7)
    sink.send(sent)
    assert names(tmp_path / "a") == [name(7, 7)]
    assert (tmp_path / "a" / name(7, 7)).read_bytes() == sent.body


def test_a_forwarder_writes_into_its_own_folder_under_the_origin_s_name(tmp_path: Path, sink: DirectorySink) -> None:
    sink.send(single("store-9", 3))
    assert names(tmp_path / "a") == [name(3, 3, node="store-9")]


def test_a_large_tx_gets_its_name_with_its_last_part(tmp_path: Path, sink: DirectorySink) -> None:
    parts = envelopes(SmallTx("a", 1, [1500] * 10))
    for part in parts[:-1]:
        sink.send(part)
    assert [one for one in names(tmp_path / "a") if not one.startswith(".")] == []
    sink.send(parts[-1])
    assert names(tmp_path / "a") == [name(1, 10)]
    assert (tmp_path / "a" / name(1, 10)).read_bytes() == b"".join(part.body for part in parts)


def test_compressed_files_end_so(tmp_path: Path) -> None:
    sent = single("a", 1)
    sink = DirectorySink(tmp_path, "a", compression="gzip")
    sink.send(sent)
    assert gzip.decompress((tmp_path / "a" / name(1, 1, ending=".jsonl.gz")).read_bytes()) == sent.body


def test_closing_in_the_middle_of_a_tx_leaves_nothing(tmp_path: Path, sink: DirectorySink) -> None:
    sink.send(envelopes(SmallTx("a", 1, [1500] * 10))[0])
    sink.close()
    assert names(tmp_path / "a") == []
    with pytest.raises(OutageError, match="open a new one"):
        sink.send(single("a", 1))


def test_another_tx_in_the_middle_of_one_is_refused(tmp_path: Path, sink: DirectorySink) -> None:
    sink.send(envelopes(SmallTx("a", 1, [1500] * 10))[0])
    with pytest.raises(OutageError, match="lacks parts"):
        sink.send(single("a", 11))
    assert names(tmp_path / "a") == []


@pytest.mark.parametrize("compression", [None, "gzip", "zstd"])
def test_the_same_tx_cut_differently_is_the_same_file(tmp_path: Path, compression: Encoding | None) -> None:
    tx = SmallTx("a", 1, [1500] * 10)
    for max_batch_bytes in (4096, 8192):
        sink = DirectorySink(tmp_path, "a", compression=compression)
        for part in envelopes(tx, max_batch_bytes):
            sink.send(part)
        assert sink.confirmed() == 10
    assert len(names(tmp_path / "a")) == 1


def test_other_batches_under_the_same_lsns_are_an_error_and_replace_nothing(
    tmp_path: Path, sink: DirectorySink
) -> None:
    """A node that was put back from a copy would do that."""
    sink.send(single("a", 1))
    before = (tmp_path / "a" / name(1, 1)).read_bytes()
    rewound = DirectorySink(tmp_path, "a")
    with pytest.raises(OutageError, match="rejoin"):
        rewound.send(single("a", 1, size=9))
    assert rewound.confirmed() == 0
    assert (tmp_path / "a" / name(1, 1)).read_bytes() == before
    assert names(tmp_path / "a") == [name(1, 1)]


def test_a_share_that_is_not_mounted_is_an_outage_and_is_not_made(tmp_path: Path) -> None:
    share = tmp_path / "share"
    with pytest.raises(OutageError, match="mount the share") as raised:
        DirectorySink(share, "a")
    assert str(share) in str(raised.value)
    assert not share.exists()


def test_a_link_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "a").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OutageError, match="links are not followed"):
        DirectorySink(tmp_path, "a")


def test_the_embedded_default_makes_its_folder(tmp_path: Path) -> None:
    DirectorySink(tmp_path / "new" / "exchange", "a", create_root=True).send(single("a", 1))
    assert names(tmp_path / "new" / "exchange" / "a") == [name(1, 1)]


def test_a_share_that_goes_away_is_an_outage(tmp_path: Path, sink: DirectorySink) -> None:
    (tmp_path / "a").rmdir()
    with pytest.raises(OutageError, match="mount the share"):
        sink.send(single("a", 1))


def test_half_files_of_a_killed_predecessor_are_removed(tmp_path: Path, sink: DirectorySink) -> None:
    (tmp_path / "a" / ".rowferry-00.tmp").write_bytes(b"half")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / ".rowferry-00.tmp").write_bytes(b"another node's")
    DirectorySink(tmp_path, "a")
    assert names(tmp_path / "a") == []
    assert names(tmp_path / "b") == [".rowferry-00.tmp"]


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let no file grow over `size` bytes, as a full disk would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_write_that_fails_leaves_nothing_and_goes_on_later(tmp_path: Path, sink: DirectorySink) -> None:
    small, large = single("a", 1), single("a", 2, size=100_000)
    sink.send(small)
    with largest_file(50_000), pytest.raises(OutageError, match="raise the limit") as raised:
        sink.send(large)
    assert str(tmp_path / "a") in str(raised.value)
    assert sink.confirmed() == 1
    assert names(tmp_path / "a") == [name(1, 1)]
    again = DirectorySink(tmp_path, "a")
    again.send(large)
    assert names(tmp_path / "a") == [name(1, 1), name(2, 2)]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of half a MiB, where this account may mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"may not mount a small disk: {mounted.stderr.decode().strip()}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_is_an_outage_and_nothing_is_lost(small_disk: Path) -> None:
    sink = DirectorySink(small_disk, "a")
    sent = [single("a", lsn, size=100_000) for lsn in range(1, 11)]
    with pytest.raises(OutageError, match="free space"):
        send_all(sink, *sent)
    out = sink.confirmed()
    assert 0 < out < 10
    assert names(small_disk / "a") == [name(lsn, lsn) for lsn in range(1, out + 1)]
    (small_disk / "a" / name(1, 1)).unlink()
    DirectorySink(small_disk, "a").send(sent[out])
    assert (small_disk / "a" / name(out + 1, out + 1)).read_bytes() == sent[out].body


def test_a_read_only_disk_is_an_outage(small_disk: Path) -> None:
    sink = DirectorySink(small_disk, "a")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(OutageError, match="mount it for writing"):
        sink.send(single("a", 1))


def test_more_parts_may_follow_is_not_confirmed(sink: DirectorySink) -> None:
    sink.send(single("a", 5))
    sink.send(replace(single("a", 6), closes_lsn=None))
    assert sink.flush(1) == 5
