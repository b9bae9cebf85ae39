"""Sealing: every committed change once, in an order that can be replayed, whoever is slow, killed or restored."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from unittest import mock

import psycopg
import pytest

from common.crash_points import CrashPoint
from common.dialects.postgresql import sealing, shape_cache
from common.dialects.postgresql.prepared import Prepared
from common.errors import OutageError
from common.ids import is_tx_id
from common.ports.dialect import NodeFacts
from common.ports.sink import Envelope
from common.versions import NEVER, Version
from common.wire.encode import encode_change
from common.wire.records import Change
from tests.support.postgresql_node import PostgresNode, changes_of, replayed
from tests.support.waiting import wait_for

pytestmark = pytest.mark.containers

ITEM = "CREATE TABLE item (id int PRIMARY KEY, n int NOT NULL DEFAULT 0)"


@pytest.fixture
def node(pg_database: str) -> Iterator[PostgresNode]:
    with PostgresNode(pg_database, "a", ITEM) as opened:
        yield opened


def ids(changes: list[Change]) -> list[int]:
    return [json.loads(bytes(change.pk))["id"] for change in changes]


def test_its_own_sealing_asks_for_no_further_look(node: PostgresNode) -> None:
    sealer, numbers = node.sealer, itertools.count()

    def is_quiet_after_sealing() -> bool:
        node.run(f"INSERT INTO item VALUES ({next(numbers)})")
        assert not sealer.is_quiet()
        assert sealer.seal().txs == 1
        return sealer.is_quiet()

    # Other databases of the server have transactions too.
    wait_for(is_quiet_after_sealing, 30, "the sealer to be quiet")


def test_a_sealing_that_was_not_committed_is_not_taken_for_one(
    node: PostgresNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.run("INSERT INTO item VALUES (1)")

    def cut(_: CrashPoint) -> None:
        holders = "FROM pg_locks WHERE relation = 'rf_seal'::regclass AND mode = 'RowShareLock'"
        node.run(f"SELECT pg_terminate_backend(pid) {holders}")

    with monkeypatch.context() as cutting:
        cutting.setattr(sealing, "reach", cut)
        with pytest.raises(OutageError):
            node.sealer.seal()
    assert not node.sealer.is_quiet()
    assert node.seal().txs == 1


def test_what_is_left_for_the_next_step_is_no_quiet(node: PostgresNode) -> None:
    for number in range(3):
        node.run(f"INSERT INTO item VALUES ({number})")
    while node.sealer.seal(1).more:
        assert not node.sealer.is_quiet()


def test_lsns_have_no_gap_and_tx_ids_rise(node: PostgresNode) -> None:
    for number in range(5):
        node.run(f"INSERT INTO item SELECT g FROM generate_series({number * 10}, {number * 10 + number}) g")
    report = node.seal()
    assert (report.txs, report.changes, report.last_lsn, report.more) == (5, 15, 15, False)
    headers = [tx.header for tx in node.txs()]
    assert [(header.prev_lsn, header.from_lsn, header.to_lsn) for header in headers] == [
        (0, 1, 1),
        (1, 2, 3),
        (3, 4, 6),
        (6, 7, 10),
        (10, 11, 15),
    ]
    assert all(is_tx_id(header.tx_id) for header in headers)
    assert sorted(header.tx_id for header in headers) == [header.tx_id for header in headers]
    assert (node.log.head().lsn, node.log.head().tx_id) == (15, headers[-1].tx_id)
    assert node.seal().txs == 0


def test_the_lines_are_those_of_the_codec(node: PostgresNode) -> None:
    node.run("INSERT INTO item VALUES (1)", "UPDATE item SET n = 2", "DELETE FROM item")
    for change, line in zip(node.changes(), [line for tx in node.txs() for line in tx.lines()], strict=True):
        assert line == encode_change(
            lsn=change.lsn,
            tx_id=change.tx_id,
            table=change.table,
            op=change.op,
            pk=bytes(change.pk),
            before=None if change.op == "I" else bytes(change.before),
            after=change.image,
            version=change.version,
            base=change.base,
            captured_at=change.captured_at or "",
        )


def test_versions_chain(node: PostgresNode) -> None:
    node.run("INSERT INTO item VALUES (1)")
    with node.application() as connection:
        connection.execute("UPDATE item SET n = 1")
        connection.execute("UPDATE item SET n = 2")
    node.run("DELETE FROM item", "INSERT INTO item VALUES (1)")
    changes = node.changes()
    assert changes[0].base is None
    for earlier, later in itertools.pairwise(changes):
        assert later.base == earlier.version
        assert later.version.hlc > earlier.version.hlc
        assert later.version.node_id == "a"


def test_a_row_older_than_capture_and_a_clock_that_is_behind(node: PostgresNode) -> None:
    node.database.capture().uninstall()
    node.run("INSERT INTO item VALUES (1), (2)")
    node.install()
    node.run("UPDATE item SET n = 1 WHERE id = 1")
    ahead = 5_000_000_000_000_000
    node.run(
        "INSERT INTO rf_row_version SELECT table_id, '{\"id\":2}', "
        f"{ahead}, 0, 3, 0, false, 'other', '' FROM rf_table WHERE name = 'item'"
    )
    with node.application() as connection:
        connection.execute("UPDATE item SET n = 1 WHERE id = 2")
        connection.execute("UPDATE item SET n = 2 WHERE id = 2")
    first, second, third = node.changes()
    assert first.base == NEVER
    assert (second.version, second.base) == (Version(3, ahead + 1, "a"), Version(3, ahead, "other"))
    assert (third.version, third.base) == (Version(3, ahead + 2, "a"), second.version)


def test_commits_out_of_the_order_of_their_log_rows(node: PostgresNode) -> None:
    """And a transaction that stays open delays nobody, and is sealed whole once it ends."""
    with node.connect() as slow, node.connect() as quick:
        slow.execute("INSERT INTO item VALUES (1)")
        quick.execute("INSERT INTO item VALUES (2)")
        quick.commit()
        slow.execute("INSERT INTO item VALUES (3)")
        assert ids(node.changes()) == [2]
        quick.execute("INSERT INTO item VALUES (4)")
        quick.commit()
        assert ids(node.changes()) == [2, 4]
        slow.execute("INSERT INTO item VALUES (5)")
        quick.execute("INSERT INTO item VALUES (6)")
        quick.rollback()
        slow.commit()
        assert ids(node.changes()) == [2, 4, 1, 3, 5]
    assert len(node.txs()) == 3


def test_an_open_transaction_of_another_database_delays_nobody(
    node: PostgresNode, postgres_server: Any, pg_database_factory: Any
) -> None:
    with psycopg.connect(pg_database_factory().replace("+psycopg", "")) as other:
        other.execute("CREATE TABLE held (id int)")
        node.run("INSERT INTO item VALUES (1)")
        assert ids(node.changes()) == [1]


def test_of_a_backlog_the_first_is_sealed_soon_and_the_rest_in_growing_steps(node: PostgresNode) -> None:
    numbers = itertools.count()

    def steps_of(txs: int) -> list[int]:
        for number in itertools.islice(numbers, txs):
            node.run(f"INSERT INTO item SELECT {number} * 100 + g FROM generate_series(1, 100) g")
        sizes = []
        while True:
            report = node.sealer.seal()
            sizes.append(report.changes)
            if not report.more:
                return sizes

    sizes = steps_of(80)
    assert sizes[0] < sizes[1] < sizes[2] < sizes[3], sizes
    assert (sum(sizes), max(sizes)) == (8_000, sizes[3]), sizes
    again = steps_of(60)
    assert again[0] == sizes[0], "the next backlog begins with a small step too"
    assert steps_of(40) == [4_000], "what is no backlog is sealed in one step"


def test_a_tx_whose_lines_were_purged_is_never_taken_for_an_empty_one(node: PostgresNode) -> None:
    for number in range(3):
        node.run(f"INSERT INTO item VALUES ({number})")
    while node.sealer.seal().more:
        pass
    node.run("DELETE FROM rf_change_log WHERE pk = '{\"id\":1}'")
    log = node.database.log(node.facts)
    for after, is_there in ((0, False), (1, False), (2, True)):
        if is_there:
            assert [one.to_lsn for one in log.read_packed(after, 2**20, 2**18, 2**22) if isinstance(one, Envelope)] == [
                3
            ]
        else:
            with pytest.raises(OutageError, match="purged"):
                list(log.read_packed(after, 2**20, 2**18, 2**22))


def test_a_bounded_step_takes_whole_txs_and_loses_none(node: PostgresNode) -> None:
    with node.connect() as late:
        late.execute("INSERT INTO item VALUES (500)")
        for number in range(10):
            node.run(f"INSERT INTO item SELECT {number * 10} + g FROM generate_series(1, 3) g")
        report = node.seal(max_changes=7)
        assert (report.txs, report.changes, report.more) == (2, 6, True)
        late.commit()
        node.run("INSERT INTO item VALUES (501)")
        with node.connect() as open_:
            open_.execute("INSERT INTO item VALUES (502)")
            sizes = []
            while (report := node.seal(max_changes=7)).txs:
                sizes.append(report.changes)
            assert sum(sizes) == 26
            assert max(sizes) <= 7
    changes = node.changes()
    assert sorted(ids(changes)) == sorted([*(n * 10 + g for n in range(10) for g in (1, 2, 3)), 500, 501, 502])
    assert len(node.txs()) == 13


_MANY_TXS = """
DO $$
DECLARE sizes int[] := %s;
BEGIN
  FOR i IN 1 .. cardinality(sizes) LOOP
    INSERT INTO item SELECT i * 10000 + g FROM generate_series(1, sizes[i]) g;
    IF i %% 3 = 0 THEN INSERT INTO second VALUES (i); END IF;
    COMMIT;
  END LOOP;
