"""`python -m tests.bench.instructions`: how many instructions the two servers execute for a backlog.

Each cluster is started once more under callgrind (valgrind) for a `rowferry run --once` of its node. Instructions are
the same however busy the machine is, so that a change of a few hundredths shows; what system calls and waiting cost is
not in them. What is left in the folder of `--keep` tells where they go: `callgrind_annotate --inclusive=yes FILE`.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg

from tests.bench.cluster import Account, Cluster, bin_folder, cluster
from tests.bench.pair import MARK, Side
from tests.bench.workloads import ITEMS, Items
from tests.fixtures.containers import rabbitmq_outside_pytest
from tests.support.nodes import CliNode
from tests.support.services import read_services_file
from tests.support.waiting import wait_for

_DATABASE = "counted"
_START_SECONDS = 120
_TOTAL = re.compile(r"^(?:summary|totals): (\d+)$", re.MULTILINE)
_SHOWN = 5
"""Processes of a server, the busiest first; the others only connect, or write in the background."""
_QUIET = ("-c", "autovacuum=off", "-c", "max_worker_processes=0")


@dataclass(frozen=True, slots=True)
class Counted:
    """One end: its cluster, its node, and where its server's counts go."""

    cluster: Cluster
    node: CliNode
    home: Path
    counts: Path

    def count(self) -> list[int]:
        """Let the node do what there is to do, and return the instructions of each of its server's processes."""
        with self._under_callgrind():
            self.node.ok("run", "--once", timeout=3600)
        found = (_TOTAL.search(file.read_text(errors="replace")) for file in self.counts.iterdir())
        return sorted((int(total[1]) for total in found if total), reverse=True)

    @contextmanager
    def _under_callgrind(self) -> Iterator[None]:
        account, data = Account.unprivileged(), self.home / "data"
        control = (bin_folder() / "pg_ctl", "--pgdata", data, "--wait")
        account.run(*control, "--mode", "fast", "stop")
        account.own(self.counts)
        out = f"--callgrind-out-file={self.counts}/callgrind.%p"
        server = [bin_folder() / "postgres", "-D", data, *_QUIET]
        with (self.home.parent / f"{self.cluster.name}.valgrind.log").open("w") as log:
            process = subprocess.Popen(
                ["valgrind", "--tool=callgrind", out, *map(str, server)],
                stdout=log,
                stderr=log,
                user=account.user,
                group=account.group,
                extra_groups=None if account.user is None else [],
                cwd="/",
            )
        try:
            wait_for(self._answers, _START_SECONDS, f"{self.cluster.name} under valgrind")
            yield
        finally:
            # PostgreSQL's fast shutdown: SIGINT.
            account.run(*control, "--mode", "fast", "stop")
            process.wait()
            account.run(*control, "--log", self.home / "server.log", "start")

    def _answers(self) -> bool:
        try:
            self.cluster.execute("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True


def main() -> int:
    """Write a backlog, carry it over once, and print what that took."""
    arguments = _arguments()
    workload = Items(arguments.workload, arguments.txs, 1 if arguments.workload == "W1" else 100)
    if shutil.which("valgrind") is None:
        sys.exit("no valgrind here: install it (Debian: apt-get install valgrind)")
    with _ends(workload, arguments.keep) as (source, target):
        workload.write(Side(source.cluster, _DATABASE))
        for name, end in (("source", source), ("target", target)):
            counted = end.count()
            print(f"{name}: {sum(counted) / workload.rows:,.0f} instructions a row")
            print("  by process: " + ", ".join(f"{one / workload.rows:,.0f}" for one in counted[:_SHOWN]))
        sides = [Side(end.cluster, _DATABASE).digests((ITEMS,)) for end in (source, target)]
    if sides[0] != sides[1]:
        sys.exit(f"the rows differ: {sides}")
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.instructions", description=__doc__)
    parser.add_argument("workload", choices=("W1", "W2"), nargs="?", default="W1")
    parser.add_argument("--txs", type=int, default=4000, help="how many; what connecting costs is shared by them")
    parser.add_argument("--keep", type=Path, help="a new folder for what callgrind wrote")
    return parser.parse_args()


@contextmanager
def _ends(workload: Items, keep: Path | None) -> Iterator[tuple[Counted, Counted]]:
    """Both nodes, connected and with nothing left to do."""
    read_services_file()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rowferry-count-")))
        folder.chmod(0o755)
        broker = stack.enter_context(rabbitmq_outside_pytest())
        ends = []
        for name, role in (("source", "main"), ("target", "branch")):
            one = stack.enter_context(cluster(name, folder))
            workload.prepare(one)
            one.execute(f"CREATE DATABASE {_DATABASE} TEMPLATE {workload.template}")
            options = ("--role", role, "--broker", broker.url(), "--tables", f"{ITEMS},{MARK}")
            node = CliNode.init(name, folder / f"node-{name}", one.url(_DATABASE), *options)
            node.ok("migrate")
            ends.append(Counted(one, node, folder / name, folder / f"counts-{name}"))
        source, target = ends
        source.cluster.execute(f"INSERT INTO {MARK} VALUES (1)", database=_DATABASE)
        for end in (source, target, source, target):
            end.node.ok("run", "--once")
        yield source, target
        if keep is not None:
            for end in ends:
                shutil.copytree(end.counts, keep / end.cluster.name)


if __name__ == "__main__":
    sys.exit(main())
