"""A SIGKILL amid a file that is written: what lies there half done goes with the next one, and no live one's."""

from __future__ import annotations

import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from common.crash_points import VARIABLE, CrashPoint
from common.dialects.sqlite.copies import folder_beside
from tests.support.nodes import CliNode


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[CliNode]:
    """A node whose file has no WAL, so that a look at it is a look at a copy."""
    with closing(sqlite3.connect(tmp_path / "app.db")) as connection:
        connection.execute("CREATE TABLE item (id INTEGER PRIMARY KEY)")
    options = ("--directory", str(tmp_path / "exchange"))
    node = CliNode.init("shop", tmp_path / "shop", f"sqlite:///{tmp_path / 'app.db'}", *options)
    node.ok("migrate")
    yield node
    node.close()


def left(folder: Path) -> list[str]:
    """What has a temporary name."""
    return sorted(path.name for path in folder.glob(".rowferry-*"))


@pytest.mark.parametrize("command", [("snapshot", "export", "--out"), ("verify", "--export")])
def test_what_a_killed_command_left_goes_with_the_next_one(
    shop: CliNode, tmp_path: Path, command: tuple[str, ...]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    killed = shop.call(*command, str(out / "one.jsonl"), **{VARIABLE: CrashPoint.FILE_WRITTEN})
    assert killed.returncode == -signal.SIGKILL
    assert len(left(tmp_path)) == 1, "no copy of the database was made: this test shows nothing"
    assert len(left(out)) == 1
    shop.ok(*command, str(out / "one.jsonl"))
    assert (left(tmp_path), left(out)) == ([], [])


def test_the_folder_of_one_that_is_at_work_stays(tmp_path: Path) -> None:
    with folder_beside(tmp_path / "app.db") as one:
        with folder_beside(tmp_path / "app.db") as other:
            assert left(tmp_path) == sorted((one.name, other.name))
        assert left(tmp_path) == [one.name]
    assert left(tmp_path) == []
