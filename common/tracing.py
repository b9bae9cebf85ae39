"""Spans for OpenTelemetry, where a node is told to give some: one for each message that is published, one for each
round that is applied, linked to those that it came by.

W3C trace context travels in the headers of messages and pushes, never in a batch: its bytes are the same everywhere.
Nothing of OpenTelemetry is imported before `open_tracing` is asked for it. Its API alone is used: which SDK and
exporter there are is said outside, by `opentelemetry-instrument rowferry run` for example; without one no span is
recorded."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING

from common.errors import ConfigError
from common.ports.sink import Envelope, TraceContext

if TYPE_CHECKING:
    from opentelemetry.trace import Link, Span

NAMES = ("traceparent", "tracestate")
_PARENT = re.compile(r"(?!ff)[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}\Z")
_MEMBER = r"[a-z0-9][a-z0-9_*/@-]{0,255}=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]"
_STATE = re.compile(rf"{_MEMBER}(?:,{_MEMBER}){{0,31}}\Z")
_LONGEST_STATE = 512
_MOST_LINKS = 128
"""What SDKs keep of them by default."""


def trace_of(headers: Mapping[str, object]) -> TraceContext | None:
    """Return what the headers of a message say of its trace; None for none, and for anything that is not as W3C writes
    it: whoever sends that is not told, and nothing else of the message suffers. Pure."""
    parent, state = (headers.get(name) for name in NAMES)
    if not isinstance(parent, str) or len(parent) != 55 or not _PARENT.match(parent):
        return None
    is_state = isinstance(state, str) and len(state) <= _LONGEST_STATE and _STATE.match(state)
    return TraceContext(parent, str(state) if is_state else "")


class Published:
    """The span of one message, from the moment it is sent until the other side has confirmed it."""

    def __init__(self, span: "Span", context: TraceContext | None) -> None:
        self._span = span
        self.context = context
        """What goes along with the message; None where nobody records."""

    def confirmed(self) -> None:
        """The other side has it."""
        self._span.end()

    def failed(self, why: str) -> None:
        """It is not known whether the other side has it; it is sent again."""
        from opentelemetry.trace import Status, StatusCode

        self._span.set_status(Status(StatusCode.ERROR, why))
        self._span.end()


class Tracing:
    """Begins spans. Any thread."""

    def __init__(self) -> None:
        from opentelemetry import trace
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._api = trace
        # W3C's own, whatever else the process is told to use: all nodes must understand each other.
        self._propagator = TraceContextTextMapPropagator()
        self._tracer = trace.get_tracer("rowferry", version("rowferry"))

    def publishing(self, envelope: Envelope, road: str) -> Published:
        """Begin the span of one message."""
        attributes: dict[str, str | int] = {
            "rowferry.road": road,
            "rowferry.source_node": envelope.source_node,
            "rowferry.tx_id": envelope.tx_id,
            "rowferry.txs": envelope.txs,
            "rowferry.from_lsn": envelope.from_lsn,
            "rowferry.to_lsn": envelope.to_lsn,
            "messaging.message.body.size": len(envelope.body),
        }
        kind = self._api.SpanKind.PRODUCER
        span = self._tracer.start_span("rowferry publish", kind=kind, attributes=attributes)
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier, self._api.set_span_in_context(span))
        return Published(span, trace_of(carrier))

    @contextmanager
    def applying(self, way: str, headers: Sequence[Mapping[str, object]], txs: int) -> Iterator[None]:
        """Record what happens inside as one round: the messages whose `headers` these are, committed together."""
        attributes: dict[str, str | int] = {"rowferry.way": way, "rowferry.messages": len(headers), "rowferry.txs": txs}
        kind = self._api.SpanKind.CONSUMER
        with self._tracer.start_as_current_span(
            "rowferry apply", kind=kind, links=list(self._links(headers)), attributes=attributes
        ):
            yield

    def _links(self, headers: Sequence[Mapping[str, object]]) -> "Iterator[Link]":
        found = 0
        for one in headers:
            context = trace_of(one)
            if context is None:
                continue
            span = self._api.get_current_span(self._propagator.extract(context.headers()))
            if span.get_span_context().is_valid:
                yield self._api.Link(span.get_span_context())
                found += 1
            if found == _MOST_LINKS:
                return


def open_tracing(enabled: bool) -> Tracing | None:
    """Return what begins spans; None where the node is not to. Raises ConfigError where OpenTelemetry is missing."""
    if not enabled:
        return None
    try:
        return Tracing()
    except ImportError as error:
        raise ConfigError(
            "tracing.enabled: OpenTelemetry is not installed: `pip install 'rowferry[otel]'`, or set it to false"
        ) from error
