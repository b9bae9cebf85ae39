"""Hands other nodes' batches on to a sink that this node writes to: a peer to push to, or the shared folder."""

import logging
import threading
from collections.abc import Callable, Iterator
from functools import partial

from common.errors import RowferryError
from common.ports.part import Service
from common.ports.sink import Envelope, Sink
from common.runtime.node import Node
from common.runtime.transports import DIRECTORY, directory_sink_factory, peer_sink_factory
from producer.relay import OpenSink
from producer.relay_cleaning import RelayCleaning, pushed_to
from producer.relay_log import KeptTx, Readers, RelayLog

log = logging.getLogger(__name__)

_READ_TXS = 1_000
_READ_BYTES = 4 * 1024 * 1024
_CONFIRM_SECONDS = 30.0
_LOOK_SECONDS = 0.5


class Forwarding:
    """A `Service`; belongs to one thread. What is on its way when it ends is sent again: receivers recognise it."""

    def __init__(
        self,
        reader: str,
        open_sink: OpenSink,
        kept: RelayLog,
        readers: Readers,
        wants: Callable[[KeptTx], bool],
        stop: threading.Event,
    ) -> None:
        """`wants`: whether a tx goes to this sink at all."""
        self.name = f"forward-{reader.removeprefix('push:')}"
        self._reader = reader
        self._open_sink = open_sink
        self._kept = kept
        self._readers = readers
        self._wants = wants
        self._stop = stop
        self._sink: Sink | None = None
        self._seq: int | None = None
        self._wake = threading.Event()

    def wake(self) -> None:
        self._wake.set()

    def step(self, idle_seconds: float) -> bool:
        """Send one read of what is kept; True when there was some."""
        if self._stop.is_set():
            return False
        self._wake.clear()
        if self._seq is None:
            self._seq = self._readers.load(self._reader)
        txs = self._kept.read(self._seq, _READ_TXS, _READ_BYTES)
        if not txs:
            self._wake.wait(min(idle_seconds, _LOOK_SECONDS))
            return False
        try:
            self._send([tx for tx in txs if self._wants(tx)])
        except BaseException:
            self._drop()
            raise
        if self._stop.is_set():
            return True
        self._seq = txs[-1].seq
        self._readers.save(self._reader, self._seq)
        return True

    def close(self) -> None:
        self._drop()

    def _send(self, txs: list[KeptTx]) -> None:
        if not txs:
            return
        sink = self._sink or self._open_sink(self._wake.set)
        self._sink = sink
        for tx in txs:
            for envelope in self._envelopes(tx):
                if self._stop.is_set():
                    return
                sink.send(envelope)
        sink.flush(_CONFIRM_SECONDS)
        log.debug("forwarded", extra={"reader": self._reader, "txs": len(txs)})

    def _envelopes(self, tx: KeptTx) -> Iterator[Envelope]:
        for number, body in enumerate(self._kept.parts(tx), start=1):
            closes = tx.to_lsn if number == tx.parts else None
            yield Envelope(body, tx.source_node, tx.incarnation, tx.from_lsn, tx.to_lsn, tx.tx_id, closes_lsn=closes)

    def _drop(self) -> None:
        sink, self._sink = self._sink, None
        if sink is None:
            return
        try:
            sink.close()
        except RowferryError as error:
            log.debug("forwarding.close_failed", extra={"reader": self._reader, "error": str(error)})


def forwarding(node: Node, stop: threading.Event) -> list[Service]:
    """Return what hands on to the sinks of this node, and what cleans up behind it; nothing where it doesn't."""
    if not node.config.forwards:
        return []
    kept, readers = RelayLog(node.database), Readers(node.database, node.clock, node.facts.incarnation)
    services: list[Service] = []
    for name, peer in node.config.peers.items():
        open_sink = peer_sink_factory(node, name, peer)
        services.append(Forwarding(pushed_to(name), open_sink, kept, readers, partial(_is_not_of, name), stop))
    open_folder = directory_sink_factory(node)
    if open_folder is not None:
        services.append(Forwarding(DIRECTORY, open_folder, kept, readers, _came_otherwise, stop))
    return [*services, RelayCleaning(node, stop)]


def hand_on_to(node: Node, peer: str, open_sink: OpenSink, stop: threading.Event) -> None:
    """Hand on all that a peer lacks, in one go. Raises what the sink raises."""
    kept, readers = RelayLog(node.database), Readers(node.database, node.clock, node.facts.incarnation)
    service = Forwarding(pushed_to(peer), open_sink, kept, readers, partial(_is_not_of, peer), stop)
    try:
        while service.step(0):
            pass
    finally:
        service.close()


def _is_not_of(node_id: str, tx: KeptTx) -> bool:
    return tx.source_node != node_id


def _came_otherwise(tx: KeptTx) -> bool:
    return not tx.by_directory
