"""The benchmark's own parts with little data: they run, and every row arrives. Times are not looked at."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest

from tests.bench.bench import Bench
from tests.bench.cluster import Cluster
from tests.bench.latency import Trickle
from tests.bench.pair import Hosts
from tests.bench.processes import Workers
from tests.bench.report import as_json, as_markdown
from tests.bench.results import Results
from tests.bench.sqlite import FileItems, Files
from tests.bench.systems.bare import Bare
from tests.bench.systems.rowferry import Rowferry
from tests.bench.workloads import Items, Pgbench
from tests.support.postgres_server import PostgresServer
from tests.support.rabbit_server import RabbitServer

pytestmark = pytest.mark.heavy


def of_container(server: PostgresServer, name: str) -> Cluster:
    """A server in a container as the benchmark sees it."""

    def pgbench(database: str, options: Sequence[str]) -> None:
        server.exec("pgbench", "-U", server.user, *options, database)

    return Cluster(name, f"{server.user}:{server.password}@{server.host}:{server.port}", pgbench)


@pytest.fixture
def bench(tmp_path: Path, private_postgres: PostgresServer, rabbitmq: RabbitServer) -> Bench:
    cluster = of_container(private_postgres, "both")
    return Bench(Hosts(cluster, cluster), tmp_path, [Bare(), Rowferry(rabbitmq)], Results({"form": "small"}))


def test_every_measurement_of_rowferry_ends_with_equal_rows(bench: Bench) -> None:
    loads = [Items("W1", 500, 1), Items("W2", 20, 100), Pgbench("W3", 80, scale=1)]
    bench.prepare(loads)
    for load in loads:
        bench.catch_up(load)
    bench.files(FileItems("SQLite W1", 500, 1))
    bench.live(loads[-1])
    bench.latency(loads[0], Trickle(seconds=1))

    assert bench.results.wrong == []
    assert [(run.system, run.load.name) for run in bench.results.catch_up] == [
        ("bare", "W1"),
        ("rowferry", "W1"),
        ("rowferry", "W2"),
        ("bare", "W2"),
        ("bare", "W3"),
        ("rowferry", "W3"),
        ("bare", "SQLite W1"),
        ("rowferry", "SQLite W1"),
    ], "the systems begin in turn"
    assert "catch-up, 1,000 rows/s" in as_markdown(bench.results)
    assert '"ratios"' in as_json(bench.results)


_IN_THE_MIDDLE_OF_A_WRITE = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("writing", flush=True)
time.sleep(0.5)
connection.execute("COMMIT")
time.sleep(60)
"""


def test_a_worker_that_stands_still_leaves_the_file_to_the_application(tmp_path: Path) -> None:
    files = Files.fresh(tmp_path / "pair")
    command = (sys.executable, "-c", _IN_THE_MIDDLE_OF_A_WRITE, str(files.source))
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "writing\n"
        try:
            with files.between_writes():
                Workers((worker.pid,), {}).pause()
            with closing(sqlite3.connect(files.source, timeout=0)) as application, application:
                application.execute("DELETE FROM items WHERE id = 1")
        finally:
            worker.kill()
