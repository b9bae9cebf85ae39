"""`/metrics`: what it tells of the node, who may ask, what it costs, and that its page is true."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from common.config.model import ServerSection
from common.http.scopes import Scope
from common.metrics import METRICS, page
from common.ops.measures import read_measures
from common.ops.progress import sides_of
from common.ops.sampling import Sampler
from common.runtime.parts import load_parts
from producer.cursors import Cursors
from tests.integration.test_heartbeats import beat
from tests.support.applying import DATABASES, Origin, Write, sqlite_url
from tests.support.web import Served, served

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "metrics.md"
Values = dict[tuple[str, tuple[str, ...]], float]


@pytest.fixture(params=DATABASES)
def node(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Served]:
    url = sqlite_url(tmp_path) if request.param == "sqlite" else request.getfixturevalue("pg_database")
    with served(url, directory={"path": str(tmp_path / "exchange")}) as one:
        yield one


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Served]:
    with served(sqlite_url(tmp_path)) as one:
        yield one


def read(answer: httpx.Response) -> Values:
    assert answer.status_code == 200, answer.text
    found: Values = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            found[sample.name, tuple(sample.labels.values())] = sample.value
    return found


def scraped(one: Served, **options: Any) -> Values:
    with one.client(**options) as client:
        return read(client.get("/metrics"))


def test_it_tells_how_the_node_is(node: Served) -> None:
    world = node.world
    for number in range(3):
        world.execute(f"INSERT INTO item VALUES ({number}, 'a', 1)")
        world.node.database.sealer(world.node.facts).seal()
    world.execute("INSERT INTO item VALUES (9, 'a', 1)")
    Cursors(world.node.database, world.clock).save("directory", world.node.facts.incarnation, 1)
    a = Origin("a")
    a.put(50, "lost", 10)
    world.receive(a.put(51, "x", 10).body, Origin("b").tx(Write("I", "unknown", {"id": 1}, 10)).body)
    world.receive(Origin("c").put(61, "x", 10).body)
    sampler = Sampler(
        world.node.database,
        world.node.config,
        world.node.facts,
        world.clock,
        lambda: sides_of(load_parts(), world.node),
    )
    sampler.look()
    found = scraped(node)
    assert found["rowferry_database_up", ()] == 1
    assert found["rowferry_sealed_changes_total", ()] == 3
    assert found["rowferry_unsealed_changes", ()] == 1
    assert found["rowferry_log_changes", ()] == 3
    assert found["rowferry_published_changes_total", ("directory",)] == 1
    assert found["rowferry_unpublished_changes", ("directory",)] == 2
    assert found["rowferry_road_usable", ("directory",)] == 1
    assert found["rowferry_oldest_unpublished_seconds", ()] > 0
    assert found["rowferry_oldest_unpublished_seconds", ()] >= found["rowferry_unpublished_age_seconds", ("directory",)]
    assert found["rowferry_unapplied_changes", ("a",)] == 1
    assert found["rowferry_passed_changes_total", ("c",)] == 1
    assert found["rowferry_dead_letters", ("unknown-table",)] == 1
    assert found["rowferry_waiting_conflicts", ()] == 0
    assert found["rowferry_sealed_txs_total", ()] == 0
    assert any(name == "process_resident_memory_bytes" for name, _ in found)
    assert ("rowferry_queue_messages", ()) not in found, "there is no broker"


def test_what_waits_here_has_an_age(small: Served) -> None:
    world = small.world
    world.receive(Origin("a").tx(Write("I", "child", {"id": 1, "parent_id": 7}, 10)).body)
    world.clock.pass_seconds(120)
    found = scraped(small)
    assert found["rowferry_early_letters", ()] == 1
    assert found["rowferry_oldest_unapplied_seconds", ()] >= 120


def test_every_name_is_one_of_the_list_and_a_scraper_gets_what_it_asks_for(small: Served) -> None:
    names = {metric.name for metric in METRICS}
    with small.client() as client:
        plain = client.get("/metrics")
        assert plain.headers["content-type"].startswith("text/plain; version=0.0.4")
        assert {name for name, _ in read(plain) if name.startswith("rowferry_")} <= names
        other = client.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert other.headers["content-type"].startswith("application/openmetrics-text")
    assert {family.name for family in openmetrics(other.text)} >= {"rowferry_database_up", "rowferry_sealed_changes"}


def test_the_page_is_what_is_served() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run: python -m common.metrics > docs/reference/metrics.md"
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    for metric in METRICS:
        assert metric.name.startswith("rowferry_")
        assert metric.name.endswith("_total") == (metric.kind == "counter")
        assert set(metric.labels) <= {"peer", "road", "reason"} or metric.name == "rowferry_node_info"


def test_peers_are_those_that_are_known(small: Served) -> None:
    world = small.world
    one = Origin("a").put(1, "x", 10)
    world.receive(one.body, Origin("gone").put(2, "x", 10).body)
    beat(world, 5, one.tx_id, sent_lsn=1)
    with world.node.database.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE rf_node SET retired_us = 1 WHERE node_id = 'gone'")
    world.clock.pass_seconds(90)
    found = scraped(small)
    assert {labels for name, labels in found if name == "rowferry_passed_changes_total"} == {("a",)}
    assert found["rowferry_peer_heartbeat_age_seconds", ("a",)] >= 90
    assert ("rowferry_peer_clock_ahead_seconds", ("a",)) in found


def test_a_database_that_is_away_is_told(small: Served) -> None:
    engine = small.world.node.database.engine
    with engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE rf_watch RENAME TO rf_watch_away")
    found = scraped(small)
    assert {name for name, _ in found if name.startswith("rowferry_")} == {"rowferry_database_up"}
    assert found["rowferry_database_up", ()] == 0
    with engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE rf_watch_away RENAME TO rf_watch")


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Forwarded-For": "127.0.0.1"},
        {"Forwarded": "for=127.0.0.1"},
        {"X-Real-IP": "127.0.0.1"},
        {"Via": "1.1 proxy"},
        {"X-Forwarded-Proto": "https"},
        {"CF-Connecting-IP": "127.0.0.1"},
        {"X-Forwarded": "127.0.0.1"},
        {"X-Original-Forwarded-For": "127.0.0.1"},
        {"X-Cluster-Client-IP": "127.0.0.1"},
        {"Fastly-Client-IP": "127.0.0.1"},
        {"X-Envoy-External-Address": "127.0.0.1"},
        {"X-Azure-ClientIP": "127.0.0.1"},
        {"Fly-Region": "ams"},
        {"Host": "rebound.example"},
        {"Host": "rebound{.example"},
        {"Host": '"'},
        {"Host": "["},
        {"Host": "rebound.example@127.0.0.1"},
        {"Host": "127.0.0.1/rebound.example"},
        {"Host": "rebound.example:99999"},
        {"Host": ""},
    ],
)
def test_what_a_proxy_or_a_page_of_elsewhere_hands_on_needs_a_token(small: Served, headers: dict[str, str]) -> None:
    with small.client() as client:
        assert client.get("/metrics").status_code == 200
        assert client.get("/metrics", headers=headers).status_code == 401
        wrong = {"Authorization": f"Bearer {small.token('a', Scope.PUSH, Scope.PULL)}"}
        assert client.get("/metrics", headers=headers | wrong).status_code == 403
        right = {"Authorization": f"Bearer {small.token('a', Scope.OPS)}"}
        assert client.get("/metrics", headers=headers | right).status_code == 200


def test_behind_a_configured_proxy_nobody_is_local(tmp_path: Path) -> None:
    proxies = {"proxies": ["127.0.0.1"]}
    section = ServerSection(port=0, proxies=("127.0.0.1",))
    with served(sqlite_url(tmp_path), section, server=proxies) as one, one.client() as client:
        assert client.get("/metrics").status_code == 401
        assert client.get("/metrics", headers={"X-Forwarded-For": "127.0.0.1"}).status_code == 401
        right = {"Authorization": f"Bearer {one.token('a', Scope.OPS)}"}
        assert client.get("/metrics", headers=right).status_code == 200


def test_from_another_machine_a_token_is_needed(tmp_path: Path) -> None:
    """By an address of this machine that is not loopback: that is how another one comes."""
    import socket

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine has no address but loopback")
        address = probe.getsockname()[0]
    section = ServerSection(host=address, port=0, plain_http=True)
    with served(sqlite_url(tmp_path), section) as one:
        far = replace(one, url=one.url.replace("127.0.0.1", address))
        with far.client() as client:
            assert client.get("/metrics").status_code == 401
            assert client.get("/metrics", headers={"Host": "localhost"}).status_code == 401
            right = {"Authorization": f"Bearer {one.token('a', Scope.OPS)}"}
            assert client.get("/metrics", headers=right).status_code == 200


def test_a_scrape_reads_no_more_as_the_log_grows(node: Served) -> None:
    """None of its statements counts, sums or goes through what grows with the years."""
    world, seen, here = node.world, list[str](), threading.current_thread()
    engine = world.node.database.engine
    for number in range(20):
        world.execute(f"INSERT INTO item VALUES ({number}, 'a', 1)")
        world.node.database.sealer(world.node.facts).seal()

    def note(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        if threading.current_thread() is here:
            seen.append(" ".join(statement.split()))

    def sides() -> list[Any]:
        return list(sides_of(load_parts(), world.node))

    sa.event.listen(engine, "before_cursor_execute", note)
    try:
        read_measures(world.node.database, world.node.facts, world.clock, sides)
    finally:
        sa.event.remove(engine, "before_cursor_execute", note)
    of_large = [
        one for one in seen if re.search(r"FROM rf_(tx|applied_tx|change_log|row_version|audit|conflict)\b", one)
    ]
    assert of_large
    bounded = (r"LIMIT", r"min\(rf_\w+\.\w+\) AS \w+ FROM \w+( WHERE \S+ > .*)?$", r"rf_conflict.state = ")
    assert [one for one in of_large if not any(re.search(form, one) for form in bounded)] == []
