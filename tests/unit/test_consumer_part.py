"""What the consumer offers to the hosts."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from common.clock import to_iso
from consumer.part import part
from consumer.services import passed
from tests.support.applying import Origin, World, Write, close_world, item, open_world, sqlite_url


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = open_world(sqlite_url(tmp_path), directory={"path": str(tmp_path / "exchange")})
    yield made
    close_world(made)


def test_status_tells_gaps_and_unfinished_txs(world: World) -> None:
    a = Origin("a")
    one, _, three = (a.put(number, "x", number) for number in range(1, 4))
    large = Origin("b").tx(*(item(100 + number, "x" * 300, number + 1) for number in range(30)))
    world.receive(one.body, three.body, large.parts(4096)[0])
    world.clock.pass_seconds(5)
    assert part.status(world.node) == {
        "unfinished_txs": 1,
        "oldest_unfinished_seconds": 5.0,
        "unfinished": [{"peer": "b", "txs": 1, "changes": 30, "parts": 1, "oldest_seconds": 5.0}],
        "stepped_back": {},
        "unapplied": [
            {"work": "source a", "pending": 1, "unit": "changes of a not yet applied"}
            | {"oldest_seconds": 0.0, "still_since": to_iso(world.clock.us), "still_seconds": 0.0}
            | {"stalled": False, "excused": None},
            {"work": "source b", "pending": 30, "unit": "changes of b not yet applied"}
            | {"oldest_seconds": 5.0, "still_since": to_iso(world.clock.us - 5_000_000), "still_seconds": 5.0}
            | {"stalled": False, "excused": None},
        ],
        "gaps": [
            {"peer": "a", "incarnation": "inc1", "after_lsn": 1, "highest_lsn": 3}
            | {"heals": False, "asked": 0, "asked_at": None, "gone_until_lsn": None}
        ],
    }
    found = passed(world.node, {("a", "inc1"), ("a", "other")})
    assert {key: head.lsn for key, head in found.items()} == {("a", "inc1"): 1}


def test_one_look_tells_how_far_all_logs_are_passed(world: World) -> None:
    logs = {(f"node-{number}", "inc1") for number in range(50)}
    world.receive(*(Origin(name).put(number, "x", 1).body for number, (name, _) in enumerate(sorted(logs))))
    asked: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_more: Any) -> None:
        asked.append(statement)

    sa.event.listen(sa.Engine, "before_cursor_execute", note)
    try:
        found = passed(world.node, logs)
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", note)
    assert found.keys() == logs
    assert [statement.split()[0] for statement in asked] == ["BEGIN", "SELECT"]


def test_there_is_one_intake_for_each_way_in(world: World, tmp_path: Path) -> None:
    (tmp_path / "exchange").mkdir()
    intake, retries, standing, folder_watch, watchdog, purge = part.services(world.node, threading.Event())
    services = intake, retries, standing, folder_watch, watchdog, purge
    names = ["intake-directory", "reshaped", "standing", "put-back", "watchdog-in", "purge-consumer"]
    assert [service.name for service in services] == names
    assert not intake.step(0)
    folder = tmp_path / "exchange" / "a"
    folder.mkdir()
    tx = Origin("a").put(1, "one", 10)
    (folder / f"a.inc1.{1:020}-{1:020}.jsonl").write_bytes(tx.body)
    assert intake.step(0)
    assert [row[1] for row in world.rows()] == ["one"]
    assert not standing.step(0)
    assert not watchdog.step(0)
    for service in services:
        service.close()
        service.close()


def test_after_migrate_counts_what_could_be_applied(world: World) -> None:
    tx = Origin("a").tx(Write("I", "fresh", {"id": 1, "name": "x", "price": "1.50"}, 10))
    world.receive(tx.body)
    assert part.after_migrate(world.node) == 0
    world.execute("CREATE TABLE fresh (id INTEGER PRIMARY KEY, name TEXT, price NUMERIC(12, 2))")
    world.node.database.capture().install(list(world.node.captured_tables().values()))
    assert part.after_migrate(world.node) == 1


def test_the_commands_are_named_as_the_contract_says() -> None:
    assert list(part.commands()) == [
        "import-change-log",
        "pull",
        "dlq",
        "conflicts",
        "audit",
        "snapshot",
        "rejoin",
        "verify",
        "adopt",
    ]
