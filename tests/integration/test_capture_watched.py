"""What `run` says of a table whose capture it may not mend by itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from producer.watch import CaptureWatch
from tests.support.applying import close_world, open_world, sqlite_url


def test_a_problem_is_said_once_while_it_lasts_and_again_when_it_comes_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    url = sqlite_url(tmp_path)
    world = open_world(url, node={"id": "here", "database": url, "auto_migrate": False})
    watch = CaptureWatch(world.node)
    for turn in ("first", "second"):
        world.execute(f"ALTER TABLE item ADD COLUMN {turn} TEXT")
        assert [watch.look(), watch.look()] == [["item"], ["item"]]
        world.node.database.capture().install(list(world.node.captured_tables().values()))
        assert watch.look() == []
    close_world(world)
    assert [record.getMessage() for record in caplog.records if record.name == "producer.watch"] == [
        "capture.incomplete",
        "capture.incomplete",
    ]
