"""A node killed at each named point, between any two steps that touch a disk or a network; then everything is counted.

Each scenario brings a node to one point, on each database, and sees that the process died there and nowhere else."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from common.crash_points import VARIABLE, CrashPoint
from tests.faults.ledger import Author
from tests.faults.site import Member, Site
from tests.faults.telling import tell
from tests.support.applying import DATABASES
from tests.support.rabbit_server import RabbitServer
from tests.support.rabbitmq import queue, vhost_of
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.containers, pytest.mark.heavy]
ROOT = Path(__file__).resolve().parents[2]
_NO_BROKER = "amqp://nobody@127.0.0.1:1/"
_EXTRA = "CREATE TABLE extra (id INTEGER PRIMARY KEY, note TEXT)"
_LABEL = "CREATE TABLE label (id INTEGER PRIMARY KEY, name TEXT)"


class Pair:
    """The node that dies, and another one that does not; both stopped at first."""

    def __init__(self, request: pytest.FixtureRequest, folder: Path) -> None:
        self._request = request
        self._folder = folder
        self.site = Site(folder, seed=1)
        self.database: str = request.param

    @property
    def dying(self) -> Member:
        return self.site["d"]

    @property
    def other(self) -> Member:
        return self.site["o"]

    def on_broker(self, *, folder: bool = False) -> None:
        """Let them talk through RabbitMQ; with `folder` files as well."""
        url = self._request.getfixturevalue("rabbitmq_url")
        self._add(url, self._folder / "exchange" if folder else None)

    def on_folder(self) -> None:
        """Let them talk through files alone."""
        self._add(None, self._folder / "exchange")

    def write(self, member: Member, *parts: int) -> None:
        """Let the application write some transactions."""
        author = Author(member.name, member.node.database, member.journal, 0, 1)
        for one in parts:
            assert author.write(one)
        author.close()

    def dies_at(self, point: CrashPoint, which: int = 1, **environment: str) -> None:
        """Run the node until it dies, and see that it was there."""
        running = self.dying.start(**{VARIABLE: f"{point}:{which}", **environment})
        wait_for(lambda: running.process.poll() is not None, 90, f"the node to die at {point}\n{running.tail()}")
        assert running.process.returncode == -signal.SIGKILL, running.tail()

    def command_dies_at(self, point: CrashPoint, *arguments: str) -> None:
        """Run one command of the node, which dies."""
        done = self.dying.node.call(*arguments, **{**self.dying.environment, VARIABLE: str(point)})
        assert done.returncode == -signal.SIGKILL, done.stderr

    def purge(self, member: Member) -> None:
        """Take everything out of a node's queue, once something is in it."""
        server: RabbitServer = self._request.getfixturevalue("rabbitmq")
        url, name = self._request.getfixturevalue("rabbitmq_url"), f"rowferry.node.{member.name}"
        wait_for(lambda: queue(server, url, name).get("messages", 0), 60, f"something in {name}")
        server.management("DELETE", f"/api/queues/{vhost_of(url)}/{name}/contents")

    def stop(self, member: Member) -> None:
        """Stop a node as its operator does, once its queue stands and it listens."""
        running = member.running
        assert running is not None
        # In this process's own log: one that died before it had one of its own.
        wait_for(lambda: b"relay.opened" in running.log.read_bytes(), 60, f"{member.name} to be at work")
        assert running.stop() == 0, running.tail()

    def _add(self, broker: str | None, exchange: Path | None) -> None:
        database = None if self.database == "sqlite" else self._request.getfixturevalue("pg_database")
        for name, url in (("d", database), ("o", None)):
            self.site.add(name, url, broker, exchange)


@pytest.fixture(params=DATABASES)
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Pair]:
    made = Pair(request, tmp_path)
    yield made
    made.site.close()


def sending(pair: Pair, point: CrashPoint) -> None:
    """While its own writes go out."""
    pair.on_broker()
    pair.write(pair.dying, 1, 3)
    pair.dies_at(point)
    pair.write(pair.dying, 2)
    pair.dies_at(point)


def receiving(pair: Pair, point: CrashPoint) -> None:
    """While the other's writes come in."""
    pair.on_broker()
    pair.other.start()
    pair.write(pair.other, 1, 3, 150, 2)
    pair.dies_at(point)
    pair.write(pair.other, 2)
    pair.dies_at(point)


def with_care(pair: Pair, point: CrashPoint) -> None:
    """While it goes about with care what a process before it died over."""
    receiving(pair, CrashPoint.BEFORE_COMMIT)
    pair.dies_at(point)
    pair.dies_at(point, 2)


def saying(pair: Pair, point: CrashPoint) -> None:
    """While it says that it is there, or hears that of the other."""
    pair.on_broker()
    pair.other.start()
    pair.write(pair.other, 1)
    pair.dies_at(point)


def to_files(pair: Pair, point: CrashPoint) -> None:
    """While it writes into the folder."""
    pair.on_folder()
    pair.write(pair.dying, 1, 150)
    pair.dies_at(point)
    pair.write(pair.other, 1)
    pair.other.start()
    pair.dies_at(point, 2)


def falling_back(pair: Pair, point: CrashPoint) -> None:
    """While the broker can't be reached, and files are to take its place."""
    pair.on_broker(folder=True)
    pair.write(pair.dying, 1, 3)
    away = {"ROWFERRY_BROKER_URL": _NO_BROKER, "ROWFERRY_FALLBACK_AFTER": "0.2"}
    pair.dies_at(point, **away)
    pair.dies_at(CrashPoint.FILE_NAMED, **away)


