"""Housekeeping in the exchange folder: a file goes when every known peer has passed it, not before."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from common.clock import SystemClock
from common.config.model import Config, DirectorySection
from common.ops.purging import FILES_MISSED, read_purged
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


def test_who_had_not_read_what_was_too_old_is_told_until_it_has_it(node: Node) -> None:
    folder = write_files(node)
    know(node, "office", "depot")
    passes(folder, "office", 3)
    passes(folder, "depot", 1)
    for path in (folder / "shop").glob("*.jsonl"):
        os.utime(path, (1_000_000_000, 1_000_000_000))
    step(node)
    assert left(folder) == 0
    assert missed(node) == [("depot", 3)]
    step(node)
    assert missed(node) == [("depot", 3)]
    passes(folder, "depot", 2)
    step(node)
    assert missed(node) == [("depot", 3)]
    passes(folder, "depot", 3)
    step(node)
    assert missed(node) == []


def missed(node: Node) -> list[tuple[str, int]]:
    with node.database.engine.connect() as connection:
        return [(name, row.until_lsn) for name, row in read_purged(connection, FILES_MISSED).items()]


def test_before_the_first_file_there_is_nothing_to_do(node: Node, caplog: pytest.LogCaptureFixture) -> None:
    step(node)
    assert not caplog.records


def left(folder: Path) -> int:
    return len(list((folder / "shop").glob("*.jsonl")))


def test_who_only_reads_is_known_by_its_folder(node: Node) -> None:
    folder = write_files(node)
    know(node, "office")
    passes(folder, "office", 3)
    passes(folder, "till", 1)
    step(node)
    assert left(folder) == 2, "till has never sent anything, and lacks two"
    passes(folder, "till", 3)
    (folder / "depot").mkdir()
    (folder / "not a node").mkdir()
    step(node)
    assert left(folder) == 2, "depot has just come"
    passes(folder, "depot", 3)
    step(node)
    assert left(folder) == 0


def test_a_main_that_nobody_has_heard_of_yet_is_waited_for(node: Node) -> None:
    named = node.config.node.model_copy(update={"main": "head"})
    node = replace(node, config=node.config.model_copy(update={"node": named}))
    folder = write_files(node)
    know(node, "office")
    passes(folder, "office", 3)
    step(node)
    assert left(folder) == 3
    passes(folder, "head", 3)
    step(node)
    assert left(folder) == 0


def test_nothing_is_kept_for_a_node_that_was_retired(node: Node) -> None:
    folder = write_files(node)
    know(node, "office", "closed")
    passes(folder, "office", 3)
    passes(folder, "closed", 0)
    with node.database.engine.begin() as connection:
        connection.execute(sa.update(rf.node).where(rf.node.c.node_id == "closed").values(retired_us=1))
    step(node)
    assert left(folder) == 0


def test_a_share_that_can_not_be_listed_loses_nothing(
    node: Node, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_files(node)
    know(node, "office")
    passes(folder, "office", 3)
    cleaning = DirectoryCleaning(node, section(node))

    def fails(path: Path) -> None:
        raise OSError(5, "Input/output error", str(path))

    monkeypatch.setattr(os, "scandir", fails)
    assert not cleaning.look()
    assert not cleaning.look()
    monkeypatch.undo()
    assert left(folder) == 3
    assert [record.message for record in caplog.records] == ["directory.clean-failed"]
    cleaning.look()
    assert left(folder) == 0