END $$
"""
_SEALED_XIDS = "SELECT xid::text FROM rf_sealed JOIN rf_tx ON lsn = to_lsn ORDER BY lsn"
_WRONGLY_DESCRIBED = """
SELECT t.to_lsn FROM rf_sealed s JOIN rf_tx t ON s.lsn = t.to_lsn
WHERE (SELECT array_agg(k ORDER BY k) FROM json_object_keys(t.tables::json) k)
      <> (SELECT array_agg(DISTINCT n.name::text ORDER BY n.name::text)
          FROM rf_change_log l JOIN rf_shape USING (shape_id) JOIN rf_table n USING (table_id) WHERE l.xid = s.xid)
"""
_LOGGED_XIDS = "SELECT xid::text FROM rf_change_log GROUP BY xid ORDER BY max(seq)"


@pytest.mark.parametrize("bound", [60, 700, 5_000])
def test_a_backlog_in_steps_keeps_the_order_of_the_last_log_rows(pg_database: str, bound: int) -> None:
    """Sizes around those of the rows in which a backlog is set aside, and one transaction that began long before."""
    second = "CREATE TABLE second (id int PRIMARY KEY)"
    draw = random.Random(bound)
    sizes = [draw.choice((1, 2, 3, 30, 124, 125, 126, 400)) for _ in range(150)] + [6_000, 1, 1]
    total = sum(sizes) + len(sizes) // 3 + 2
    with PostgresNode(pg_database, "a", f"{ITEM}; {second}") as node:
        with node.connect() as early:
            early.execute("INSERT INTO second VALUES (0)")
            node.run(_MANY_TXS % f"ARRAY{sizes}")
            early.execute("INSERT INTO second VALUES (-1)")
        reports = [node.seal(bound)]
        while reports[-1].more:
            left = node.log.unsealed()
            assert left.changes == total - sum(report.changes for report in reports)
            assert (left.changes == 0) == (left.oldest_us is None)
            reports.append(node.seal(bound))
        assert sum(report.changes for report in reports) == total
        assert all(report.changes <= bound or report.txs == 1 for report in reports)
        assert node.rows(_SEALED_XIDS) == node.rows(_LOGGED_XIDS)
        assert node.rows(_WRONGLY_DESCRIBED) == []


def test_a_tx_larger_than_the_bound_goes_alone(node: PostgresNode) -> None:
    node.run("INSERT INTO item SELECT g FROM generate_series(1, 50) g", "INSERT INTO item VALUES (99)")
    assert (node.seal(max_changes=10).changes, node.seal(max_changes=10).changes) == (50, 1)


def test_a_large_tx_is_streamed_and_the_same_each_time(node: PostgresNode) -> None:
    node.run("INSERT INTO item SELECT g FROM generate_series(1, 20000) g")
    node.seal()
    (tx,) = node.txs()
    first = b"".join(tx.lines())
    assert first == b"".join(tx.lines())
    assert first.count(b"\n") == 20_000
    assert ids(node.changes()) == list(range(1, 20_001))


def test_reading_from_an_lsn_and_within_a_bound(node: PostgresNode) -> None:
    for number in range(6):
        node.run(f"INSERT INTO item VALUES ({number})")
    node.seal()
    assert [tx.header.to_lsn for tx in node.log.read(4, 10**6)] == [5, 6]
    assert [tx.header.to_lsn for tx in node.log.read(0, 1)] == [1]
    assert list(node.log.read(6, 10**6)) == []


def test_one_read_takes_as_many_txs_as_fit(node: PostgresNode) -> None:
    with node.application(autocommit=True) as session:
        for number in range(700):
            session.execute(f"INSERT INTO item VALUES ({number}, {10 ** (number % 9)})".encode())
    node.seal()
    assert [tx.header.to_lsn for tx in node.log.read(0, 10**9)] == list(range(1, 701))
    sizes = [size for (size,) in node.rows("SELECT bytes FROM rf_tx ORDER BY to_lsn")]
    for count in (1, 255, 256, 257, 600):
        assert len(list(node.log.read(0, sum(sizes[:count])))) == count
        assert len(list(node.log.read(0, sum(sizes[:count]) + 1))) == count


def test_no_table_of_the_log_is_read_as_a_whole(node: PostgresNode) -> None:
    """Nothing is known of the tables yet but that they were empty: that must not choose how they are read."""
    node.database.engine.dispose()
    node.run("SELECT pg_stat_reset()")
    for number in range(3):
        node.run(f"INSERT INTO item SELECT g FROM generate_series({number * 500}, {number * 500 + 499}) g")
        node.run("UPDATE item SET n = n + 1")
        node.seal()
        assert sum(1 for tx in node.txs() for _ in tx.lines()) == 500 * (number + 1) * (number + 4) // 2
    node.log.unsealed()
    node.database.close()
    scanned = """
        SELECT relname, seq_scan, idx_scan FROM pg_stat_user_tables
        WHERE relname IN ('rf_change_log', 'rf_sealed', 'rf_row_version', 'rf_tx')"""
    wait_for(lambda: all(idx for _, _, idx in node.rows(scanned)), 60, "the counters")
    assert {name: whole for name, whole, _ in node.rows(scanned) if whole} == {}


def test_the_name_of_a_table_that_comes_after_many_others(node: PostgresNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the first shapes are kept, others are looked up."""
    monkeypatch.setattr(shape_cache, "_MOST_NAMES", 2)
    for name in "abc":
        node.run(f"CREATE TABLE {name} (id int PRIMARY KEY)")
        node.install()
        node.run(f"INSERT INTO {name} VALUES (1)", "INSERT INTO item SELECT count(*) FROM item")
        node.seal()
        list(node.log.read(0, 10**6))
    assert [change.table for change in node.changes()] == ["a", "item", "b", "item", "c", "item"]


