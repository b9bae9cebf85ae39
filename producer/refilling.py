"""What peers lack of this node's log, and the shared folder has no more, is written there once again.

Files go by age, with a share that breaks, by hand; and nobody can ask for them there. But each reader says in its
acks.json how far it is, and the names of files tell what lies there: the rest is what is missing."""

import logging
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from common.crash_points import CrashPoint, reach
from common.ops.status_words import A_COPY
from common.ports.dialect import SealedLog
from common.ports.sink import Sink
from common.runtime.transports import DIRECTORY, OpenSink
from common.transports.directory.acks import Acks
from common.transports.directory.own_files import files_written_by
from producer.cursors import Cursors
from producer.log import NodeLogs
from producer.packing import Packing, pack

log = logging.getLogger(__name__)

_READ_BYTES = 1024 * 1024


class Refilling:
    """Looks at what the folder lacks, after each cleaning. Belongs to its thread.

    Who has said nothing since its files were given up on is left alone: it may be gone for good. So is who was served
    once by this process and has not come on: it waits for something else."""

    def __init__(
        self,
        root: Path,
        logs: NodeLogs,
        cursors: Cursors,
        packing: Packing,
        open_sink: OpenSink,
        stop: threading.Event,
    ) -> None:
        self._root = root
        self._logs = logs
        self._cursors = cursors
        self._packing = packing
        self._open_sink = open_sink
        self._stop = stop
        self._served: dict[tuple[str, str], int] = {}
        """By peer and incarnation, how far it was when what it lacks was written again."""

    def look(self, acks: Mapping[str, Acks], given_up: Mapping[str, sa.Row[Any]]) -> None:
        """Write what is missing. `acks` of the peers that count, read before this; `given_up` as `rf_purged` has it.

        Raises OutageError."""
        heard = {
            peer: one
            for peer, one in acks.items()
            if _has_spoken_since(one, given_up.get(peer)) and not _is_between(one)
        }
        for incarnation in self._logs.incarnations() if heard else ():
            self._refill(incarnation, heard)

    def _refill(self, incarnation: str, acks: Mapping[str, Acks]) -> None:
        until_lsn = self._cursors.load(DIRECTORY, incarnation)
        origin = self._logs.facts.node_id
        passed = {peer: one.passed.get((origin, incarnation), 0) for peer, one in acks.items()}
        behind = {peer: lsn for peer, lsn in passed.items() if lsn < until_lsn and self._is_new(peer, incarnation, lsn)}
        if not behind:
            return
        # After the cursor: what the relay has noted lies there already.
        there = [
            (file.from_lsn, file.to_lsn)
            for file in files_written_by(self._root, origin)
            if (file.origin, file.incarnation) == (origin, incarnation)
        ]
        missing = list(uncovered(min(behind.values()), until_lsn, there))
        if missing and self._written(incarnation, missing, sorted(behind)):
            self._served |= {(peer, incarnation): lsn for peer, lsn in behind.items()}

    def _is_new(self, peer: str, incarnation: str, lsn: int) -> bool:
        return self._served.get((peer, incarnation)) != lsn

    def _written(self, incarnation: str, missing: Collection[tuple[int, int]], peers: Collection[str]) -> bool:
        """Write these stretches; False where the node stops before they are there."""
        sink = self._open_sink(lambda: None)
        sealed = self._logs.of(incarnation)
        try:
            for after_lsn, until_lsn in missing:
                fields = {"after_lsn": after_lsn, "until_lsn": until_lsn, "incarnation": incarnation, "peers": peers}
                begins_lsn = self._write(sink, sealed, after_lsn, until_lsn)
                if self._stop.is_set():
                    return False
                if begins_lsn > after_lsn:
                    log.error("directory.gone", extra=fields | {"begins_lsn": begins_lsn, "remedy": A_COPY})
                if begins_lsn < until_lsn:
                    log.warning("directory.written_again", extra=fields)
        finally:
            sink.close()
        return True

    def _write(self, sink: Sink, sealed: SealedLog, after_lsn: int, until_lsn: int) -> int:
        """Write one stretch; return after which LSN of it the log still has something."""
        begins_lsn = None
        while after_lsn < until_lsn and not self._stop.is_set():
            txs = [tx for tx in sealed.read(after_lsn, _READ_BYTES) if tx.header.prev_lsn < until_lsn]
            if not txs:
                break
            begins_lsn = txs[0].header.prev_lsn if begins_lsn is None else begins_lsn
            for envelope in pack(txs, self._packing):
                sink.send(envelope)
                reach(CrashPoint.SENT)
                if self._stop.is_set():
                    # A large tx may have been left in its middle; closing the sink discards that.
                    break
            after_lsn = txs[-1].header.to_lsn
        return until_lsn if begins_lsn is None else begins_lsn


def _has_spoken_since(acks: Acks, given_up: sa.Row[Any] | None) -> bool:
    return given_up is None or acks.updated_us != (given_up.until_us or 0)


def _is_between(acks: Acks) -> bool:
    """Whether the node has rejoined and not run since: how far it is it says then."""
    return bool(acks.had) and not acks.passed and acks.read_until_ns == 0


def uncovered(after_lsn: int, until_lsn: int, there: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yield the stretches after the first LSN, up to the last, of which nothing is in `there`: first and last LSNs of
    each. Pure; in order, each as the LSN before it and its last."""
    for first_lsn, last_lsn in sorted(there):
        if first_lsn - 1 >= until_lsn:
            break
        if first_lsn - 1 > after_lsn:
            yield after_lsn, first_lsn - 1
        after_lsn = max(after_lsn, last_lsn)
    if after_lsn < until_lsn:
        yield after_lsn, until_lsn
