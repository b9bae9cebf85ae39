"""SQLite under SIGKILL, and with a local writer and an applier at the same rows: nothing is lost, nothing doubled."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest

from common.errors import ContentionError
from common.ports.dialect import RowWrite
from common.versions import Version
from common.wire.records import Change, SealedTx
from tests.support.sqlite_app import NODE, SqliteApp, sqlite_app
from tests.support.waiting import wait_for

T = "CREATE TABLE t (id INTEGER PRIMARY KEY, u INTEGER UNIQUE, n INTEGER)"
MARK = "INSERT INTO rf_mark DEFAULT VALUES"
_change = msgspec.json.Decoder(Change)

WRITER = """
import random, sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=30)
chance = random.Random(int(sys.argv[2]))
number = 0
while True:
    number += 1
    connection.execute("BEGIN IMMEDIATE")
    for _ in range(chance.choice((1, 3, 200))):
        row = chance.randrange(400), chance.randrange(400), number
        connection.execute("INSERT OR REPLACE INTO t VALUES (?, ?, ?)", row)
        connection.execute("DELETE FROM t WHERE id = ?", (chance.randrange(400),))
    # A row that nobody deletes: it tells which transaction was the last.
    connection.execute("INSERT OR REPLACE INTO t VALUES (400, NULL, ?)", (number,))
    if number % 2:
        connection.execute("INSERT INTO rf_mark DEFAULT VALUES")
    connection.execute("COMMIT")
    print(number, flush=True)
    time.sleep(chance.random() / 50)
"""
SEALER = """
import sys
from common.dialects import open_database
from common.dialects.sqlite import backlog, looking
looking.MOST_HELD, backlog._PAGE = int(sys.argv[2]), 20
from common.errors import ContentionError
from common.ports.dialect import NodeFacts
database = open_database("sqlite:///" + sys.argv[1])
sealer = database.sealer(NodeFacts("here", "branch", "inc1"))
while True:
    try:
        sealer.seal()
    except ContentionError as error:
        print(error, file=sys.stderr)
    print("looked", flush=True)
