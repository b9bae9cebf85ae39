"""Prepared statements through libpq: the same answers, errors and transactions as psycopg's, whatever goes wrong."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import LiteralString

import psycopg
import pytest
import sqlalchemy as sa

from common.dialects.postgresql import prepared as module
from common.dialects.postgresql.connection import driver, make_engine
from common.dialects.postgresql.errors import translated
from common.dialects.postgresql.prepared import Prepared
from common.errors import ContentionError, OutageError
from tests.support.waiting import wait_for

VALUES = (
    None,
    True,
    0,
    -1,
    40_000,
    2**31,
    2**63 - 1,
    10**30,
    1.5,
    float("nan"),
    "",
    "it's 100 % {} $1 ü",
    b"\x00\xff",
    Decimal("1.10"),
    [1, 2, None],
    ["a,b", '"', None],
    [[1], [2]],
)


@pytest.fixture
def engine(pg_database: str) -> Iterator[sa.Engine]:
    one = make_engine(pg_database)
    yield one
    one.dispose()


class Session:
    """One connection, always within a transaction of SQLAlchemy's, as Rowferry's own are."""

    def __init__(self, connection: sa.Connection) -> None:
        self.connection = connection
        self.raw = driver(connection)
        self.prepared = Prepared(self.raw)
        connection.begin()

    def commit(self) -> None:
        self.connection.commit()
        self.connection.begin()

    def rollback(self) -> None:
        self.connection.rollback()
        self.connection.begin()

    def names(self) -> list[str]:
        found = self.raw.execute("SELECT name FROM pg_prepared_statements ORDER BY name", prepare=False)
        return [name for (name,) in found if name.startswith("rowferry_")]


@pytest.fixture
def session(engine: sa.Engine) -> Iterator[Session]:
    with engine.connect() as one:
        yield Session(one)


@pytest.mark.parametrize("value", VALUES, ids=repr)
@pytest.mark.parametrize("place", ["s", "b", "t"])
@pytest.mark.parametrize("binary", [False, True])
def test_values_go_and_come_as_through_psycopg(session: Session, value: object, place: str, binary: bool) -> None:
    raw, prepared = session.raw, session.prepared
    query = f"SELECT pg_typeof(%{place})::text, 1, %{place}".encode()
    try:
        expected = raw.execute(query, (value, value), binary=binary).fetchall()
    except psycopg.Error as error:
        session.rollback()
        with pytest.raises(type(error)):
            prepared.execute(query, (value, value), binary=binary)
    else:
        assert repr(prepared.execute(query, (value, value), binary=binary).fetchall()) == repr(expected)


def test_placeholders_are_psycopgs(session: Session) -> None:
    prepared = session.prepared
    given = {"b": 2, "a": "one", "unused": 9}
    answer = prepared.execute("SELECT %(a)s, %(b)s::int, %(a)s || '%%', 5 %% 3", given)
    assert answer.fetchall() == [("one", 2, "one%", 2)]
    assert prepared.execute("SELECT '100%', '%s'").fetchone() == ("100%", "%s")
    assert prepared.execute("SELECT 1 WHERE false").fetchone() is None
    with pytest.raises(KeyError):
        prepared.execute("SELECT %(missing)s", {})


def test_a_block_is_one_transaction_and_each_statement_sees_those_before(session: Session) -> None:
    raw, prepared = session.raw, session.prepared
    with prepared.together():
        prepared.execute("CREATE TEMPORARY TABLE t (n int) ON COMMIT DROP")
        # Prepared when its table is there.
        one = prepared.execute("INSERT INTO t SELECT generate_series(1, %s) RETURNING n", (3,))
        many = prepared.execute("SELECT count(*) FROM t")
        with pytest.raises(LookupError):
            many.fetchone()
    assert [n for (n,) in one] == [1, 2, 3]
    assert many.fetchone() == (3,)
    assert raw.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS
    (isolation,) = prepared.execute("SHOW transaction_isolation").fetchone() or ("",)
    assert isolation == "read committed"
    session.commit()
    assert prepared.execute("SELECT to_regclass('pg_temp.t')").fetchone() == (None,)


def test_without_transactions_none_is_begun(pg_database: str) -> None:
    engine = make_engine(pg_database, isolation="AUTOCOMMIT")
    with engine.connect() as connection:
        Prepared(driver(connection)).execute("CREATE TABLE stays (n int)")
        assert driver(connection).info.transaction_status == psycopg.pq.TransactionStatus.IDLE
    with engine.connect() as connection:
        assert Prepared(driver(connection)).execute("SELECT to_regclass('stays')::text").fetchone() == ("stays",)
    engine.dispose()


def test_the_first_error_of_a_block_is_told_and_nothing_behind_it_is_run(session: Session) -> None:
    prepared = session.prepared
    prepared.execute("CREATE TABLE t (n int PRIMARY KEY)")
    session.commit()
    for _ in range(2):  # prepared by then as well
        with pytest.raises(psycopg.errors.UniqueViolation, match="t_pkey") as caught:
            insert(prepared, 1, 2, 1, 3)
        assert caught.value.diag.constraint_name == "t_pkey"
        with pytest.raises(psycopg.errors.InFailedSqlTransaction):
            prepared.execute("SELECT 1")
        session.rollback()
        assert prepared.execute("SELECT count(*) FROM t").fetchone() == (0,)
        assert prepared.execute("SELECT 1").fetchone() == (1,)


def test_a_block_that_is_left_by_another_error_leaves_the_connection_usable(session: Session) -> None:
    prepared = session.prepared
    for broken in ("SELECT 1", "SELECT 1 / 0"):
        with pytest.raises(ZeroDivisionError, match="ours"):
            fail_amid(prepared, broken)
        session.rollback()
    with pytest.raises(psycopg.DataError, match="NUL"):
        give(prepared, "fine", "\x00")
    session.rollback()
    assert prepared.execute("SELECT %s::text", ("well",)).fetchone() == ("well",)


def test_statements_outlive_rollbacks_and_are_prepared_anew_where_they_do_not(session: Session) -> None:
    raw, prepared = session.raw, session.prepared
    for _ in range(3):
        prepared.execute("SELECT %s::int", (1,))
        session.rollback()
    assert len(session.names()) == 1
    session.commit()
    # psycopg takes all statements away with its own, where it has one.
    prepared.execute("SELECT 1")
    raw.execute("SELECT 2", prepare=True)
    session.rollback()
    assert session.names() == []
    session.commit()
    assert prepared.execute("SELECT %s::int", (3,)).fetchone() == (3,)
    assert len(session.names()) == 1
    session.commit()
    # Nobody tells of it here.
    raw.execute("DEALLOCATE ALL", prepare=False)
    session.commit()
    with pytest.raises(ContentionError):
        prepared.execute("SELECT %s::int", (4,))
    session.rollback()
    assert prepared.execute("SELECT %s::int", (4,)).fetchone() == (4,)


def test_after_a_savepoint_is_taken_back_statements_go_on(session: Session) -> None:
    raw, prepared = session.raw, session.prepared
    prepared.execute("SELECT %s::int", (1,))
    raw.execute("SELECT 2", prepare=True)
    trial = session.connection.begin_nested()
    with pytest.raises(psycopg.errors.DivisionByZero):
        prepared.execute("SELECT 1 / 0")
    trial.rollback()
    assert prepared.execute("SELECT %s::int", (3,)).fetchone() == (3,)


def test_a_plan_that_is_stale_for_good_is_made_anew(session: Session) -> None:
    prepared = session.prepared
    prepared.execute("CREATE TABLE t (a int)")
    prepared.execute("SELECT * FROM t")
    session.commit()
    with session.raw.transaction():
        session.raw.execute("ALTER TABLE t ADD b text", prepare=False)
    with pytest.raises(ContentionError), translated():
        prepared.execute("SELECT * FROM t")
    session.rollback()
    assert prepared.execute("SELECT * FROM t").fetchall() == []
    assert len(session.names()) == 2


def test_a_connection_keeps_a_bounded_number(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST", 5)
    prepared = session.prepared
    for number in range(20):
        prepared.execute(f"SELECT {number}".encode())
        prepared.execute("SELECT 'often used'")
    assert len(session.names()) <= 6
    assert prepared.execute("SELECT 3").fetchone() == (3,)


def test_much_may_go_each_way_at_once(session: Session) -> None:
    prepared = session.prepared
    megabytes = "x" * (4 * 1024 * 1024)
    with prepared.together():
        answers = [prepared.execute("SELECT %s::text, %s", (megabytes, number)) for number in range(12)]
    assert all(answer.fetchone() == (megabytes, number) for number, answer in enumerate(answers))


def test_a_connection_that_is_cut_is_an_outage_and_the_next_is_another(engine: sa.Engine) -> None:
    with pytest.raises(OutageError):
        sleep_until_cut(engine)
    with engine.begin() as connection:
        assert Prepared(driver(connection)).execute("SELECT 1").fetchone() == (1,)


def insert(prepared: Prepared, *numbers: int) -> None:
    with prepared.together():
        for number in numbers:
            prepared.execute("INSERT INTO t VALUES (%s)", (number,))
        prepared.execute("SELECT 1 / 0")


def fail_amid(prepared: Prepared, statement: LiteralString) -> None:
    with prepared.together():
        prepared.execute(statement)
        raise ZeroDivisionError("ours")


def give(prepared: Prepared, *texts: str) -> None:
    with prepared.together():
        for text in texts:
            prepared.execute("SELECT %s::text", (text,))


def sleep_until_cut(engine: sa.Engine) -> None:
    with translated(), engine.begin() as connection:
        prepared = Prepared(driver(connection))
        (pid,) = prepared.execute("SELECT pg_backend_pid()").fetchone() or (0,)
        with ThreadPoolExecutor(1) as beside:
            cutting = beside.submit(terminate_when_asleep, engine, pid)
            with prepared.together():
                prepared.execute("SELECT pg_sleep(60)")
                prepared.execute("SELECT 1")
            cutting.result()


def terminate_when_asleep(engine: sa.Engine, pid: int) -> None:
    asleep = sa.text("SELECT count(*) FROM pg_stat_activity WHERE pid = :pid AND wait_event = 'PgSleep'")
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        wait_for(lambda: connection.scalar(asleep, {"pid": pid}) == 1, 60, "the statement sleeps")
        connection.execute(sa.text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})
