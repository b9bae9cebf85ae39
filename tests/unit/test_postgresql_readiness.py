"""Waiting for a socket, with `poll` and, as on Windows, without it."""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator
from contextlib import closing

import pytest

from common.dialects.postgresql.readiness import Readiness


@pytest.fixture(params=["poll", "select"])
def pair(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[socket.socket, ...]]:
    if request.param == "select":
        monkeypatch.delattr(select, "poll")
    here, there = socket.socketpair()
    with closing(here), closing(there):
        yield here, there


def test_it_tells_whether_there_is_something_to_be_read(pair: tuple[socket.socket, ...]) -> None:
    here, there = pair
    ready = Readiness(here.fileno())
    assert not ready.wait(writable=True)
    there.sendall(b"x")
    assert ready.wait(writable=True)
    assert ready.wait()


def test_an_end_is_something_to_be_read(pair: tuple[socket.socket, ...]) -> None:
    here, there = pair
    there.close()
    assert Readiness(here.fileno()).wait()
    assert Readiness(here.fileno()).wait(writable=True)