def test_a_new_incarnation_counts_from_one(node: PostgresNode) -> None:
    node.run("INSERT INTO item VALUES (1)")
    node.seal()
    facts = NodeFacts("a", "branch", "another")
    sealer, log = node.database.sealer(facts), node.database.log(facts)
    assert log.head().lsn == 0
    node.run("INSERT INTO item VALUES (2)")
    assert sealer.seal().last_lsn == 1
    (tx,) = log.read(0, 10**6)
    assert (tx.header.incarnation, tx.header.from_lsn) == ("another", 1)
    assert node.log.head().lsn == 1
    assert [tx.header.to_lsn for tx in node.txs()] == [1]


def test_after_a_restore_what_is_unsealed_is_sealed_once(node: PostgresNode, pg_database_factory: Any) -> None:
    """Log rows keep the transaction ids of the server they came from: those begin again, and are given out twice."""
    node.run("INSERT INTO item VALUES (1)", "INSERT INTO item VALUES (2)")
    node.seal()
    node.run("INSERT INTO item VALUES (3), (4)", "INSERT INTO item VALUES (5)")
    with node.application() as connection:
        connection.execute("UPDATE rf_change_log SET xid = (xid::text::numeric + 500)::text::xid8")
        connection.execute("UPDATE rf_sealed SET xid = (xid::text::numeric + 500)::text::xid8")
        connection.execute(
            "UPDATE rf_seal SET server_identity = 'another/server/than/now', snapshot = '900000:900000:'"
        )
    with node.connect() as open_:
        open_.execute("INSERT INTO item VALUES (6)")
        assert node.seal_all() == 3
        node.run(*(f"INSERT INTO item VALUES ({number})" for number in range(100, 700)))
        assert node.seal_all() == 600
    assert node.seal_all() == 1
    changes = node.changes()
    assert ids(changes)[:5] == [1, 2, 3, 4, 5]
    assert sorted(ids(changes)) == [1, 2, 3, 4, 5, 6, *range(100, 700)]
    assert [tx.header.to_lsn for tx in node.txs()][:4] == [1, 2, 4, 5]


