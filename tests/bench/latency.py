"""How long a change is under way when there is little to do."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import psycopg

from tests.bench.pair import Pair, Side
from tests.bench.results import Latency
from tests.bench.systems.port import System
from tests.bench.workloads import ITEMS

_FIRST_KEY = 1_000_000
_ARRIVE_SECONDS = 120
_LOOK_SECONDS = 0.5
_CHANNEL = "bench_arrived"
# ALWAYS: replicated rows fire no ordinary trigger. The server tells of it when the row can be seen.
_TELL = (
    f"""CREATE FUNCTION {_CHANNEL}() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN PERFORM pg_notify('{_CHANNEL}', extract(epoch FROM NEW.changed_at)::float8::text); RETURN NULL; END $$""",
    f"CREATE TRIGGER {_CHANNEL} AFTER INSERT ON {ITEMS} FOR EACH ROW EXECUTE FUNCTION {_CHANNEL}()",
    f"ALTER TABLE {ITEMS} ENABLE ALWAYS TRIGGER {_CHANNEL}",
)


@dataclass(frozen=True, slots=True)
class Trickle:
    """Single rows at a steady pace, whatever the last one took; commits wait for the disk."""

    txs_per_second: int = 50
    seconds: int = 20

    def measure(self, system: System, pair: Pair) -> Latency:
        """From the write at the source, before its commit, until a listener at the target hears of the row."""
        pair.target.execute(*_TELL)
        with system.replicating(pair):
            pair.mark(1)
            pair.wait_for_mark(1, _ARRIVE_SECONDS)
            pair.settle()
            with _listening(pair.target, self.txs_per_second * self.seconds) as arrivals:
                self._write(pair.source)
                arrivals.wait()
        waits = sorted(seconds * 1000 for seconds in arrivals.waits)
        return Latency(system.name, self.txs_per_second, _part(waits, 0.5), _part(waits, 0.99))

    def _write(self, source: Side) -> None:
        statement = f"INSERT INTO {ITEMS} VALUES (%s, 'trickle', 1, 1.5, NULL, clock_timestamp())".encode()
        with source.cluster.connect(source.database) as connection:
            started = time.monotonic()
            for number in range(self.txs_per_second * self.seconds):
                time.sleep(max(0.0, started + number / self.txs_per_second - time.monotonic()))
                connection.execute(statement, (_FIRST_KEY + number,), prepare=True)


@dataclass(slots=True)
class _Arrivals:
    """How long each row was under way, in seconds."""

    expected: int
    waits: list[float] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)

    def listen(self, connection: psycopg.Connection[tuple[object, ...]]) -> None:
        while not self.ended.is_set():
            for notice in connection.notifies(timeout=_LOOK_SECONDS):
                self.waits.append(time.time() - float(notice.payload))
                if len(self.waits) == self.expected:
                    self.ended.set()

    def wait(self) -> None:
        if not self.ended.wait(_ARRIVE_SECONDS):
            raise TimeoutError(f"only {len(self.waits)} of {self.expected} rows arrived in {_ARRIVE_SECONDS} s")


@contextmanager
def _listening(side: Side, expected: int) -> Iterator[_Arrivals]:
    arrivals = _Arrivals(expected)
    with side.cluster.connect(side.database) as connection:
        connection.execute(f"LISTEN {_CHANNEL}".encode())
        thread = threading.Thread(target=arrivals.listen, args=(connection,), name="bench-listener")
        thread.start()
        try:
            yield arrivals
        finally:
            arrivals.ended.set()
            thread.join()


def _part(waits: list[float], part: float) -> float:
    return waits[min(len(waits) - 1, int(len(waits) * part))]
