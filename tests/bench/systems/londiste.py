"""Londiste on PgQ, the nearest relative: a C trigger, a queue inside the source, a worker in Python."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg

from tests.bench.pair import Pair, Side
from tests.bench.processes import Workers
from tests.support.waiting import wait_for

_QUEUE = "bench"
# Its defaults look once a second and cut a batch after three: here both are tuned for latency.
_LOOK_SECONDS = 0.05
_EXTENSIONS = ("pgq", "pgq_node", "londiste")
_READY_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Londiste:
    """One root, one leaf, the ticker `pgqd`."""

    londiste: str
    pgqd: str
    name: str = "londiste"

    @classmethod
    def found(cls, source: Side) -> Londiste | None:
        """None where its programs or its extensions are not installed."""
        query = f"SELECT count(*) FROM pg_available_extensions WHERE name IN {_EXTENSIONS}"
        programs = shutil.which("londiste"), shutil.which("pgqd")
        if programs[0] is None or programs[1] is None or source.one(query) != len(_EXTENSIONS):
            return None
        return cls(programs[0], programs[1])

    @contextmanager
    def replicating(self, pair: Pair) -> Iterator[Workers]:
        root, leaf = self._settings(pair, pair.source, "root"), self._settings(pair, pair.target, "leaf")
        ticker = pair.folder / "pgqd.ini"
        _write(
            ticker,
            "pgqd",
            base_connstr=_libpq(pair.source, database=False),
            database_list=pair.source.database,
            initial_database=pair.source.database,
            ticker_period=str(_LOOK_SECONDS),
            logfile=str(pair.folder / "pgqd.log"),
            pidfile=str(pair.folder / "pgqd.pid"),
        )
        self._call(root, "create-root", "root", _libpq(pair.source))
        self._call(leaf, "create-leaf", "leaf", _libpq(pair.target), f"--provider={_libpq(pair.source)}")
        pair.source.execute(f"SELECT pgq.set_queue_config('{_QUEUE}', 'ticker_max_lag', '{_LOOK_SECONDS} s')")
        with _running([self.pgqd, str(ticker)], pair.folder) as pgqd:
            self._call(root, "add-table", *pair.tables)
            with _running([self.londiste, str(leaf), "worker"], pair.folder) as worker:
                self._subscribe(pair, leaf)
                own = (pgqd, worker)
                yield Workers(own, {**pair.servers(), "pgqd": (pgqd,), "worker": (worker,)}, own)

    def _subscribe(self, pair: Pair, leaf: Path) -> None:
        """Take the tables as they stand; the worker must have heard of them before."""
        registered = "SELECT count(*) FROM londiste.table_info"
        ready = f"{registered} WHERE merge_state = 'ok'"
        wait_for(lambda: pair.target.one(registered) == len(pair.tables), _READY_SECONDS, "Londiste's list of tables")
        self._call(leaf, "add-table", "--expect-sync", *pair.tables)
        wait_for(lambda: pair.target.one(ready) == len(pair.tables), _READY_SECONDS, "Londiste's tables in sync")

    def _settings(self, pair: Pair, side: Side, node: str) -> Path:
        file = pair.folder / f"{node}.ini"
        _write(
            file,
            "londiste",
            db=_libpq(side),
            queue_name=_QUEUE,
            loop_delay=str(_LOOK_SECONDS),
            logfile=str(pair.folder / f"{node}.log"),
            pidfile=str(pair.folder / f"{node}.pid"),
        )
        return file

    def _call(self, settings: Path, *arguments: str) -> None:
        command = [self.londiste, str(settings), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")


def _write(file: Path, section: str, **settings: str) -> None:
    file.write_text("".join([f"[{section}]\n", *(f"{key} = {value}\n" for key, value in settings.items())]))


def _libpq(side: Side, *, database: bool = True) -> str:
    parts = psycopg.conninfo.conninfo_to_dict(side.dsn)
    if not database:
        parts.pop("dbname")
    return psycopg.conninfo.make_conninfo("", **parts)


@contextmanager
def _running(command: Sequence[str], folder: Path) -> Iterator[int]:
    with (folder / f"{Path(command[0]).name}.out").open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
    try:
        yield process.pid
    finally:
        process.kill()
        process.wait()