WRITERS, ROUNDS = 6, 60


def test_many_writers_and_two_sealers(node: PostgresNode) -> None:
    """Writers that overlap, build on each other's rows and commit out of order: replaying the log gives the rows."""
    node.run("INSERT INTO item SELECT g FROM generate_series(1, 8) g")
    start = threading.Barrier(WRITERS + 2)
    done = threading.Event()

    def write(writer: int) -> None:
        with node.connect() as connection:
            start.wait()
            for turn in range(ROUNDS):
                rows = sorted({(writer * 7 + turn * step) % 8 + 1 for step in (1, 3)})
                for row in rows:
                    connection.execute("UPDATE item SET n = n + 1 WHERE id = %s", (row,))
                connection.execute("INSERT INTO item VALUES (%s, 0)", (1000 * (writer + 1) + turn,))
                if turn % 5:
                    connection.commit()
                else:
                    connection.rollback()

    def seal() -> None:
        sealer = node.database.sealer(node.facts)
        start.wait()
        while not done.is_set():
            sealer.seal(max_changes=5)

    with ThreadPoolExecutor(WRITERS + 2) as pool:
        sealers = [pool.submit(seal) for _ in range(2)]
        writers = [pool.submit(write, number) for number in range(WRITERS)]
        for future in writers:
            future.result()
        done.set()
        for future in sealers:
            future.result()
    changes = node.changes()
    assert [change.lsn for change in changes] == list(range(1, len(changes) + 1))
    assert replayed(changes)["item"] == node.images("item")
    assert len(node.txs()) == 1 + WRITERS * ROUNDS * 4 // 5


