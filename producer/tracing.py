"""A sink that tells OpenTelemetry of each message: from the moment it is sent until it is confirmed."""

from collections import deque
from collections.abc import Callable
from dataclasses import replace

from common.ports.sink import Envelope, KnowsPlace, Sink, TransportFeatures
from common.runtime.transports import OpenSink
from common.tracing import Published, Tracing


def traced(open_sink: OpenSink, road: str, tracing: Tracing | None) -> OpenSink:
    """Return how to open a sink that begins a span for each message; without `tracing` the same as before."""
    if tracing is None:
        return open_sink

    def open_and_trace(on_confirmed: Callable[[], None]) -> Sink:
        sink = open_sink(on_confirmed)
        return TracedPeer(sink, road, tracing) if isinstance(sink, KnowsPlace) else Traced(sink, road, tracing)

    return open_and_trace


class Traced:
    """Wraps one sink. A `Sink`; belongs to one thread."""

    def __init__(self, sink: Sink, road: str, tracing: Tracing) -> None:
        self._sink = sink
        self._road = road
        self._tracing = tracing
        self._under_way: deque[tuple[int | None, Published]] = deque()
        """With the `closes_lsn` of each."""

    @property
    def features(self) -> TransportFeatures:
        return self._sink.features

    def send(self, envelope: Envelope) -> None:
        published = self._tracing.publishing(envelope, self._road)
        try:
            self._sink.send(replace(envelope, trace=published.context) if published.context else envelope)
        except BaseException as error:
            published.failed(str(error))
            raise
        self._under_way.append((envelope.closes_lsn, published))

    def confirmed(self) -> int:
        return self._ended(self._sink.confirmed())

    def flush(self, timeout_seconds: float) -> int:
        return self._ended(self._sink.flush(timeout_seconds))

    def close(self) -> None:
        while self._under_way:
            self._under_way.popleft()[1].failed("the sink was closed before this was confirmed")
        self._sink.close()

    def _ended(self, confirmed_lsn: int) -> int:
        """End the spans of what is confirmed: parts of a large tx with the last of them."""
        done = 0
        for number, (closes_lsn, _) in enumerate(self._under_way, start=1):
            if closes_lsn is not None:
                if closes_lsn > confirmed_lsn:
                    break
                done = number
        for _ in range(done):
            self._under_way.popleft()[1].confirmed()
        return confirmed_lsn


class TracedPeer(Traced):
    """One whose other side has said what it has."""

    def __init__(self, sink: Sink, road: str, tracing: Tracing) -> None:
        super().__init__(sink, road, tracing)
        if not isinstance(sink, KnowsPlace):
            raise TypeError("this sink knows nothing of its other side")
        self.known_lsn = sink.known_lsn
        self.known_logs = sink.known_logs
