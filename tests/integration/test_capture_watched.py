"""What `run` says of a table whose capture it may not mend by itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from consumer.apply.committing import Committing
from producer.watch import CaptureWatch
from tests.support.applying import World, close_world, open_world, sqlite_url


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


def test_rows_of_a_table_that_capture_takes_in_by_itself_are_named_as_not_sent(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.execute(
        "INSERT INTO item VALUES (1, 'sent', 1)",
        "CREATE TABLE late (id integer PRIMARY KEY)",
        "INSERT INTO late VALUES (1)",
        "CREATE TABLE empty (id integer PRIMARY KEY)",
    )
    Committing(world.node).seal()
    world.execute("ALTER TABLE item RENAME TO thing")
    CaptureWatch(world.node).look()
    told = [record for record in caplog.records if record.getMessage() == "capture.rows_not_sent"]
    assert [record.__dict__["tables"] for record in told] == [("late",)]
    (detail,) = world.query("SELECT detail FROM rf_audit WHERE action = 'capture'")[-1]
    assert json.loads(detail)["had_rows"] == ["late"]


@pytest.mark.containers
def test_what_capture_takes_in_while_another_table_is_held_is_told_too(
    pg_world: World, caplog: pytest.LogCaptureFixture
) -> None:
    pg_world.execute("CREATE TABLE held (id integer PRIMARY KEY)")
    CaptureWatch(pg_world.node).look()
    pg_world.execute(
        "ALTER TABLE held ADD COLUMN more text",
        "CREATE TABLE late (id integer PRIMARY KEY)",
        "INSERT INTO late VALUES (1)",
    )
    caplog.clear()
    with pg_world.node.database.engine.connect() as application:
        application.exec_driver_sql("INSERT INTO held VALUES (1)")
        CaptureWatch(pg_world.node).look()
        told = {record.getMessage(): record.__dict__.get("tables") for record in caplog.records}
        assert told["capture.rows_not_sent"] == ("late",)
        assert told["capture.installed_anew"] == ["late"]
        application.rollback()
    assert CaptureWatch(pg_world.node).look() == ["held"]
    details = pg_world.query("SELECT detail FROM rf_audit WHERE action = 'capture' ORDER BY id")
    assert [json.loads(detail)["installed_anew_for"] for (detail,) in details[-2:]] == [["late"], ["held"]]
