"""Files of a shared folder that stay torn: each a dead letter, however little of it came."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from common.transports.directory import DirectorySource
from common.wire.compress import decompress
from consumer.intake import Intake
from tests.support.applying import Origin, Tx, World, close_world, open_world, sqlite_url


@pytest.fixture
def here(tmp_path: Path) -> Iterator[World]:
    world = open_world(sqlite_url(tmp_path))
    yield world
    close_world(world)


def put(share: Path, tx: Tx, body: bytes, ending: str = ".jsonl") -> None:
    (share / "a").mkdir(parents=True, exist_ok=True)
    header = tx.header
    name = f"a.{header.incarnation}.{header.from_lsn:020d}-{header.to_lsn:020d}{ending}"
    (share / "a" / name).write_bytes(body)


def take(world: World, share: Path) -> None:
    """Take what is there, as `run --once` does."""
    intake = Intake(
        world.node,
        "directory",
        lambda: DirectorySource(share, "here", settle_seconds=0, create_root=True),
        None,
        threading.Event(),
    )
    with closing(intake):
        while intake.step(0):
            pass


WRAPPED_NOTHING = gzip.compress(b"", mtime=0)
TORN = [(b"", ".jsonl"), (b"{", ".jsonl"), (b"", ".jsonl.gz"), (b"\x1f", ".jsonl.gz"), (WRAPPED_NOTHING, ".jsonl.gz")]


@pytest.mark.parametrize(("torn", "ending"), TORN)
def test_a_file_of_which_next_to_nothing_came_is_a_dead_letter(
    here: World, tmp_path: Path, torn: bytes, ending: str
) -> None:
    share, origin = tmp_path / "share", Origin("a")
    first, second = origin.put(1, "one", 10), origin.put(2, "two", 20)
    put(share, first, torn, ending)
    put(share, second, second.body)
    take(here, share)
    take(here, share)
    ((source, reason, body),) = here.query("SELECT source_node, reason, body FROM rf_dead_letter")
    assert (source, reason, decompress(body, "zstd")) == ("a", "checksum", torn)
    assert [row[:2] for row in here.rows()] == [(2, "two")]
    assert here.query("SELECT last_lsn, highest_lsn FROM rf_sync_state WHERE peer = 'a'") == [(0, 2)]
    put(share, first, gzip.compress(first.body) if ending.endswith(".gz") else first.body, ending)
    take(here, share)
    assert [row[:2] for row in here.rows()] == [(1, "one"), (2, "two")]
    assert here.query("SELECT last_lsn FROM rf_sync_state WHERE peer = 'a'") == [(2,)]
