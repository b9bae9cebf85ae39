"""A main node with three shops in trouble of different kinds, for the tests and the pictures of the operations page."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from math import sin
from pathlib import Path

from common.clock import from_us
from common.config.model import ServerSection
from common.http.scopes import Scope
from common.ops.agreement import agreement
from common.ops.counting import Totals, read_marks
from common.ops.samples import Gauges, newest_sample, write_sample
from common.ops.stalls import SEALER, Seen, write_seen
from common.retry import in_transaction
from common.schema import tables as rf
from common.wire.control import Heartbeat, encode_control
from common.wire.records import TableMeta
from consumer.apply.committing import Committing
from producer.cursors import Cursors
from tests.support.applying import Origin, Write, sqlite_url
from tests.support.web import Served, served

MINUTE_US = 60_000_000


def now_us() -> int:
    return time.time_ns() // 1000


@contextmanager
def scene(folder: Path, url: str | None = None) -> Iterator[Served]:
    """Serve it: shop-1 has sent what does not fit here and has met another write, shop-2 is silent, shop-3 is well."""
    address = url or sqlite_url(folder)
    sections = {
        "node": {"id": "main", "role": "main", "database": address},
        "directory": {"path": str(folder / "exchange")},
        "tables": {"policy": {"item": "manual"}},
    }
    with served(address, ServerSection(port=0), **sections) as node:
        node.world.clock.us = now_us() - 30 * MINUTE_US
        _write(node)
        _heartbeat(node, "shop-2", head_lsn=14, passed=1)
        node.world.clock.us = now_us() - 20 * 1_000_000
        shop = Origin("shop-1", tables={"item": ITEM, "voucher": VOUCHER})
        letter = shop.tx(
            Write("I", "voucher", {"id": 501, "code": "SPRING-10", "percent": 10}, 10),
            Write("I", "voucher", {"id": 502, "code": "SPRING-20", "percent": 20}, 11),
        )
        met = shop.tx(Write("I", "item", {"id": 7, "name": "Coffee, ground", "price": "4.90"}, now_us()))
        plain = shop.tx(Write("I", "item", {"id": 8, "name": "Tea", "price": "3.20"}, now_us()))
        with node.client(node.token("shop-1", Scope.PUSH)) as client:
            answer = client.post("/sync/push", content=letter.body + met.body + plain.body)
            assert answer.status_code == 200, answer.text
        for name, lsn in (("shop-1", shop.lsn), ("shop-3", 0)):
            _heartbeat(node, name, head_lsn=lsn, passed=2, head_tx_id=plain.tx_id if lsn else None)
        _samples(node)
        node.world.clock.us = now_us()
        with node.world.node.database.engine.begin() as connection:
            connection.execute(rf.node.update().where(rf.node.c.is_self).values(heard_us=now_us()))
            # As the watchdog of its `run` does.
            write_seen(connection, SEALER, Seen(0, "", None, None, now_us()))
        yield node


ITEM = TableMeta(pk=("id",), columns={"id": "int", "name": "text", "price": "decimal"})
VOUCHER = TableMeta(pk=("id",), columns={"id": "int", "code": "text", "percent": "int"})
MAKE_VOUCHER = "CREATE TABLE voucher (id INTEGER PRIMARY KEY, code TEXT, percent INTEGER)"


def _write(node: Served) -> None:
    node.world.execute("INSERT INTO item VALUES (7, 'Coffee', 4.5)", "INSERT INTO item VALUES (9, 'Sugar', 1.1)")
    Committing(node.world.node).seal()
    world = node.world
    Cursors(world.node.database, world.clock).save("directory", world.node.facts.incarnation, 2)
    # As if it had been written before shop-2 fell silent.
    with world.node.database.engine.begin() as connection:
        connection.execute(rf.tx.update().values(captured_us=rf.tx.c.captured_us - 40 * MINUTE_US))


def _heartbeat(node: Served, name: str, *, head_lsn: int, passed: int, head_tx_id: str | None = None) -> None:
    """Let a node say that it is there, and how far it has this node's log."""
    world = node.world
    agreed = agreement(world.node.config, world.node.captured_tables().values())
    facts = world.node.facts
    said = Heartbeat(
        source_node=name,
        incarnation="inc1",
        head_lsn=head_lsn,
        head_tx_id=head_tx_id or "01920000-0000-7000-8000-000000000000",
        sent_lsn=0,
        every_seconds=60.0,
        at=from_us(world.clock.us),
        release="0.1.0",
        features=(),
        schema_sha256=agreed.schema_sha256,
        policies_sha256=agreed.policies_sha256,
        passed=((facts.node_id, facts.incarnation, passed),),
    )
    world.receive(encode_control(said), source_node=name)


def _samples(node: Served) -> None:
    """Take sixty samples, of a morning in which the network was away for a while."""
    database, facts = node.world.node.database, node.world.node.facts
    marks = read_marks(database, facts)
    totals, end = Totals(), now_us()
    for minute in range(60):
        is_away = 25 <= minute < 38
        sealed, applied = int(240 + 90 * sin(minute / 6)), 0 if is_away else int(420 + 150 * sin(minute / 4))
        totals = Totals(totals.sealed_changes + sealed, 0, 0, totals.applied_changes + applied, 0)
        waits_us = (minute - 24) * MINUTE_US if is_away else 400_000
        gauges = Gauges(3, waits_us, 2, waits_us // 2, int(minute > 40), int(minute > 50), 1_000, None)
        at_us = end - (60 - minute) * MINUTE_US

        def write(connection: object, totals: Totals = totals, gauges: Gauges = gauges, at_us: int = at_us) -> None:
            write_sample(connection, newest_sample(connection), totals, gauges, marks, at_us)  # type: ignore[arg-type]

        in_transaction(database, write)
