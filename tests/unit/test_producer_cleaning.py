"""Housekeeping in the exchange folder: a file goes when every known peer has passed it, not before."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from common.clock import SystemClock
from common.config.model import Config, DirectorySection
from common.runtime.node import Node
from common.schema import tables as rf
from common.transports.directory import DirectorySink
from common.transports.directory.acks import Acks, write_acks
from producer.cleaning import DirectoryCleaning
from producer.packing import Packing, pack
from tests.support.producing import FACTS, INCARNATION, MemoryDatabase, MemoryLog


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    database = MemoryDatabase(tmp_path / "node.db")
    settings = {"node": {"id": "shop", "database": "sqlite:///x.db"}, "directory": {"path": str(tmp_path / "exchange")}}
    yield Node(Config.model_validate(settings), database.as_port, FACTS, SystemClock())
    database.close()


def know(node: Node, *peers: str) -> None:
    row = {"incarnation": "i", "is_self": False, "first_seen_us": 1, "last_seen_us": 1}
    with node.database.engine.begin() as connection:
        connection.execute(sa.insert(rf.node), [{"node_id": peer, **row} for peer in peers])


def section(node: Node) -> DirectorySection:
    assert node.config.directory is not None
    return node.config.directory


def memory_log(node: Node) -> MemoryLog:
    log = node.database.log(FACTS)
    assert isinstance(log, MemoryLog)
    return log


def write_files(node: Node) -> Path:
    """Write three files of one tx each; return their folder."""
    log = memory_log(node)
    folder = section(node).path
    sink = DirectorySink(folder, "shop", create_root=True)
    for note in ("one", "two", "three"):
        log.add(note)
    for envelope in pack(log.read(0, 10**6), Packing(8192, 1)):
        sink.send(envelope)
    sink.close()
    return folder


def passes(folder: Path, peer: str, lsn: int) -> None:
    (folder / peer).mkdir(exist_ok=True)
    write_acks(folder, Acks(peer, {("shop", INCARNATION): lsn}), 1)


def step(node: Node) -> None:
    assert not DirectoryCleaning(node, section(node)).step(0)


def test_files_stay_until_every_known_peer_has_passed_them(node: Node) -> None:
    folder = write_files(node)
    own = folder / "shop"
    step(node)
    assert len(list(own.glob("*.jsonl"))) == 3, "nobody is known: readers may still come"
    know(node, "office", "depot")
    passes(folder, "office", 3)
    step(node)
    assert len(list(own.glob("*.jsonl"))) == 3, "one peer has passed nothing"
    passes(folder, "depot", 2)
    step(node)
    assert [path.name[-26:] for path in own.glob("*.jsonl")] == [f"{3:020d}.jsonl"]


def test_before_the_first_file_there_is_nothing_to_do(node: Node, caplog: pytest.LogCaptureFixture) -> None:
    step(node)
    assert not caplog.records
