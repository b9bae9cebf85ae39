"""Looking now and then: when it is time, again after an error, and a wait that can be ended."""

from __future__ import annotations

import threading

import pytest

from common.periodic import Periodic


class Looking(Periodic):
    name = "looking"

    def __init__(self) -> None:
        self.now = 1_000.0
        self.looks = 0
        self.fails = False
        super().__init__(lambda: self.now)

    def look(self) -> bool:
        self.looks += 1
        if self.fails:
            raise ValueError("no luck")
        self.look_again_in(60)
        return True


def test_it_looks_at_once_and_then_when_it_is_time() -> None:
    service = Looking()
    assert service.step(0) is True
    assert service.step(0) is False
    service.now += 59.9
    assert service.step(0) is False
    service.now += 0.1
    assert service.step(0) is True
    assert service.looks == 2
    service.close()
    service.close()


def test_a_look_that_failed_comes_again_at_the_next_step() -> None:
    service = Looking()
    service.fails = True
    for _ in range(2):
        with pytest.raises(ValueError, match="no luck"):
            service.step(0)
    service.fails = False
    assert service.step(0) is True
    assert service.step(0) is False


def test_a_wait_is_ended_by_a_wake() -> None:
    service = Looking()
    service.step(0)
    began = threading.Event()

    def wait() -> None:
        began.set()
        service.step(600)

    thread = threading.Thread(target=wait)
    thread.start()
    began.wait()
    while thread.is_alive():
        # A wake before the wait began is forgotten: the step looks first.
        service.wake()
        thread.join(0.01)
    assert service.looks == 1