def asking(pair: Pair, point: CrashPoint) -> None:
    """While it asks for what its queue lost."""
    pair.on_broker()
    pair.dying.start()
    pair.stop(pair.dying)
    pair.other.start()
    pair.write(pair.other, 1, 2)
    pair.purge(pair.dying)
    pair.write(pair.other, 3)
    pair.dies_at(point)


def answering(pair: Pair, point: CrashPoint) -> None:
    """While it sends once more what the other's queue lost."""
    pair.on_broker()
    pair.other.start()
    pair.stop(pair.other)
    pair.dying.start()
    pair.write(pair.dying, 1, 2)
    pair.purge(pair.other)
    pair.stop(pair.dying)
    pair.write(pair.dying, 3)
    pair.other.start()
    pair.dies_at(point)


def setting_aside(pair: Pair, point: CrashPoint) -> None:
    """While a batch for a table that is not here is set aside, and while it is replayed once the table is."""
    pair.on_broker()
    pair.other.node.execute(_EXTRA)
    pair.other.node.ok("migrate")
    pair.other.node.execute("INSERT INTO extra VALUES (1, 'x')")
    pair.other.start()
    if point in (CrashPoint.LETTER_COPIED, CrashPoint.LETTER_NOTED):
        pair.dies_at(point)
    running = pair.dying.start()
    copied = "SELECT count(*) FROM rf_dead_letter WHERE broker_copy = {} AND state = 'dead'"
    true = "true" if pair.dying.is_postgres else "1"
    wait_for(lambda: pair.dying.node.query(copied.format(true)) == [(1,)], 60, f"a dead letter\n{running.tail()}")
    pair.stop(pair.dying)
    pair.dying.node.execute(_EXTRA)
    if point in (CrashPoint.REPLAYED, CrashPoint.COPY_REMOVED):
        pair.command_dies_at(point, "dlq", "replay", "--all")
    pair.dying.node.ok("migrate")
    pair.dying.start()
    wait_for(lambda: pair.dying.node.query("SELECT note FROM extra") == [("x",)], 60, "the row of the new table")


def choosing(pair: Pair, point: CrashPoint) -> None:
    """While somebody settles a conflict."""
    pair.on_broker()
    for number, member in enumerate(pair.site):
        config = member.node.folder / "rowferry.toml"
        config.write_text(config.read_text().replace("[tables.policy]", '[tables.policy]\nlabel = "manual"', 1))
        member.node.execute(_LABEL)
        member.node.ok("migrate")
        member.node.execute(f"INSERT INTO label VALUES (1, 'of {number}')")
    for member in pair.site:
        member.start()
    waiting = "SELECT count(*) FROM rf_conflict WHERE state = 'waiting'"
    for member in pair.site:
        wait_for(lambda member=member: member.node.query(waiting) == [(1,)], 60, "a conflict")  # type: ignore[misc]
    pair.stop(pair.dying)
    ((number,),) = pair.dying.node.query("SELECT id FROM rf_conflict")
    pair.command_dies_at(point, "conflicts", "resolve", str(number), "--take", "theirs")
    assert pair.dying.node.query("SELECT state FROM rf_conflict") == [("waiting",)]
    pair.dying.node.ok("conflicts", "resolve", str(number), "--take", "theirs")
    pair.dying.start()
    for member in pair.site:
        wait_for(lambda member=member: member.node.query("SELECT name FROM label") == [("of 1",)], 60, "the choice")  # type: ignore[misc]


SCENARIOS: dict[CrashPoint, Callable[[Pair, CrashPoint], None]] = {
    CrashPoint.SEALING: sending,
    CrashPoint.SEALED: sending,
    CrashPoint.SENT: sending,
    CrashPoint.PUBLISHED: sending,
    CrashPoint.CONFIRMED: sending,
    CrashPoint.CURSOR_MOVED: sending,
    CrashPoint.FILE_WRITTEN: to_files,
    CrashPoint.FILE_SYNCED: to_files,
    CrashPoint.FILE_NAMED: to_files,
    CrashPoint.FALLBACK_BEGUN: falling_back,
    CrashPoint.HEARTBEAT_SENT: saying,
    CrashPoint.GAP_ASKED: asking,
    CrashPoint.ANSWER_SENT: answering,
    CrashPoint.ANSWER_NOTED: answering,
    CrashPoint.RECEIVED: receiving,
    CrashPoint.SAYING_STORED: saying,
    CrashPoint.PART_STORED: receiving,
    CrashPoint.ATTEMPT_BEGUN: with_care,
    CrashPoint.ROWS_WRITTEN: receiving,
    CrashPoint.BEFORE_COMMIT: receiving,
    CrashPoint.AFTER_COMMIT: receiving,
    CrashPoint.ACKNOWLEDGED: receiving,
    CrashPoint.LETTER_COPIED: setting_aside,
    CrashPoint.LETTER_NOTED: setting_aside,
    CrashPoint.REPLAYED: setting_aside,
    CrashPoint.COPY_REMOVED: setting_aside,
    CrashPoint.CHOICE_WRITTEN: choosing,
}

_PURGING = "tests/integration/test_purge_killed.py"
ELSEWHERE = {CrashPoint.PURGING: _PURGING, CrashPoint.PURGED: _PURGING}
"""Points that another test lets a process die at."""


def test_every_point_is_met_here_or_elsewhere() -> None:
    assert {*SCENARIOS, *ELSEWHERE} == {*CrashPoint}
    for point, test in ELSEWHERE.items():
        assert f"CrashPoint.{point.name}" in (ROOT / test).read_text(encoding="utf-8")


@pytest.mark.parametrize("point", SCENARIOS)
def test_killed_there_nothing_is_lost_or_doubled(pair: Pair, point: CrashPoint) -> None:
    SCENARIOS[point](pair, point)
    pair.site.rest()
    assert pair.site.check() == []
    tell(f"point on {pair.database}", point, pair.site)
