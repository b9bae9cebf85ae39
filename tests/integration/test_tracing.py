"""Trace context from who publishes to who applies: through a real broker, over HTTP, and never in a batch's bytes."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from common.errors import ConfigError, OutageError
from common.http.scopes import Scope
from common.ports.part import Service
from common.ports.sink import Envelope, TraceContext, TransportFeatures
from common.ports.source import Delivery
from common.tracing import Tracing, open_tracing
from common.transports.rabbitmq import open_sink
from consumer.part import part as consumer_part
from producer.part import part as producer_part
from producer.tracing import Traced
from tests.support.applying import DATABASES, Origin, Tx, World, close_world, open_world, sqlite_url
from tests.support.rabbitmq import settings, source
from tests.support.waiting import wait_for
from tests.support.web import served

ON: dict[str, Any] = {"tracing": {"enabled": True}}
SECONDS = 60


@pytest.fixture(scope="module")
def exporter() -> InMemorySpanExporter:
    """What an SDK that the operator set up would get. A process has one provider for good."""
    provider, made = TracerProvider(), InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(made))
    trace.set_tracer_provider(provider)
    return made


@pytest.fixture
def spans(exporter: InMemorySpanExporter) -> Iterator[InMemorySpanExporter]:
    exporter.clear()
    yield exporter
    exporter.clear()


def named(spans: InMemorySpanExporter, name: str) -> list[ReadableSpan]:
    return [span for span in spans.get_finished_spans() if span.name == f"rowferry {name}"]


@contextmanager
def world_at(folder: Path, node_id: str, url: str | None = None, **sections: Any) -> Iterator[World]:
    folder.mkdir()
    url = url or sqlite_url(folder)
    world = open_world(url, node={"id": node_id, "database": url}, **sections)
    try:
        yield world
    finally:
        close_world(world)


@contextmanager
def running(services: list[Service]) -> Iterator[list[Service]]:
    try:
        yield services
    finally:
        for service in services:
            service.close()


def way_out(world: World) -> list[Service]:
    wanted = ("sealer", "relay-broker", "relay-http-main")
    return [one for one in producer_part.services(world.node, threading.Event()) if one.name in wanted]


def way_in(world: World) -> list[Service]:
    return [one for one in consumer_part.services(world.node, threading.Event()) if one.name == "intake-broker"]


def step_until(services: list[Service], done: Any, what: str) -> None:
    def once() -> bool:
        for service in services:
            service.step(0.02)
        return bool(done())

    wait_for(once, SECONDS, what)


@pytest.fixture(params=DATABASES)
def office_url(request: pytest.FixtureRequest) -> str | None:
    return None if request.param == "sqlite" else str(request.getfixturevalue("pg_database"))


def test_what_is_applied_is_linked_to_what_was_published(
    spans: InMemorySpanExporter, tmp_path: Path, rabbitmq_url: str, office_url: str | None
) -> None:
    broker = {"url": rabbitmq_url}
    with (
        world_at(tmp_path / "shop", "shop", broker=broker, **ON) as shop,
        world_at(tmp_path / "office", "office", office_url, broker=broker, **ON) as office,
        running(way_in(office)) as inwards,
        running(way_out(shop)) as outwards,
    ):
        inwards[0].step(0)
        for number in range(1, 4):
            shop.execute(f"INSERT INTO item VALUES ({number}, 'a', 1)")
            outwards[0].step(0)
        step_until([*outwards, *inwards], lambda: office.watermark("shop") == 3, "three txs to be applied")
        step_until(outwards, lambda: named(spans, "publish"), "the confirm to be taken")
    published, applied = named(spans, "publish"), named(spans, "apply")
    assert {span.kind for span in published} == {SpanKind.PRODUCER}
    assert {span.kind for span in applied} == {SpanKind.CONSUMER}
    assert sum(span.attributes["rowferry.txs"] for span in published if span.attributes) == 3
    linked = {link.context.span_id for span in applied for link in span.links}
    assert linked == {span.context.span_id for span in published if span.context}
    assert all(span.parent is None for span in applied), "linked, and no child: a round holds what many sent"
    assert all(span.status.is_unset for span in (*published, *applied))


def test_the_bytes_are_the_same_with_and_without(
    spans: InMemorySpanExporter, tmp_path: Path, rabbitmq_url: str
) -> None:
    def taken(sections: dict[str, Any]) -> list[Delivery]:
        # A second passage from the beginning sends the same again.
        node = replace(shop.node, config=shop.node.config.model_copy(update=sections))
        shop.execute("DELETE FROM rf_cursor")
        services = [one for one in producer_part.services(node, threading.Event()) if one.name == "relay-broker"]
        found: list[Delivery] = []
        with running(services):

            def came() -> bool:
                new = reader.receive(10, 0.1)
                reader.ack(new)
                found.extend(new)
                return bool(found)

            step_until(services, came, "the message")
        return found

    with (
        world_at(tmp_path / "shop", "shop", broker={"url": rabbitmq_url}, **ON) as shop,
        source(settings(rabbitmq_url, "reader")) as reader,
    ):
        reader.receive(1, 0)
        shop.execute("INSERT INTO item VALUES (1, 'a', 1)")
        shop.node.database.sealer(shop.node.facts).seal()
        (traced,) = taken({})
        (plain,) = taken({"tracing": shop.node.config.tracing.model_copy(update={"enabled": False})})
    assert traced.body == plain.body
    assert "traceparent" in traced.headers
    assert "traceparent" not in plain.headers
    assert {**traced.headers, "traceparent": None} == {**plain.headers, "traceparent": None}


def test_headers_of_strangers_do_no_harm(spans: InMemorySpanExporter, tmp_path: Path, rabbitmq_url: str) -> None:
    good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    hostile = [
        TraceContext("x" * 60_000, "y" * 60_000),
        TraceContext("00-" + "0" * 32 + "-" + "0" * 16 + "-01"),
        TraceContext("ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        TraceContext("00-\u0660af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        TraceContext(good + "\n"),
        TraceContext(good, ",".join(f"k{number}=v" for number in range(5_000))),
        TraceContext(good, "no state at all"),
    ]
    with (
        world_at(tmp_path / "office", "office", broker={"url": rabbitmq_url}, **ON) as office,
        running(way_in(office)) as inwards,
    ):
        inwards[0].step(0)
        a = Origin("a")
        sink = open_sink(settings(rabbitmq_url, "a"), lambda: None)
        try:
            for number, context in enumerate(hostile, start=1):
                sink.send(envelope_of(a.put(number, "x", 10), context))
            # Values that are no text at all.
            sink.send(envelope_of(a.put(99, "x", 10), Numbers("", "")))
            sink.flush(SECONDS)
        finally:
            sink.close()
        step_until(inwards, lambda: office.watermark("a") == a.lsn, "all to be applied")
        assert office.letters() == []
    links = [link for span in named(spans, "apply") for link in span.links]
    assert [f"{link.context.trace_id:032x}" for link in links] == [good[3:35]] * 2
    assert all(not link.context.trace_state for link in links)


class Numbers(TraceContext):
    """What only a stranger sends."""

    def headers(self) -> dict[str, str]:
        return {"traceparent": 7, "tracestate": {"a": [1]}}  # type: ignore[dict-item]


def envelope_of(tx: Tx, context: TraceContext) -> Envelope:
    header = tx.header
    return Envelope(
        tx.body, "a", header.incarnation, header.from_lsn, header.to_lsn, tx.tx_id, 1, header.to_lsn, context
    )


def test_a_push_carries_it_too(spans: InMemorySpanExporter, tmp_path: Path) -> None:
    (tmp_path / "main").mkdir()
    url = sqlite_url(tmp_path / "main")
    with served(url, node={"id": "main", "database": url, "role": "main"}, **ON) as main:
        token = tmp_path / "main.token"
        token.write_text(main.token("shop", Scope.PUSH, Scope.PULL))
        token.chmod(0o600)
        peers = {"main": {"url": main.url, "token_file": str(token)}}
        with world_at(tmp_path / "shop", "shop", peers=peers, **ON) as shop, running(way_out(shop)) as outwards:
            shop.execute("INSERT INTO item VALUES (1, 'a', 1)")
            step_until(outwards, lambda: named(spans, "publish"), "the push")
        wait_for(lambda: named(spans, "apply"), SECONDS, "the span of the round")
    (published,) = named(spans, "publish")
    links = [link for span in named(spans, "apply") for link in span.links]
    assert published.context is not None
    assert [link.context.span_id for link in links] == [published.context.span_id]


class Failing:
    """A sink that takes some and confirms what the test says."""

    features = TransportFeatures("failing", False, True, True, False, False, False, None)

    def __init__(self) -> None:
        self.lsn = 0
        self.is_away = False

    def send(self, envelope: Envelope) -> None:
        if self.is_away:
            raise OutageError("away")

    def confirmed(self) -> int:
        return self.lsn

    def flush(self, timeout_seconds: float) -> int:
        return self.lsn

    def close(self) -> None:
        """Nothing to give back."""


def test_a_span_ends_with_the_confirm_and_tells_of_what_never_had_one(spans: InMemorySpanExporter) -> None:
    inner = Failing()
    sink = Traced(inner, "broker", Tracing())
    parts = [Envelope(b"x", "a", "i", 1, 1, "t1", closes_lsn=None), Envelope(b"x", "a", "i", 1, 1, "t1", closes_lsn=1)]
    for envelope in (*parts, Envelope(b"x", "a", "i", 2, 2, "t2", closes_lsn=2)):
        sink.send(envelope)
    assert (sink.confirmed(), len(named(spans, "publish"))) == (0, 0)
    inner.lsn = 1
    assert (sink.confirmed(), len(named(spans, "publish"))) == (1, 2)
    inner.is_away = True
    with pytest.raises(OutageError):
        sink.send(Envelope(b"x", "a", "i", 3, 3, "t3", closes_lsn=3))
    sink.close()
    sink.close()
    found = [(span.attributes or {})["rowferry.tx_id"] for span in named(spans, "publish")]
    failed = [(span.attributes or {})["rowferry.tx_id"] for span in named(spans, "publish") if span.status.description]
    assert found == ["t1", "t1", "t3", "t2"]
    assert failed == ["t3", "t2"]


def test_nothing_is_loaded_where_it_is_off(tmp_path: Path) -> None:
    program = """
import sys, threading
from pathlib import Path
from tests.support.applying import close_world, open_world, sqlite_url
from common.runtime.parts import load_parts
world = open_world(sqlite_url(Path(sys.argv[1])), directory={"path": sys.argv[1] + "/exchange"})
services = [one for part in load_parts() for one in part.services(world.node, threading.Event())]
for service in services:
    service.step(0)
for service in services:
    service.close()
close_world(world)
print([name for name in sys.modules if name.startswith("opentelemetry")])
"""
    root = Path(__file__).parents[2]
    (tmp_path / "exchange").mkdir()
    command = [sys.executable, "-c", program, str(tmp_path)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=SECONDS, check=True)
    assert done.stdout.strip() == "[]"


def test_without_opentelemetry_the_setting_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert open_tracing(False) is None
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(ConfigError, match=r"tracing\.enabled.*rowferry\[otel\]"):
        open_tracing(True)