def _seal_and_stop(url: str, stop_before: str, reached: Any) -> None:
    """Runs in a process of its own: seal, and hang before the first statement that begins so."""
    node = PostgresNode(url, "a")
    execute = Prepared.execute

    def hanging(self: Prepared, query: Any, *arguments: Any, **named: Any) -> Any:
        text = query.decode() if isinstance(query, bytes) else query
        if text.strip().startswith(stop_before):
            # What stands before it in its block is run.
            self.raw.pgconn.flush()
            reached.set()
            threading.Event().wait()
        return execute(self, query, *arguments, **named)

    with mock.patch.object(Prepared, "execute", hanging):
        node.seal()


@pytest.mark.parametrize("stop_before", ["WITH tx AS", "INSERT INTO rf_tx", "UPDATE rf_seal"])
def test_a_sealer_killed_between_statements_loses_and_doubles_nothing(node: PostgresNode, stop_before: str) -> None:
    node.run("INSERT INTO item VALUES (1), (2)", "UPDATE item SET n = 1")
    context = multiprocessing.get_context("spawn")
    reached = context.Event()
    process = context.Process(target=_seal_and_stop, args=(node.url, stop_before, reached))
    process.start()
    assert reached.wait(60)
    node.run("INSERT INTO item VALUES (3)")
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    process.close()
    # Its lock dies with its session, as soon as the server has noticed.
    wait_for(lambda: node.seal().txs, 60, "the lock of the killed sealer to be free")
    changes = node.changes()
    assert ids(changes) == [1, 2, 1, 2, 3]
    assert replayed(changes)["item"] == node.images("item")
    assert [change.tx_id for part in node.parts() for change in changes_of(part)] == [c.tx_id for c in changes]


