"""A database that is away when `run` starts: waited for, loudly; with `--once` exit code 5."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.nodes import CliNode
from tests.support.waiting import wait_for

NOBODY_LISTENS = "postgresql://nobody@127.0.0.1:1/nothing"


@pytest.fixture
def shop(tmp_path: Path) -> CliNode:
    return CliNode.init("shop", tmp_path, NOBODY_LISTENS, "--directory", str(tmp_path / "exchange"))


def test_run_waits_and_can_be_stopped(shop: CliNode) -> None:
    running = shop.start()
    try:
        wait_for(lambda: running.tail().count("run.can_not_start") >= 3, 30, "several tries")
        assert running.stop() == 0
    finally:
        shop.close()
    assert "Traceback" not in running.tail()


def test_once_ends_with_unreachable(shop: CliNode) -> None:
    done = shop.call("run", "--once")
    assert done.returncode == 5
    assert "127.0.0.1" in done.stderr
