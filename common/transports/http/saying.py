"""A way to tell one peer what is said beside batches."""

from collections.abc import Callable

from common.errors import OutageError
from common.ports.sink import Envelope, TransportFeatures
from common.transports.http.answers import Missing
from common.transports.http.client import PeerClient, RefusedError
from common.transports.http.features import FEATURES

OnMissing = Callable[[Missing | None], None]


class HttpSaying:
    """Posts each envelope as it is; what `send` returned from is stored there. A `Sink`; belongs to one thread."""

    def __init__(self, client: PeerClient, on_missing: OnMissing) -> None:
        """`on_missing` is told, after each, what the peer lacks of this node's log; None: nothing."""
        self._client = client
        self._on_missing = on_missing
        self._said_lsn = 0

    @property
    def features(self) -> TransportFeatures:
        return FEATURES

    def send(self, envelope: Envelope) -> None:
        """Raises OutageError, also where the peer does not take it: a release of before does not know of it."""
        try:
            missing = self._client.say(envelope.body)
        except RefusedError as error:
            raise OutageError(str(error)) from error
        self._said_lsn = envelope.to_lsn
        self._on_missing(missing)

    def confirmed(self) -> int:
        return self._said_lsn

    def flush(self, timeout_seconds: float) -> int:
        del timeout_seconds
        return self._said_lsn

    def close(self) -> None:
        self._client.close()