def test_looking_for_nothing_takes_no_transaction_id(node: PostgresNode) -> None:
    node.run("INSERT INTO item VALUES (1)")
    node.seal()
    # Whoever locks the row leaves the transaction id in xmax.
    locked_by = "SELECT xmax::text FROM rf_seal"
    before = node.rows(locked_by)
    assert [node.seal().last_lsn for _ in range(3)] == [1, 1, 1]
    assert node.rows(locked_by) == before


def test_what_the_database_sets_for_its_applications_does_not_stop_the_node(pg_database: str) -> None:
    name = pg_database.rpartition("/")[2]
    with PostgresNode(pg_database, "a", "CREATE TABLE named (id int PRIMARY KEY, name text)") as node:
        node.run(
            f"ALTER DATABASE {name} SET default_transaction_read_only = on",
            f"ALTER DATABASE {name} SET statement_timeout = 1",
            f"ALTER DATABASE {name} SET lock_timeout = 1",
            f"ALTER DATABASE {name} SET default_transaction_isolation = 'serializable'",
            f"ALTER DATABASE {name} SET client_encoding = 'LATIN1'",
        )
    with PostgresNode(pg_database, "a") as node:
        with node.application() as session:
            session.execute("SET TRANSACTION READ WRITE")
            session.execute("SET LOCAL statement_timeout = 0")
            session.execute("INSERT INTO named SELECT n, 'é' FROM generate_series(1, 2000) n")
        assert node.seal().changes == 2000
        assert len(node.changes()) == 2000


@pytest.mark.parametrize("setting", ["array_nulls = off", "quote_all_identifiers = on", "extra_float_digits = -15"])
def test_what_the_database_sets_for_its_applications_does_not_bend_a_batch(pg_database: str, setting: str) -> None:
    name = pg_database.rpartition("/")[2]
    with PostgresNode(pg_database) as node:
        node.run(f"ALTER DATABASE {name} SET {setting}")
    with PostgresNode(pg_database, ddl="CREATE TABLE listed (id int PRIMARY KEY, words text[])") as node:
        node.run("INSERT INTO listed VALUES (1, '{a}')")
        node.seal()
        (message,) = node.log.read_packed(0, 100_000, 100_000, 100_000)
        assert isinstance(message, Envelope)
        assert b'"table":"listed"' in message.body
        assert node.tables["listed"].meta.columns["words"] == "pg:text[]"
        assert not [one for one in node.database.health() if "clock" in one.message]


def test_the_node_takes_longer_for_a_transaction_than_the_database_allows_its_applications(pg_database: str) -> None:
    name = pg_database.rpartition("/")[2]
    with PostgresNode(pg_database) as node:
        with node.connect() as session:
            if session.info.server_version < 170000:
                pytest.skip("PostgreSQL 17 brought transaction_timeout")
        node.run(f"ALTER DATABASE {name} SET transaction_timeout = 200")
    with PostgresNode(pg_database) as node, node.database.engine.begin() as connection:
        connection.exec_driver_sql("SELECT pg_sleep(0.4)")
        assert connection.exec_driver_sql("SELECT 1").scalar() == 1


def test_connections_that_idle_outlive_what_the_database_allows_its_applications(pg_database: str) -> None:
    name = pg_database.rpartition("/")[2]
    with PostgresNode(pg_database) as node:
        node.run(f"ALTER DATABASE {name} SET idle_session_timeout = 1")
    with PostgresNode(pg_database) as node:
        node.seal()
        time.sleep(0.5)
        node.seal()
