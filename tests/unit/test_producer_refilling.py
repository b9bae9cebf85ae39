"""What a reader lacks and the shared folder has no more is written again, where the log has it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from common.clock import SystemClock
from common.config.model import Config
from common.errors import OutageError
from common.ports.sink import Sink
from common.runtime.node import Node
from common.schema import tables as rf
from common.transports.directory import DirectorySink
from common.transports.directory.acks import Acks, write_acks
from common.wire.decode import read_body
from common.wire.records import Part
from producer.cleaning import DirectoryCleaning
from producer.cursors import Cursors
from producer.log import NodeLogs
from producer.packing import Packing, pack
from producer.refilling import Refilling, uncovered
from tests.support.producing import FACTS, INCARNATION, MemoryDatabase, MemoryLog

PACKING = Packing(8192, 1)


class Shop:
    """A node with six txs of one change each, all of them in the folder."""

    def __init__(self, folder: Path) -> None:
        self.exchange = folder / "exchange"
        self.database = MemoryDatabase(folder / "node.db")
        settings = {"node": {"id": "shop", "database": "sqlite:///x.db"}, "directory": {"path": str(self.exchange)}}
        self.node = Node(Config.model_validate(settings), self.database.as_port, FACTS, SystemClock())
        self.cursors = Cursors(self.database.as_port, SystemClock())
        self.log = self.database.logs[INCARNATION]
        for number in range(1, 7):
            self.log.add(f"n{number}")
        self.database.note_txs()
        self.stop = threading.Event()
        self.cleaning = self.restarted()
        sink = self.open_sink()
        for envelope in pack(self.log.read(0, 10**6), PACKING):
            sink.send(envelope)
        sink.close()
        self.cursors.save("directory", INCARNATION, 6)

    def restarted(self) -> DirectoryCleaning:
        directory = self.node.config.directory
        assert directory is not None
        logs = NodeLogs(self.database.as_port, FACTS)
        refilling = Refilling(self.exchange, logs, self.cursors, PACKING, self.open_sink, self.stop)
        self.cleaning = DirectoryCleaning(self.node, directory, refilling)
        return self.cleaning

    def open_sink(self, on_confirmed: Callable[[], None] = lambda: None) -> Sink:
        return DirectorySink(self.exchange, "shop", create_root=True)

    def know(self, *peers: str) -> None:
        row = {"incarnation": "i", "is_self": False, "first_seen_us": 1, "last_seen_us": 1}
        with self.database.engine.begin() as connection:
            for peer in peers:
                connection.execute(sa.insert(rf.node).values(node_id=peer, **row))

    def files(self) -> list[Path]:
        return sorted((self.exchange / "shop").glob("*.jsonl"))

    def there(self) -> list[int]:
        """Return the first LSN of each tx in the folder."""
        parts = [part for path in self.files() for part in read_body(path.read_bytes())]
        return [part.header.from_lsn for part in parts if isinstance(part, Part)]

    def lose(self, *lsns: int) -> None:
        for lsn in lsns:
            self.files()[self.there().index(lsn)].unlink()

    def age(self) -> None:
        for path in self.files():
            os.utime(path, (1_000_000_000, 1_000_000_000))

    def says(self, peer: str, lsn: int, at_us: int = 1) -> None:
        (self.exchange / peer).mkdir(exist_ok=True)
        write_acks(self.exchange, Acks(peer, {("shop", INCARNATION): lsn}), at_us)


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    one = Shop(tmp_path)
    yield one
    one.database.close()


def test_what_a_reader_lacks_and_nobody_has_deleted_is_left_alone(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    shop.says("office", 2)
    before = [(path, path.stat().st_ino) for path in shop.files()]
    shop.cleaning.look()
    assert [(path, path.stat().st_ino) for path in shop.files()] == before
    assert not caplog.records
    shop.lose(4)
    shop.cleaning.look()
    assert shop.there() == [1, 2, 3, 4, 5, 6], "deleted since"


def test_what_was_deleted_by_hand_is_written_again_for_who_lacks_it(shop: Shop) -> None:
    shop.says("office", 2)
    shop.lose(1, 2, 3, 5)
    shop.cleaning.look()
    assert shop.there() == [3, 4, 5, 6], "office has the first two"


def test_who_has_all_is_written_nothing(shop: Shop) -> None:
    shop.says("office", 6)
    shop.lose(1, 2, 3, 4, 5, 6)
    shop.cleaning.look()
    assert shop.there() == []


def test_what_the_relay_has_not_written_yet_is_left_to_it(shop: Shop) -> None:
    shop.log.add("n7")
    shop.database.note_txs()
    shop.says("office", 2)
    shop.lose(6)
    shop.cleaning.look()
    assert shop.there() == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("heard_of", [("office", "depot"), ()])
def test_for_who_has_said_nothing_since_its_files_were_given_up_nothing_is_written(
    shop: Shop, heard_of: tuple[str, ...]
) -> None:
    shop.know(*heard_of)
    shop.says("office", 6)
    shop.says("depot", 2)
    shop.age()
    for cleaning in (shop.cleaning, shop.restarted()):
        cleaning.look()
        assert shop.there() == []
    shop.says("depot", 2, at_us=2)
    shop.cleaning.look()
    assert shop.there() == [3, 4, 5, 6], "it is back"


def test_who_does_not_come_on_is_served_once(shop: Shop) -> None:
    shop.says("office", 2)
    for _ in range(2):
        shop.lose(3)
        shop.cleaning.look()
    assert shop.there() == [1, 2, 4, 5, 6]
    shop.says("office", 1)
    shop.cleaning.look()
    assert shop.there() == [1, 2, 3, 4, 5, 6], "it was put back"


def test_who_has_rejoined_and_not_run_since_is_waited_for(shop: Shop) -> None:
    shop.lose(1, 2, 3, 4, 5, 6)
    (shop.exchange / "office").mkdir()
    write_acks(shop.exchange, Acks("office", had={("shop", INCARNATION): 4}), 1)
    shop.cleaning.look()
    assert shop.there() == []
    shop.says("office", 4)
    shop.cleaning.look()
    assert shop.there() == [5, 6]


def test_what_the_log_has_no_more_is_said_and_the_rest_written(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    shop.says("office", 1)
    shop.lose(2, 3, 4)
    del shop.log.txs[:3]
    shop.cleaning.look()
    assert shop.there() == [1, 4, 5, 6]
    assert [record.message for record in caplog.records] == ["directory.gone", "directory.written_again"]
    caplog.clear()
    shop.cleaning.look()
    assert not caplog.records


def test_the_log_of_an_earlier_life_is_written_again_too(shop: Shop) -> None:
    earlier = shop.database.logs["inc-0"] = MemoryLog("inc-0")
    earlier.add("a", "b")
    shop.database.note_txs()
    shop.cursors.save("directory", "inc-0", 2)
    shop.says("office", 6)
    shop.lose(1, 2, 3, 4, 5, 6)
    shop.cleaning.look()
    (file,) = shop.files()
    assert file.name.startswith("shop.inc-0.")


def test_a_node_that_stops_leaves_the_rest_for_the_next_time(shop: Shop) -> None:
    shop.says("office", 0)
    shop.lose(1, 2, 3, 4, 5, 6)
    shop.stop.set()
    shop.cleaning.look()
    assert shop.there() == []
    shop.stop.clear()
    shop.cleaning.look()
    assert shop.there() == [1, 2, 3, 4, 5, 6]


def test_a_full_share_is_an_outage_and_tried_again(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.says("office", 2)
    shop.lose(3)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OutageError, match="free space"):
        shop.cleaning.look()
    monkeypatch.undo()
    shop.cleaning.look()
    assert shop.there() == [1, 2, 3, 4, 5, 6]


@given(
    st.integers(0, 20),
    st.integers(0, 20),
    st.lists(st.tuples(st.integers(1, 20), st.integers(0, 6)).map(lambda one: (one[0], one[0] + one[1]))),
)
def test_what_is_uncovered_is_what_no_file_has(after: int, until: int, there: list[tuple[int, int]]) -> None:
    covered = {lsn for first, last in there for lsn in range(first, last + 1)}
    stretches = list(uncovered(after, until, there))
    assert [lsn for before, last in stretches for lsn in range(before + 1, last + 1)] == [
        lsn for lsn in range(after + 1, until + 1) if lsn not in covered
    ]
    assert all(before < last for before, last in stretches)
