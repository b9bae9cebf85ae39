"""Samples a minute: what they say, whoever takes them, whatever the clock does; and the series made of them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa

from common.errors import OutageError
from common.ops import counting, samples
from common.ops.progress import sides_of
from common.ops.sampling import Sampler
from common.ops.series import LEVELS, RATES, Series, Window, read_series
from common.runtime.parts import load_parts
from common.schema import tables as rf
from producer.cursors import Cursors
from tests.support.applying import DATABASES, Origin, Tx, World, Write, application, item, world_on
from tests.support.cli import rowferry


@pytest.fixture(params=DATABASES)
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    with world_on(request, tmp_path, directory={"path": str(tmp_path / "exchange")}) as made:
        yield made


class Process:
    """A process of the node that takes samples."""

    def __init__(self, world: World, *, stands_back: bool = False) -> None:
        node = world.node
        self.world = world
        look = partial(sides_of, load_parts(), node)
        self.sampler = Sampler(node.database, node.config, node.facts, world.clock, look, stands_back=stands_back)

    def look(self) -> None:
        assert self.sampler.look() is False

    def look_for(self, minutes: int) -> None:
        for _ in range(minutes):
            self.world.clock.pass_seconds(60)
            self.look()


def kept(world: World) -> list[Any]:
    with world.node.database.engine.connect() as connection:
        return list(connection.execute(sa.select(rf.metric).order_by(rf.metric.c.seq)))


def newest(world: World) -> Any:
    return kept(world)[-1]


def seal(world: World) -> int:
    return world.node.database.sealer(world.node.facts).seal().last_lsn


def series(world: World, window: Window = Window.HOUR) -> Series:
    with world.node.database.engine.connect() as connection:
        return read_series(connection, window, world.clock.us)


def test_work_is_counted_from_one_sample_to_the_next(world: World) -> None:
    process = Process(world)
    world.execute("INSERT INTO item VALUES (1, 'a', 1)")
    world.receive(Origin("z").put(90, "before", 10).body)
    seal(world)
    process.look_for(1)
    first = newest(world)
    assert (first.sealed_changes, first.sealed_txs, first.applied_txs) == (0, 0, 0), "counted from here on"
    assert (first.unpublished_changes, first.log_changes) == (1, 1)
    assert first.unpublished_age_us >= 0

    for number in range(2, 6):
        world.execute(f"INSERT INTO item VALUES ({number}, 'a', 1)")
        head = seal(world)
    world.execute("INSERT INTO item VALUES (6, 'a', 1)")
    Cursors(world.node.database, world.clock).save("directory", world.node.facts.incarnation, 3)
    a = Origin("a")
    world.receive(a.tx(item(11, "x", 10), item(12, "x", 10)).body, a.put(13, "x", 11).body)
    process.look_for(1)
    second = newest(world)
    assert (second.sealed_changes, second.sealed_txs) == (head - 1, 4)
    assert second.published_changes == 3
    assert (second.applied_changes, second.applied_txs) == (3, 2)
    assert (second.unpublished_changes, second.log_changes) == (head - 3 + 1, head)
    assert second.queue_messages is None


def test_what_waits_for_people_and_behind_gaps(world: World) -> None:
    process = Process(world)
    process.look_for(1)
    a = Origin("a")
    a.put(1, "lost", 10)
    world.receive(a.put(2, "after a gap", 11).body, Origin("b").tx(Write("I", "unknown", {"id": 1}, 10)).body)
    world.clock.pass_seconds(30)
    process.look_for(1)
    row = newest(world)
    assert (row.dead_letters, row.waiting_conflicts, row.unapplied_changes) == (1, 0, 1)
    assert (row.applied_txs, row.applied_changes) == (0, 0), "it counts once the watermark has passed it"
    world.receive(Origin("a").put(1, "lost", 10).body)
    process.look_for(1)
    row = newest(world)
    assert (row.unapplied_changes, row.applied_txs) == (0, 2)


def test_sources_that_say_they_have_written_more_than_a_column_holds(world: World) -> None:
    process = Process(world)
    process.look_for(1)
    most = 2**63 - 1
    far = [Origin(name, lsn=most - 1).put(number, "x", 10) for number, name in enumerate("xy", start=1)]
    whole = [Origin(name).put(number, "x", 10) for number, name in enumerate("uv", start=10)]
    whole = [Tx(msgspec.structs.replace(tx.header, to_lsn=most), tx.writes) for tx in whole]
    world.receive(*(tx.body for tx in far + whole))
    for _ in range(2):
        process.look_for(1)
        assert newest(world).unapplied_changes == most
        assert newest(world).applied_txs == 2
        assert newest(world).applied_changes > 0


def test_more_txs_than_a_piece(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counting, "_PIECE", 3)
    process = Process(world)
    process.look_for(1)
    a = Origin("a")
    world.receive(*(a.put(number, "x", 10).body for number in range(1, 11)))
    for number in range(21, 28):
        world.execute(f"INSERT INTO item VALUES ({number}, 'a', 1)")
        seal(world)
    process.look_for(1)
    row = newest(world)
    assert (row.applied_txs, row.applied_changes, row.sealed_txs, row.sealed_changes) == (10, 10, 7, 7)


def test_one_sample_a_minute_by_however_many_processes(world: World) -> None:
    run, other, serve = Process(world), Process(world), Process(world, stands_back=True)
    for _ in range(5):
        world.clock.pass_seconds(60)
        for process in (serve, run, other, serve):
            process.look()
    assert [row.minute for row in kept(world)] == [newest(world).minute - 4 + one for one in range(5)]
    assert [row.seq for row in kept(world)] == [1, 2, 3, 4, 5]
    assert [row.marks is not None for row in kept(world)] == [False] * 4 + [True]


def test_serve_takes_over_after_a_minute_and_gives_back(world: World) -> None:
    run, serve = Process(world), Process(world, stands_back=True)
    run.look_for(1)
    serve.look()
    assert len(kept(world)) == 1
    serve.look_for(3)
    assert len(kept(world)) == 4
    for _ in range(3):
        world.clock.pass_seconds(60)
        run.look()
        serve.look()
    assert len(kept(world)) == 7


def test_a_clock_behind_that_of_run_makes_serve_no_second_writer(world: World) -> None:
    run, serve = Process(world), Process(world, stands_back=True)
    for _ in range(4):
        run.look_for(1)
        world.clock.pass_seconds(-120)
        serve.look()
        world.clock.pass_seconds(120)
    assert [row.seq for row in kept(world)] == [1, 2, 3, 4]


def test_two_that_write_at_once_make_one_sample(world: World) -> None:
    process = Process(world)
    process.look_for(1)
    node = world.node
    with node.database.engine.begin() as connection:
        before = samples.newest_sample(connection)
    assert before is not None
    world.clock.pass_seconds(60)
    gauges = samples.Gauges(0, 0, 0, 0, 0, 0, 0, None)
    barrier, found = threading.Barrier(2), []

    def write() -> None:
        from common.retry import in_transaction

        barrier.wait()
        found.append(
            in_transaction(
                node.database,
                lambda connection: samples.write_sample(
                    connection, before, before.totals, gauges, before.marks, world.clock.us
                ),
            )
        )

    threads = [threading.Thread(target=write) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found, key=str) == [2, None]
    assert len(kept(world)) == 2


def test_a_clock_that_goes_back_leaves_no_hole_and_doubles_nothing(world: World) -> None:
    process = Process(world)
    process.look_for(60)
    world.receive(Origin("a").put(1, "x", 10).body)
    world.clock.pass_seconds(-30 * 60)
    process.look_for(20)
    rows = kept(world)
    assert len(rows) == len({row.minute for row in rows}) == 60
    assert newest(world).applied_txs == 1
    drawn = series(world)
    assert drawn.values["dead_letters"][-40:] == (0.0,) * 40, "no hole"
    assert sum(rate or 0 for rate in drawn.values["applied_txs_a_second"]) > 0
    process.look_for(40)
    drawn = series(world)
    assert None not in drawn.values["dead_letters"]
    assert sum(rate * 60 for rate in drawn.values["applied_txs_a_second"] if rate) == pytest.approx(1, rel=0.1)


def test_a_clock_that_was_far_ahead_takes_few_samples_along(world: World) -> None:
    process = Process(world)
    process.look_for(120)
    world.clock.pass_seconds(3650 * 86_400)
    process.look_for(2)
    world.clock.pass_seconds(-3650 * 86_400 - 120)
    process.look_for(3)
    assert len(kept(world)) == 120 - 2 * 10 + 2 + 3
    assert None not in series(world).values["dead_letters"]


def test_what_a_clock_that_was_ahead_has_left_is_not_drawn(world: World) -> None:
    process = Process(world)
    process.look_for(5)
    world.clock.pass_seconds(20 * 60)
    process.look_for(2)
    world.clock.pass_seconds(-22 * 60)
    world.receive(Origin("a").put(1, "x", 10).body)
    process.look_for(10)
    # The node is stopped while the clock comes to where it was before.
    world.clock.pass_seconds(19 * 60)
    process.look_for(1)
    drawn = series(world)
    assert drawn.values["dead_letters"][-31:] == (0.0,) * 11 + (None,) * 19 + (0.0,)
    rates = [rate for rate in drawn.values["applied_txs_a_second"] if rate]
    assert len(rates) == 1, "what was done counts once"


def test_rows_are_bounded_whatever_the_clock_does(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "MOST", 20)
    process = Process(world)
    process.look_for(50)
    assert len(kept(world)) == 20
    for step in (10, -7, 3, 10_000, -9_000, 1) * 10:
        world.clock.pass_seconds(60 * step)
        process.look()
        assert len(kept(world)) <= 20
    process.look_for(25)
    assert {row.minute for row in kept(world)} == {newest(world).minute - one for one in range(20)}


def test_a_node_that_begins_anew_counts_on(world: World) -> None:
    process = Process(world)
    process.look_for(1)
    world.execute("INSERT INTO item VALUES (1, 'a', 1)")
    seal(world)
    marks = counting.read_marks(world.node.database, world.node.facts)
    old = counting.Marks("an earlier one", 7, marks.roads, marks.sources)
    totals = counting.counted(world.node.database, old, marks, counting.Totals(sealed_changes=100, sealed_txs=50))
    assert (totals.sealed_changes, totals.sealed_txs) == (101, 51)
    back = counting.counted(world.node.database, marks, old, totals)
    assert back.sealed_changes >= totals.sealed_changes, "never less than before"


def test_a_database_that_is_away_is_said_once(
    world: World, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = Process(world)
    process.look_for(1)
    database = world.node.database
    with monkeypatch.context() as away, caplog.at_level(logging.INFO):
        away.setattr(type(database), "translate", lambda self, error: OutageError(str(error)))
        world.execute("ALTER TABLE rf_metric RENAME TO rf_metric_away")
        process.look_for(3)
        world.execute("ALTER TABLE rf_metric_away RENAME TO rf_metric")
        process.look_for(2)
    said = [one.getMessage() for one in caplog.records if one.getMessage().startswith("samples.")]
    assert said == ["samples.skipped", "samples.go_on"]
    assert len(kept(world)) == 3


def test_series_are_short_and_tell_holes(world: World) -> None:
    process = Process(world)
    process.look_for(3)
    world.clock.pass_seconds(600)
    process.look_for(2)
    drawn = series(world)
    assert set(drawn.values) == {*RATES, *LEVELS}
    assert len(drawn.begins_us) == 60
    levels = drawn.values["dead_letters"]
    assert levels[-2:] == (0.0, 0.0)
    assert levels[-12:-2] == (None,) * 10
    assert drawn.values["queue_messages"][-1] is None
    assert drawn.begins_us[-1] <= world.clock.us < drawn.begins_us[-1] + 60_000_000
    for window in Window:
        drawn = series(world, window)
        assert all(len(values) == len(drawn.begins_us) <= 200 for values in drawn.values.values())


def test_rates_over_a_restart_and_a_day(world: World) -> None:
    """600 changes in ten minutes of which the node was stopped for five: one a second, and no sample in the hole."""
    process = Process(world)
    process.look_for(30)
    a = Origin("a")
    world.receive(*(a.put(number, "x", 10).body for number in range(1, 601)))
    world.clock.pass_seconds(9 * 60)
    Process(world).look_for(1)
    drawn = series(world)
    assert drawn.values["applied_changes_a_second"][-1] == pytest.approx(1.0)
    assert drawn.values["applied_changes_a_second"][-5:-1] == (None,) * 4
    day = series(world, Window.DAY)
    assert max(rate or 0 for rate in day.values["applied_changes_a_second"]) == pytest.approx(1.0, rel=0.5)


def test_run_and_serve_take_samples(tmp_path: Path) -> None:
    config = tmp_path / "rowferry.toml"
    config.write_text(
        f'[node]\nid = "shop"\ndatabase = "sqlite:///{tmp_path / "shop.db"}"\n'
        f'[directory]\npath = "{tmp_path / "exchange"}"\n'
    )
    with application(sa.make_url(f"sqlite:///{tmp_path / 'shop.db'}")) as connection:
        connection.exec_driver_sql("CREATE TABLE item (id INTEGER PRIMARY KEY)")
    assert rowferry(config, "migrate").exit_code == 0
    assert rowferry(config, "run", "--once", "--only", "producer").exit_code == 0
    with application(sa.make_url(f"sqlite:///{tmp_path / 'shop.db'}")) as connection:
        assert connection.exec_driver_sql("SELECT seq, dead_letters FROM rf_metric").all() == [(1, 0)]
