"""`python -m tests.bench`: measure Rowferry beside its peers on this machine. `make bench` calls it."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bench.bench import Bench, say
from tests.bench.cluster import cluster
from tests.bench.conditions import conditions
from tests.bench.latency import Trickle
from tests.bench.pair import Hosts, Side
from tests.bench.publish import publish, write
from tests.bench.report import as_markdown
from tests.bench.results import Results
from tests.bench.sqlite import FileItems
from tests.bench.systems.bare import Bare
from tests.bench.systems.londiste import Londiste
from tests.bench.systems.native import Native
from tests.bench.systems.port import System
from tests.bench.systems.rowferry import Rowferry
from tests.bench.workloads import Items, Pgbench
from tests.fixtures.containers import rabbitmq_outside_pytest
from tests.support.container_engine import REPOSITORY
from tests.support.services import read_services_file


@dataclass(frozen=True, slots=True)
class Form:
    """How much is measured."""

    w1: Items
    w2: Items
    w3: Pgbench
    files: tuple[FileItems, FileItems]
    trickle: Trickle
    rounds: int


FULL = Form(
    Items("W1", 20_000, 1),
    Items("W2", 1_000, 100),
    Pgbench("W3", 5_000),
    (FileItems("SQLite W1", 20_000, 1), FileItems("SQLite W2", 1_000, 100)),
    Trickle(seconds=20),
    rounds=3,
)
SMALL = Form(
    Items("W1", 1_000, 1),
    Items("W2", 50, 100),
    Pgbench("W3", 200, scale=1),
    (FileItems("SQLite W1", 1_000, 1), FileItems("SQLite W2", 50, 100)),
    Trickle(seconds=2),
    rounds=1,
)


def main() -> int:
    """Measure, report, and fail only on wrong rows."""
    arguments = _arguments()
    form: Form = SMALL if arguments.small else FULL
    with _bench() as bench:
        bench.prepare([form.w1, form.w2, form.w3])
        for number in range(arguments.rounds or form.rounds):
            say(f"round {number + 1}")
            for workload in (form.w1, form.w2, form.w3):
                bench.catch_up(workload)
            for files in form.files:
                bench.files(files)
            bench.live(form.w3)
            bench.latency(form.w1, form.trickle)
        bench.results.conditions["load average at the end"] = f"{os.getloadavg()[0]:.1f}"
    write(bench.results, arguments.out)
    print(as_markdown(bench.results))
    if arguments.publish:
        publish(bench.results, REPOSITORY)
    return 1 if bench.results.wrong else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--small", action="store_true", help="everything once with little data, to see that it works")
    parser.add_argument("--rounds", type=int, help="how often each measurement is made")
    parser.add_argument("--out", type=Path, default=Path(".cache/bench"), help="the folder for tables and JSON")
    parser.add_argument("--publish", action="store_true", help="renew docs/PERFORMANCE.md; needs the extra `bench`")
    return parser.parse_args()


@contextmanager
def _bench() -> Iterator[Bench]:
    read_services_file()
    with ExitStack() as stack:
        # PostgreSQL's account must get in.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rowferry-bench-")))
        folder.chmod(0o755)
        hosts = Hosts(*(stack.enter_context(cluster(name, folder)) for name in ("source", "target")))
        broker = stack.enter_context(rabbitmq_outside_pytest())
        results = Results(conditions(hosts.source, "4, one node, quorum queues, confirms"))
        systems: list[System] = [Bare(), Native(), Rowferry(broker)]
        if londiste := Londiste.found(Side(hosts.source, "postgres")):
            systems.append(londiste)
        yield Bench(hosts, folder, systems, results)


if __name__ == "__main__":
    sys.exit(main())
