"""`GET /metrics`: what the node's database tells, in Prometheus' words. Open to this machine, else for `ops` tokens."""

import logging
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Annotated
from urllib.parse import urlsplit

import sqlalchemy as sa
from fastapi import APIRouter, Depends, Request, Response
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from common.errors import RowferryError
from common.http.callers import address_of, admitted, bearer_of
from common.http.loopback import is_loopback
from common.http.problems import guarded
from common.http.scopes import Scope
from common.metrics import DATABASE_UP, METRICS, Kind, Measure
from common.ops.measures import read_measures
from common.ops.progress import sides_of
from common.ports.part import Part
from common.runtime.node import Node
from common.web.fresh import Fresh

log = logging.getLogger(__name__)

_HANDED_ON = re.compile(r"forward|client-?ip|-ip$|^via$|^(x-)?(amzn|arr|azure|cf|envoy|fastly|fly|original)-")
"""Names of headers that proxies add: the usual ones, and those of the large providers."""


class NodeCollector(Collector):
    """Reads the node's measures at each scrape; several at once cost no more than one. Any thread."""

    def __init__(self, read: Callable[[], list[Measure]]) -> None:
        self._latest = Fresh(read)

    def describe(self) -> Iterator[Metric]:
        """Return nothing: the registry need not ask a database that may be away only to know the names."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Yield each metric that has a value; of a database that is away, that it is."""
        by_name: dict[str, list[Measure]] = {}
        for measure in self._latest.get():
            by_name.setdefault(measure.metric.name, []).append(measure)
        for metric in METRICS:
            if metric.name not in by_name:
                continue
            kind = CounterMetricFamily if metric.kind is Kind.COUNTER else GaugeMetricFamily
            family = kind(metric.name, metric.text, labels=metric.labels)
            for measure in by_name[metric.name]:
                family.add_metric(measure.labels, measure.value)
            yield family


def _measures(node: Node, parts: Sequence[Part[Node]]) -> list[Measure]:
    try:
        return read_measures(node.database, node.facts, node.clock, partial(sides_of, parts, node))
    except (RowferryError, sa.exc.SQLAlchemyError) as error:
        log.warning("metrics.database_away", extra={"error": str(error)})
        return [Measure(DATABASE_UP, 0)]


def registry_of(read: Callable[[], list[Measure]]) -> CollectorRegistry:
    """Return a registry of this application's own: nothing of another one in the same process gets into it.

    `read`: returns the node's measures."""
    registry = CollectorRegistry()
    registry.register(NodeCollector(read))
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    return registry


def metric_routes(node: Node, parts: Sequence[Part[Node]]) -> APIRouter:
    """Return the route."""
    router = APIRouter(tags=["probes"])
    registry = registry_of(partial(_measures, node, parts))
    has_proxies = bool(node.config.server.proxies)

    def admit(request: Request) -> None:
        """Let in whoever is on this machine, or shows a token with scope ops. Raises ProblemError, OutageError."""
        if has_proxies or not is_local(request):
            admitted(request, bearer_of(request), (Scope.OPS,))

    @router.get(
        "/metrics",
        summary="Metrics for Prometheus; from another machine with a token of scope ops.",
        response_class=Response,
        responses={
            **guarded(),
            200: {
                "description": "Prometheus' text format, or OpenMetrics.",
                "content": {
                    "text/plain": {"schema": {"type": "string"}},
                    "application/openmetrics-text": {"schema": {"type": "string"}},
                },
            },
        },
    )
    def metrics(request: Request, _admitted: Annotated[None, Depends(admit)]) -> Response:
        return exposed(registry, request)

    return router


def exposed(registry: CollectorRegistry, request: Request) -> Response:
    """Return the metrics in the format that a request asks for."""
    encode, content_type = _encoder(request.headers.get("accept", ""))
    return Response(encode(registry), media_type=content_type)


def _encoder(accept: str) -> tuple[Callable[[CollectorRegistry], bytes], str]:
    try:
        return choose_encoder(accept)
    except (TypeError, ValueError):
        # A version of the format that is none: it is compared with numbers.
        return choose_encoder("")


def is_local(request: Request) -> bool:
    """Tell whether a request was surely made on this machine: what a proxy here hands on was not.

    Nor by a page of elsewhere in a browser here, whose name was made to lead to this machine."""
    if any(map(_HANDED_ON.search, request.headers)):
        return False
    return is_loopback(address_of(request)) and is_loopback(_asked_host(request))


def _asked_host(request: Request) -> str:
    """Return the host that a request names; empty where it names none that can be read.

    Not `request.url`: in the place of such a one it has the address of this machine."""
    try:
        url = urlsplit(f"//{request.headers.get('host', '')}")
        is_host = url.username is None and url.port != 0 and not (url.path or url.query or url.fragment)
        return (url.hostname or "") if is_host else ""
    except ValueError:
        return ""
