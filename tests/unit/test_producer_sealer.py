"""The sealing loop: seals until nothing is left, wakes the relays, keeps capture whole, notices another server."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from common.clock import SystemClock
from common.config.model import Config
from common.errors import ConfigError, ContentionError, OutageError, ReopenNodeError
from common.ops.incarnation import has_moved, settle_incarnation
from common.ports.dialect import Catalog, ColumnShape, NodeFacts, SealReport, TableShape
from common.runtime.node import Node
from common.schema import tables as rf
from producer.sealer import SealerService, pause_after
from tests.support.producing import FACTS, INCARNATION, MemoryDatabase

ITEM = TableShape("item", None, "item", (ColumnShape("id", "int", "INTEGER"),), ("id",))


class Server(MemoryDatabase):
    """A database whose sealer, capture and identity follow the test."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.identity = "server-1"
        self.reports: list[SealReport | Exception] = []
        self.seals = 0
        self.quiet = False
        self.drifts: list[str] = []
        self.install_fails: Exception | None = None
        self.installed: list[list[str]] = []
        self.keyless: tuple[str, ...] = ()
        with self.engine.begin() as connection:
            values = {"node_id": "shop", "incarnation": INCARNATION, "is_self": True, "server_identity": "server-1"}
            connection.execute(sa.insert(rf.node).values(first_seen_us=1, last_seen_us=1, **values))

    def server_identity(self) -> str:
        return self.identity

    def sealer(self, node: NodeFacts) -> Server:
        return self

    def hold_sealing(self, connection: sa.Connection) -> None:
        """Nobody else seals here."""

    def capture(self, rules: object = None) -> Server:
        return self

    def catalog(self) -> Catalog:
        return Catalog({"item": ITEM}, keyless=self.keyless)

    def seal(self, max_changes: int = 50_000) -> SealReport:
        self.seals += 1
        now = self.reports.pop(0) if self.reports else SealReport(0, 0, 0)
        if isinstance(now, Exception):
            raise now
        return now

    def is_quiet(self) -> bool:
        return self.quiet

    def drifted(self, tables: Sequence[TableShape]) -> list[str]:
        return self.drifts

    def install(self, tables: Sequence[TableShape], *, briefly: bool = False) -> list[str]:
        if self.install_fails:
            raise self.install_fails
        self.installed.append([table.name for table in tables])
        self.drifts = []
        return ["CREATE TRIGGER …"]

    def audit(self) -> list[Any]:
        with self.engine.connect() as connection:
            return list(connection.execute(sa.select(rf.audit.c.action, rf.audit.c.detail)))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    database = Server(tmp_path / "node.db")
    yield database
    database.close()


def node_of(server: Server, facts: NodeFacts = FACTS, **node: Any) -> Node:
    settings = {"node": {"id": "shop", "database": "sqlite:///x.db", **node}, "directory": {"path": "exchange"}}
    return Node(Config.model_validate(settings), server.as_port, facts, SystemClock())


def service_of(server: Server, *wakes: Callable[[], None], **node: Any) -> SealerService:
    return SealerService(node_of(server, **node), wakes, threading.Event())


def test_seals_until_nothing_is_left_and_wakes_the_relays(server: Server) -> None:
    woken: list[str] = []
    service = service_of(server, lambda: woken.append("one"), lambda: woken.append("two"))
    server.reports = [SealReport(3, 9, 9, more=True), ContentionError("locked"), SealReport(1, 1, 10)]
    assert service.step(0)
    assert server.seals == 3
    assert woken == ["one", "two"] * 2
    assert not service.step(0)


def test_idle_pauses_grow_to_the_configured_interval(server: Server) -> None:
    service = service_of(server)
    for _ in range(30):
        service.step(0)
    assert service._pause_seconds == node_of(server).config.limits.seal_interval_seconds
    server.reports = [SealReport(1, 1, 1)]
    service.step(0)
    assert service._pause_seconds < 0.01


