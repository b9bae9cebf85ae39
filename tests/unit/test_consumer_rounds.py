"""Rounds come out in order, whatever is read ahead; what must be read with care never is."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing

import pytest

from common.ports.source import Delivery
from common.wire.records import BatchHeader
from consumer.apply.ahead import Ahead
from consumer.incoming import Incoming
from consumer.plain.group import PlainGroup, Ready
from consumer.rounds import Round, Rounds

MOST = 3


class Reader:
    """Reads each delivery as one tx of one change, and knows on which thread."""

    def __init__(self) -> None:
        self.threads: dict[str, str] = {}
        self.careful: dict[str, bool] = {}
        self.fails: str | None = None

    def read(self, delivery: Delivery, careful: bool) -> list[Incoming]:
        name = delivery.body.decode()
        self.threads[name], self.careful[name] = threading.current_thread().name, careful
        if name == self.fails:
            raise ZeroDivisionError
        return [Incoming("a", name, "q", None, delivery.body)]

    def prepare(self, txs: Sequence[Incoming]) -> Ahead:
        return Ahead.__new__(Ahead)


class Lane:
    """A short way on which nothing, or just the deliveries named by small letters, can go."""

    def __init__(self, *, is_open: bool = False) -> None:
        self.is_open = is_open

    def begin(self) -> PlainGroup | None:
        return PlainGroup(0) if self.is_open else None

    def take(self, group: PlainGroup, delivery: Delivery) -> bool:
        if not delivery.body.islower():
            return False
        group.changes += 1
        return True

    def ready(self, group: PlainGroup) -> None:
        group.ready = Ready([], None)


@pytest.fixture
def reader() -> Reader:
    return Reader()


@pytest.fixture
def rounds(reader: Reader) -> Iterator[Rounds]:
    with closing(Rounds(reader.read, reader.prepare, MOST, Lane())) as made:
        yield made


def deliveries(names: str, *, redelivered: bool = False) -> list[Delivery]:
    return [Delivery(name.encode(), "q", name, redelivered=redelivered) for name in names]


def names(rounds: Rounds) -> str:
    return "".join(tx.tx_id for tx in rounds.next().txs)


Start = Callable[[Rounds], None]


@pytest.mark.parametrize("start", [Rounds.start, lambda rounds: None], ids=["ahead", "in turn"])
def test_rounds_are_bounded_and_in_order(rounds: Rounds, start: Start) -> None:
    rounds.add(deliveries("abcdefg"), careful=False)
    found = []
    while rounds.has_next():
        start(rounds)
        found.append(names(rounds))
    assert found == ["abc", "def", "g"]


def test_the_next_round_is_read_by_another_thread_and_prepared(rounds: Rounds, reader: Reader) -> None:
    rounds.add(deliveries("abcd"), careful=False)
    assert rounds.next().ahead is None
    rounds.start()
    assert rounds.next().ahead is not None
    assert reader.threads["a"] == threading.current_thread().name
    assert reader.threads["d"].startswith("rowferry-read-ahead")


def test_what_came_before_is_read_with_care_and_in_its_turn(rounds: Rounds, reader: Reader) -> None:
    rounds.add(deliveries("abcd"), careful=False)
    rounds.add(deliveries("e", redelivered=True), careful=False)
    rounds.add(deliveries("fg"), careful=True)
    assert not rounds.next().careful
    rounds.start()
    assert reader.threads.keys() == {"a", "b", "c"}
    second = rounds.next()
    assert (second.careful, [tx.tx_id for tx in second.txs]) == (True, ["d", "e", "f"])
    assert rounds.next().careful
    assert reader.careful == {name: name in "efg" for name in "abcdefg"}


def test_what_is_read_with_care_comes_in_short_rounds(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that dies again and again must come on: what a round has done is done only when all of it is."""
    monkeypatch.setattr("consumer.rounds._MOST_CAREFUL", 2)
    with closing(Rounds(reader.read, reader.prepare, 100, Lane())) as rounds:
        rounds.add(deliveries("abcde"), careful=True)
        rounds.add(deliveries("fghi"), careful=False)
        found = []
        while rounds.has_next():
            found.append(names(rounds))
    assert found == ["ab", "cd", "ef", "ghi"]


def test_nothing_is_read_beside_a_tx_in_parts_or_where_there_is_no_backlog() -> None:
    header = BatchHeader("t", "a", "i", "", 1, 500, 0, {}, changes=500, part=1, parts=1)
    whole, parts = Incoming("a", "t", "q", header, b"bytes"), Incoming("a", "t", "q", header, None)
    found = []
    for txs in ([whole], [whole, parts], [Incoming("a", "t", "q", None, b"bytes")]):
        one = Round()
        one.add(deliveries("a")[0], txs)
        found.append(one.goes_with_reading)
    assert found == [True, False, False]


def test_a_fault_while_reading_ahead_comes_out_in_its_turn(rounds: Rounds, reader: Reader) -> None:
    reader.fails = "d"
    rounds.add(deliveries("abcd"), careful=False)
    assert names(rounds) == "abc"
    rounds.start()
    with pytest.raises(ZeroDivisionError):
        rounds.next()


def test_what_is_dropped_is_gone_with_what_was_under_way(rounds: Rounds, reader: Reader) -> None:
    reader.fails = "d"
    rounds.add(deliveries("abcdefg"), careful=False)
    assert names(rounds) == "abc"
    rounds.start()
    rounds.drop()
    assert not rounds.has_next()


def test_what_is_plain_goes_together_and_the_rest_by_itself(reader: Reader) -> None:
    with closing(Rounds(reader.read, reader.prepare, MOST, Lane(is_open=True))) as rounds:
        rounds.add(deliveries("abXYcdef"), careful=False)
        rounds.add(deliveries("gh", redelivered=True), careful=False)
        found = []
        while rounds.has_next():
            rounds.start()
            one = rounds.next()
            found.append((one.plain is not None, "".join(delivery.body.decode() for delivery in one.deliveries)))
    assert found == [(True, "ab"), (False, "X"), (False, "Y"), (True, "cde"), (True, "f"), (False, "gh")]
    assert set(reader.careful) == {"X", "Y", "g", "h"}
