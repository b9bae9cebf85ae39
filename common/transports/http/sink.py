"""The sink that pushes to one peer."""

import logging
from collections.abc import Callable, Sequence

from common.errors import OutageError
from common.ports.sink import Envelope, KnownLog, TransportFeatures
from common.transports.http.answers import Pushed, PushedTx
from common.transports.http.client import PeerClient
from common.transports.http.features import FEATURES

log = logging.getLogger(__name__)


class HttpSink:
    """Pushes envelopes; what `send` returned from is committed at the peer. A `Sink`; belongs to one thread."""

    def __init__(
        self,
        client: PeerClient,
        known_lsn: int,
        on_pushed: Callable[[Pushed], None] | None = None,
        known_logs: Sequence[KnownLog] = (),
    ) -> None:
        """`known_lsn`: up to where the peer said that it has this node's log; `known_logs`: up to where it has each of
        them."""
        self.known_logs = known_logs
        self._on_pushed = on_pushed
        self._client = client
        self._known_lsn = known_lsn
        self._confirmed = 0
        self._closed = False

    @property
    def features(self) -> TransportFeatures:
        return FEATURES

    @property
    def known_lsn(self) -> int:
        return self._known_lsn

    def send(self, envelope: Envelope) -> None:
        """Push one envelope and wait for its commit. Raises OutageError, RefusedError."""
        if self._closed:
            raise OutageError(f"the sink for {self._client.url} is closed: open a new one")
        pushed = self._client.push(envelope.body, envelope.trace.headers() if envelope.trace else None)
        if self._on_pushed is not None:
            self._on_pushed(pushed)
        for one in pushed.results:
            if one.outcome == "dead-lettered":
                _tell(self._client.url, one)
        if envelope.closes_lsn is not None:
            self._confirmed = max(self._confirmed, envelope.closes_lsn)

    def confirmed(self) -> int:
        return self._confirmed

    def flush(self, timeout_seconds: float) -> int:
        # Nothing to wait for: what `send` returned from is committed.
        del timeout_seconds
        return self._confirmed

    def close(self) -> None:
        self._closed = True
        self._client.close()


def _tell(url: str, tx: PushedTx) -> None:
    fields = {"peer": url, "tx_id": tx.tx_id, "source_node": tx.source_node, "state": tx.state, "reason": tx.reason}
    level = logging.INFO if tx.state == "early" else logging.WARNING
    log.log(level, "push.set_aside", extra=fields | {"error": tx.error})
