"""What tests run in a process of its own, because it dies or because its memory is measured."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest.mock import patch

from common.clock import SystemClock
from common.crash_points import CrashPoint, arm
from common.dialects import open_database
from common.runtime.node import Node, read_facts
from common.versions import NEVER, Version
from common.wire.encode import encode_change, encode_tx
from common.wire.plain import PlainTx
from common.wire.records import TxHeader
from consumer.apply.prepare import Prepared, Preparer
from consumer.dead_letters.copies import BrokerCopies
from consumer.dead_letters.editing import read_edited
from consumer.dead_letters.operations import DeadLetters, Replay
from consumer.dead_letters.table_store import Selection
from consumer.incoming import Incoming
from consumer.intake import Intake
from consumer.plain import reading
from consumer.rejoining import Rejoining
from tests.support.applying import TABLES, WHEN, MemorySource, config_for, tx_id_of
from tests.support.mirror import FileMirror

CHILD_SECONDS = 300
_MEBIBYTE = 1024 * 1024


def run_child(work: Callable[..., None], *arguments: Any) -> int | None:
    """Run `work` in a fresh process; return its exit code, negative for a signal."""
    process = multiprocessing.get_context("spawn").Process(target=work, args=arguments)
    process.start()
    process.join(CHILD_SECONDS)
    if process.is_alive():
        process.kill()
        process.join()
        raise TimeoutError(f"{work.__name__} did not end within {CHILD_SECONDS} s")
    return process.exitcode


def run_children(work: Callable[..., None], calls: Sequence[tuple[Any, ...]]) -> list[int | None]:
    """Run `work` in several processes at the same time; return their exit codes."""
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=work, args=call) for call in calls]
    for process in processes:
        process.start()
    for process in processes:
        process.join(CHILD_SECONDS)
    return [process.exitcode for process in processes]


def _node(url: str) -> Node:
    config = config_for(url)
    database = open_database(url)
    return Node(config, database, read_facts(database, config), SystemClock())


def take(
    url: str, bodies: list[bytes], redelivered: bool = False, point: str | None = None, mirror: str | None = None
) -> None:
    """Let an intake take `bodies`, each as one delivery; die at `point`."""
    node = _node(url)
    source = MemorySource()
    source.put(*bodies, redelivered=redelivered)
    copies = BrokerCopies(node, FileMirror(mirror)) if mirror else None
    intake = Intake(node, "test", lambda: source, copies, threading.Event())
    if point is not None:
        arm(CrashPoint(point))
    while intake.step(0) or source.waiting:
        pass
    intake.close()
    node.database.close()


def take_or_die_of(url: str, bodies: list[bytes], poison: str, redelivered: bool) -> None:
    """The same, but decoding the tx `poison` kills the process, whichever way it goes."""
    decode, decode_plain = Preparer.prepare, reading.plain_txs

    def prepare(self: Preparer, incoming: Incoming) -> Prepared:
        if incoming.tx_id == poison and incoming.error is None:
            os.kill(os.getpid(), signal.SIGKILL)
        return decode(self, incoming)

    def plain_txs(body: bytes, *limits: Any) -> Iterator[PlainTx]:
        if poison.encode() in body:
            os.kill(os.getpid(), signal.SIGKILL)
        return decode_plain(body, *limits)

    with patch.object(Preparer, "prepare", prepare), patch.object(reading, "plain_txs", plain_txs):
        take(url, bodies, redelivered)


def replay_all(
    url: str, point: str | None = None, mirror: str | None = None, in_pieces: bool = False, after_passes: int = 0
) -> None:
    """Replay every open dead letter; die at `point`, when it is reached once more than `after_passes` times."""
    node = _node(url)
    if point is not None:
        arm(CrashPoint(point), after_passes=after_passes)
    copies = BrokerCopies(node, FileMirror(mirror)) if mirror else None
    DeadLetters(node, copies).replay(Selection(), Replay("child", in_pieces=in_pieces), lambda _: None)
    node.database.close()


def replay_edited(url: str, data: bytes, point: str | None = None) -> None:
    """Apply edited dead letters; die at `point`."""
    node = _node(url)
    if point is not None:
        arm(CrashPoint(point))
    DeadLetters(node).replay_edited(read_edited(data, "file"), Replay("child"), lambda _: None)
    node.database.close()


def rejoin(url: str, point: str | None = None) -> None:
    """Let the node begin anew; die at `point`."""
    node = _node(url)
    if point is not None:
        arm(CrashPoint(point))
    Rejoining(node, "child").run(lambda _: None)
    node.database.close()


class HugeTx:
    """A tx of `rows` rows whose lines are made as they are read, so that the test itself needs no memory for them."""

    def __init__(self, rows: int, name_bytes: int) -> None:
        self._rows = rows
        self._name = b"x" * name_bytes
        self.header = TxHeader(tx_id_of("a", 1), "a", "inc1", WHEN, 1, rows, 0, {"item": TABLES["item"]})

    def lines(self) -> Iterator[bytes]:
        for lsn in range(1, self._rows + 1):
            yield encode_change(
                lsn=lsn, tx_id=self.header.tx_id, table="item", op="I", pk=b'{"id":%d}' % lsn, before=None,
                after=b'{"id":%d,"name":"%s","price":"1.50"}' % (lsn, self._name),
                version=Version(0, lsn, "a"), base=NEVER, captured_at=WHEN,
            )  # fmt: skip


def take_huge(url: str, rows: int, name_bytes: int, report: str) -> None:
    """Take a huge tx part by part; write to `report` by how many MiB the process grew."""
    node = _node(url)
    source = MemorySource()
    intake = Intake(node, "test", lambda: source, None, threading.Event())
    intake.step(0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for part in encode_tx(HugeTx(rows, name_bytes)):
        source.put(part.body)
        intake.step(0)
        source.acked.clear()
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    with open(report, "w", encoding="utf-8") as file:
        file.write(str(grown // _MEBIBYTE))
    intake.close()
    node.database.close()
