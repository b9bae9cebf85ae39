"""`python -m tests.faults.page FOLDER`: docs/RELIABILITY.md from what a run of `make faults` told."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

from common.crash_points import CrashPoint
from tests.faults.faults import FAULTS, Where
from tests.faults.test_points import ELSEWHERE
from tests.mutants.catalogue import MUTANTS, SAFEGUARDS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "RELIABILITY.md"
Told = dict[str, Any]
_SITES = {
    Where.BROKER: ("RabbitMQ 4", "RabbitMQ 3.10"),
    Where.NODES: ("nodes",),
    Where.FOLDER: ("folder",),
}
_DATABASES = (("sqlite", "SQLite"), ("postgresql", "PostgreSQL"))

_HEAD = """# What Rowferry survives

Written by `make faults`, or from the counts of a whole `make test`, on {day}. The tables hold what that run counted,
and nothing else. Real nodes (`rowferry run`) on PostgreSQL and SQLite write all the time. Each application keeps a
journal of what was committed, and a reader looks for parts of transactions. A fault is injected, felt (a node reports
it in its log, or the fault's own sign is seen), and healed. Then everything has to arrive, and is counted:

- Each committed write is in its node's log exactly once, whole, was applied exactly once on the other node, and is in
  its tables.
- All nodes hold equal rows.
- Nothing is in a dead letter, except where the fault damages bytes, and then by name.

`tests/faults/checks.py` counts. `tests/faults/test_checks.py` shows that it sees each kind of loss, double and half.

A count says how often nothing was found lost, doubled or half there; 0: this run did not come to it, or did not
survive it.

In all: {txs:,} transactions with {rows:,} rows{kills}, {looks:,} looks for parts; lost 0, doubled 0, seen in
part 0.
"""

_TAIL = """
## What this does not show

- A disk or a server that loses what it said was synced. fsync is judged by the order of calls, against a model
  (`tests/unit/test_power_failure.py`); databases are trusted to keep what they committed.
- A full disk under PostgreSQL itself: a trigger raises its error instead. A cluster of brokers, and the
  loss of one of its nodes.
- A clock that jumps on the database's server or in the application: only the processes' clocks jump here.
  `tests/soak` has applications whose clocks are hours off.
- Writes that capture did not see. If a table is made anew, or its triggers are off when a batch comes, nothing is
  overwritten: batches wait until capture is installed and its rows are compared. A batch that comes first still wins
  without a conflict over
  - what was written while triggers were switched off **and on again**, in sessions that keep triggers quiet
    (`session_replication_role = replica`; SQLite's `SQLITE_DBCONFIG_ENABLE_TRIGGER`, `writable_schema`);
  - rows that went with a detached or dropped partition, and rows that `REPLACE` displaced by a unique index of
    SQLite made a moment before (both until a `run` looks, every 5 seconds);
  - a table made anew with another primary key, which begins anew.

  Use `rowferry pause` around such work.
- Faults in two places at once, except in `make soak`, where processes of all nodes are killed apart.
"""


def page(told: Sequence[Told], day: date) -> str:
    """Return the page."""
    last = {one["site"]: one for one in told}.values()
    kills = sum(one.get("kills", 0) for one in last)
    totals = {name: sum(one.get(name, 0) for one in last) for name in ("txs", "rows", "looks")}
    return "".join(
        [
            _HEAD.format(day=day, kills=f", {kills:,} kills at random" if kills else "", **totals),
            _faults(told),
            _points(told),
            _safeguards(),
            _TAIL,
        ]
    )


def _faults(told: Sequence[Told]) -> str:
    times = Counter((one["kind"], one["name"]) for one in told)
    lines = ["\n## Faults\n\n| fault | what is done | survived |\n| --- | --- | --- |\n"]
    for fault in FAULTS:
        counts = [f"{site}: {times[site, fault.name]}" for site in _SITES[fault.where]]
        shown = ", ".join(counts) if fault.where is Where.BROKER else str(times[_SITES[fault.where][0], fault.name])
        lines.append(f"| {fault.name} | {fault.what} | {shown} |\n")
    return "".join(lines)


def _points(told: Sequence[Told]) -> str:
    times = Counter((one["kind"], one["name"]) for one in told)
    head = (
        "\n## Killed at named points\n\nA process dies by SIGKILL between any two steps that touch a disk or a network"
        " (`common/crash_points.py`), and another one goes on.\n\n| point | survived on |\n| --- | --- |\n"
    )
    lines = []
    for one in CrashPoint:
        counts = ", ".join(f"{name}: {times[f'point on {kind}', one]}" for kind, name in _DATABASES)
        lines.append(f"| `{one}` | {f'see `{ELSEWHERE[one]}`' if one in ELSEWHERE else counts} |\n")
    return head + "".join(lines)


def _safeguards() -> str:
    lines = [
        "\n## Safeguards\n\n`make mutants` switches each off in a copy of the code, and its tests must fail.\n\n"
        "| safeguard | switched off by |\n| --- | --- |\n"
    ]
    for safeguard in SAFEGUARDS:
        names = ", ".join(f"`{one.name}`" for one in MUTANTS if one.safeguard == safeguard)
        lines.append(f"| {safeguard} | {names} |\n")
    return "".join(lines)


def main() -> None:
    """Write the page."""
    lines = (Path(sys.argv[1]) / "told.jsonl").read_text(encoding="utf-8").splitlines()
    PAGE.write_text(page([json.loads(line) for line in lines], date.today()), encoding="utf-8")
    print(f"wrote {PAGE}")


if __name__ == "__main__":
    main()
