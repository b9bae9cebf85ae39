"""Messages that wait are held in memory up to a bound, and come out as they came."""

from __future__ import annotations

import tempfile
from typing import Any

import pytest

from common.ports.source import Delivery
from common.transports.rabbitmq.holding import Holding


def message(number: int, size: int = 100) -> Delivery:
    return Delivery(bytes([number]) * size, "queue", number, headers={"n": number})


def test_what_is_beyond_the_bound_comes_out_as_it_came() -> None:
    holding = Holding(250)
    for number in range(10):
        holding.add(message(number))
    assert (len(holding), holding.bytes_in_memory) == (10, 200)
    assert holding.take(3) == [message(0), message(1), message(2)]
    assert holding.bytes_in_memory == 0
    holding.add(message(10))
    assert holding.take(100) == [message(number) for number in range(3, 11)]
    assert (len(holding), holding.bytes_in_memory, holding.take(1)) == (0, 0, [])
    holding.add(message(1))
    assert holding.take(1) == [message(1)]
    holding.close()
    holding.close()


def test_one_message_larger_than_the_bound_is_held() -> None:
    holding = Holding(10)
    holding.add(message(1, 1000))
    assert holding.take(1) == [message(1, 1000)]


def test_about_32_mib_at_a_time() -> None:
    holding = Holding(1024)
    for number in range(5):
        holding.add(message(number, 20 * 1024 * 1024))
    assert [len(holding.take(500)) for _ in range(4)] == [2, 2, 1, 0]


def test_a_full_disk_keeps_them_in_memory_and_is_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    holding = Holding(150)
    for number in range(5):
        holding.add(message(number))
    assert holding.bytes_in_memory == 500
    assert holding.take(5) == [message(number) for number in range(5)]
    assert [one.getMessage() for one in caplog.records] == ["messages_not_put_aside"]
