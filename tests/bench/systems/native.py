"""PostgreSQL's logical replication: C, inside the server, no queue, no conflicts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tests.bench.pair import Pair
from tests.bench.processes import Workers
from tests.support.waiting import wait_for

_NAME = "bench_native"


class Native:
    """One publication, one subscription, the defaults of both."""

    name = "native"

    @contextmanager
    def replicating(self, pair: Pair) -> Iterator[Workers]:
        source, target = pair.source, pair.target
        source.execute(f"CREATE PUBLICATION {_NAME} FOR TABLE {', '.join(pair.tables)}")
        options = f"slot_name = '{_NAME}', copy_data = false"
        target.execute(f"CREATE SUBSCRIPTION {_NAME} CONNECTION '{source.dsn}' PUBLICATION {_NAME} WITH ({options})")
        try:
            sender = self._pid(pair, source_side=True)
            applier = self._pid(pair, source_side=False)
            yield Workers((sender, applier), pair.servers())
        finally:
            target.execute(f"DROP SUBSCRIPTION {_NAME}")

    def _pid(self, pair: Pair, *, source_side: bool) -> int:
        cluster = (pair.source if source_side else pair.target).cluster
        condition = f"application_name = '{_NAME}'" if source_side else "backend_type = 'logical replication worker'"
        found = wait_for(lambda: cluster.pids(condition), 30, f"{_NAME} to run on {cluster.name}")
        return found[0]