"""


def sealed(app: SqliteApp) -> Iterator[SealedTx]:
    """Yield the whole log; one read gives a bounded part of it."""
    log = app.database.log(NODE)
    after, head = 0, log.head().lsn
    while after < head:
        for tx in log.read(after, 2**30):
            yield tx
            after = tx.header.to_lsn


def replayed(app: SqliteApp) -> dict[int, tuple[int, int]]:
    """Return the table as the sealed log tells it, checking LSNs and before images on the way."""
    rows: dict[bytes, bytes] = {}
    expected, txs = 1, []
    for tx in sealed(app):
        assert (tx.header.prev_lsn, tx.header.from_lsn) == (expected - 1, expected)
        txs.append(tx.header.tx_id)
        for change in map(_change.decode, tx.lines()):
            assert change.lsn == expected
            assert bytes(change.before) == rows.get(bytes(change.pk), b"null")
            rows[bytes(change.pk)] = bytes(change.after)
            expected += 1
        assert tx.header.to_lsn == expected - 1
    assert all(before < after for before, after in pairwise(txs))
    images = (msgspec.json.decode(image) for image in rows.values())
    return {image["id"]: (image["u"], image["n"]) for image in images if image is not None}


def stored(app: SqliteApp) -> dict[int, tuple[int, int]]:
    return {row: (unique, number) for row, unique, number in app.query("SELECT id, u, n FROM t")}


class Child:
    """A process that is killed at any moment, by its own id; its lines are counted."""

    def __init__(self, program: str, *arguments: str) -> None:
        command = [sys.executable, "-c", program, *arguments]
        self.lines: list[str] = []
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.lines.append(line)

    def kill(self) -> None:
        os.kill(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._reader.join()
        assert self._process.stdout is not None
        self._process.stdout.close()


@pytest.mark.parametrize("most_held", [50_000, 30])
@pytest.mark.parametrize("wal", [True, False])
def test_writer_and_sealer_killed_at_any_moment(tmp_path: Path, wal: bool, most_held: int) -> None:
    """`most_held`: by the smaller one nearly every look is a backlog, that is copied aside and read in pieces."""
    chance = random.Random(wal)
    with sqlite_app(tmp_path / "a.db", T, wal=wal) as app:
        for turn in range(4):
            writer, sealer = Child(WRITER, str(app.path), str(turn)), Child(SEALER, str(app.path), str(most_held))
            enough = chance.randrange(5, 40)
            wait_for(lambda: len(writer.lines) > enough and len(sealer.lines) > 3, 60, "some work")  # noqa: B023
            for child in chance.sample([writer, sealer], 2):
                child.kill()
            told = int(writer.lines[-1])
            app.seal()
            assert replayed(app) == stored(app)
            assert stored(app)[400][1] >= told
        assert app.query("PRAGMA integrity_check") == [("ok",)]


def test_local_writer_and_applier_at_the_same_rows(tmp_path: Path) -> None:
    """Every applied write stands on a version that was known, so the log and the table tell the same."""
    applied = 0
    with sqlite_app(tmp_path / "a.db", T) as app:
        stop = threading.Event()
        thread = threading.Thread(target=_write_locally, args=(app.path, stop))
        thread.start()
        try:
            deadline = time.monotonic() + 4
            while time.monotonic() < deadline:
                applied += _apply_once(app, applied)
        finally:
            stop.set()
            thread.join()
        app.seal()
        wins = app.query("SELECT count(*) FROM rf_row_version WHERE node_id = 'there'")[0][0]
        ours = app.query("SELECT count(*) FROM rf_row_version WHERE node_id = 'here'")[0][0]
        versions = dict(app.query("SELECT key, node_id FROM rf_row_version WHERE NOT deleted"))
    assert applied > 20, "the applier never came through: this test shows nothing"
    assert wins > 0
    assert ours > 0
    assert versions


def _write_locally(path: Path, stop: threading.Event) -> None:
    chance = random.Random(1)
    with closing(sqlite3.connect(path, isolation_level=None, timeout=30)) as connection:
        while not stop.wait(0.002):
            connection.execute(
                "INSERT INTO t VALUES (?, NULL, 1) ON CONFLICT (id) DO UPDATE SET n = n + 1", (chance.randrange(20),)
            )


def _apply_once(app: SqliteApp, number: int) -> bool:
    """Write one row as another node on top of what is known here; False when an own write was in between."""
    shape = app.tables["t"]
    pk = b'{"id":%d}' % (number % 20)
    app.seal()
    try:
        with app.database.apply_session() as session:
            (state,) = session.lock(shape, shape.meta, [pk])
            (image,) = session.images(shape, [pk], shape.meta)
            version = Version(0, state.version.hlc + 1, "there")
            after = b'{"id":%d,"u":null,"n":%d}' % (number % 20, number)
            session.write(shape, shape.meta, [RowWrite(state.key, pk, after, version, state.version)])
            if session.unsealed(shape, [state.key]):
                raise ContentionError("own write in between")
            _agree(app, state.key, image)
    except ContentionError:
        return False
    return True


def _agree(app: SqliteApp, key: str, image: bytes | None) -> None:
    """With nothing unsealed, the last own sealed image of a row whose version is ours is the row."""
    query = "SELECT node_id, hlc FROM rf_row_version WHERE key = ?"
    found = app.connection.execute(query, (key,)).fetchone()
    if found is None or found[0] != NODE.node_id:
        return
    line = app.connection.execute(
        "SELECT line FROM rf_change_log WHERE instr(line, ?) > 0", (b'"version":[0,%d,' % found[1],)
    ).fetchall()
    images = [bytes(change.after) for change in (_change.decode(one) for (one,) in line)]
    assert image in images


@pytest.mark.parametrize("rows", [100, 4_000])
def test_speed_of_capture_and_lock_is_told(tmp_path: Path, rows: int, capsys: pytest.CaptureFixture[str]) -> None:
    """Printed, not asserted: the machine that runs this may be busy."""

    def work(app: SqliteApp) -> float:
        begun = time.perf_counter()
        for start in range(0, 8_000, rows):
            app.connection.execute("BEGIN")
            app.connection.executemany(
                "INSERT INTO t VALUES (?, ?, 0)", ((number, number) for number in range(start, start + rows))
            )
            app.connection.executemany(
                "UPDATE t SET n = n + 1 WHERE id = ?", ((number,) for number in range(start, start + rows, 2))
            )
            app.connection.execute("COMMIT")
        return time.perf_counter() - begun

    with sqlite_app(tmp_path / "bare.db", T, capture=False) as bare, sqlite_app(tmp_path / "captured.db", T) as app:
        ratio = work(bare) / work(app)
        begun = time.perf_counter()
        sealed = sum(tx.header.to_lsn - tx.header.prev_lsn for tx in app.seal())
        took = time.perf_counter() - begun
    with capsys.disabled():
        print(f"\n  {rows} rows a tx: application at {ratio:.2f} while captured; sealed {sealed / took:,.0f} changes/s")
    assert sealed == 8_000


def test_printed_not_judged_how_long_the_write_lock_is_held(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    held: list[float] = []

    def timed(seal: Callable[[], object], watch: sqlite3.Connection) -> None:
        stop = threading.Event()

        def look() -> None:
            with closing(sqlite3.connect(path, isolation_level=None, timeout=30)) as connection:
                while not stop.is_set():
                    begun = time.perf_counter()
                    connection.execute("BEGIN IMMEDIATE")
                    held.append(time.perf_counter() - begun)
                    connection.execute("ROLLBACK")

        thread = threading.Thread(target=look)
        thread.start()
        try:
            seal()
        finally:
            stop.set()
            thread.join()

    path = tmp_path / "a.db"
    with sqlite_app(path, T) as app:
        for number in range(6_000):
            app.run(f"INSERT INTO t VALUES ({number}, {number}, 0)", MARK)
        timed(app.seal, app.connection)
    with capsys.disabled():
        print(f"\n  longest wait of another writer while 6,000 txs were sealed: {max(held) * 1000:.0f} ms")