def test_soon_after_a_change_the_pauses_stay_short(server: Server) -> None:
    service = service_of(server)
    server.reports = [SealReport(1, 1, 1)]
    for _ in range(5):
        service.step(0)
    assert service._pause_seconds < 0.01


def test_under_load_a_look_comes_the_seldomer_the_longer_it_takes() -> None:
    assert pause_after(txs=1, took_seconds=0.05) == pause_after(txs=10, took_seconds=0) < 0.01
    assert pause_after(txs=10, took_seconds=0.003) == pytest.approx(0.03)
    assert pause_after(txs=10, took_seconds=0.025) == pause_after(txs=5_000, took_seconds=2) == pytest.approx(0.25)


def test_a_quiet_database_is_looked_at_again_after_the_longest_pause(server: Server) -> None:
    service = service_of(server)
    service.step(0)
    server.quiet = True
    for _ in range(3):
        assert not service.step(0)
    assert server.seals == 1
    service._look_at = 0.0
    service.step(0)
    assert server.seals == 2


def test_an_outage_goes_up(server: Server) -> None:
    server.reports = [OutageError("gone")]
    with pytest.raises(OutageError):
        service_of(server).step(0)


def test_drifted_capture_is_installed_anew(server: Server) -> None:
    server.drifts = ["item"]
    service = service_of(server)
    service.step(0)
    service.step(0)
    assert server.installed == [["item"]]
    assert [action for action, _ in server.audit()] == ["capture"]


def test_without_auto_migrate_drift_is_said(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    server.drifts = ["item"]
    service_of(server, auto_migrate=False).step(0)
    assert not server.installed
    problems = [getattr(record, "problem", "") for record in caplog.records]
    assert any("rowferry migrate" in problem for problem in problems)


def test_capture_that_can_t_be_mended_stops_no_sealing(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    server.drifts, server.keyless = ["item"], ("notes",)
    server.install_fails = ConfigError("permission denied")
    server.reports = [SealReport(1, 1, 1)]
    assert service_of(server).step(0)
    problems = " ".join(getattr(record, "problem", "") for record in caplog.records)
    assert "permission denied" in problems
    assert "notes" in problems


def test_another_server_asks_for_a_new_start(server: Server) -> None:
    service = service_of(server)
    service.step(0)
    service.step(0)
    server.identity = "server-2"
    server.reports = [OutageError("failover")]
    with pytest.raises(OutageError):
        service.step(0)
    with pytest.raises(ReopenNodeError):
        service.step(0)
    assert server.seals == 3, "nothing is sealed on the other server"


def test_a_new_incarnation_by_another_process_is_noticed(server: Server) -> None:
    service = service_of(server)
    service.step(0)
    settle_incarnation(server.as_port, FACTS, SystemClock())
    server.identity = "server-2"
    settle_incarnation(server.as_port, FACTS, SystemClock())
    with pytest.raises(ReopenNodeError):
        service.step(0)


def test_another_server_gets_a_new_incarnation_once(server: Server) -> None:
    server.identity = "server-2"
    assert has_moved(server.as_port, FACTS)
    facts = settle_incarnation(server.as_port, FACTS, SystemClock())
    assert facts.incarnation != INCARNATION
    assert not has_moved(server.as_port, facts)
    # A second process that started from the old facts comes to the same.
    assert settle_incarnation(server.as_port, FACTS, SystemClock()) == facts
    ((action, detail),) = server.audit()
    assert action == "incarnation"
    assert json.loads(detail)["from"] == INCARNATION


def test_a_server_that_was_never_noted_is_noted(server: Server) -> None:
    with server.engine.begin() as connection:
        connection.execute(sa.update(rf.node).values(server_identity=None))
    assert settle_incarnation(server.as_port, FACTS, SystemClock()) == FACTS
    assert not server.audit()
    server.identity = "server-2"
    assert has_moved(server.as_port, FACTS)
