"""The trial rows: the same for the same number, different for other nodes, never twice the same key."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from common.errors import UsageError
from common.ops import seeding
from common.ops.trial_schema import TABLES


@pytest.fixture
def engine() -> Iterator[sa.Engine]:
    made = sa.create_engine("sqlite://", poolclass=sa.StaticPool)
    with made.connect() as connection:
        connection.exec_driver_sql("PRAGMA foreign_keys = ON")
    yield made
    made.dispose()


@pytest.fixture
def other() -> Iterator[sa.Engine]:
    made = sa.create_engine("sqlite://", poolclass=sa.StaticPool)
    yield made
    made.dispose()


def rows(engine: sa.Engine) -> dict[str, list[tuple[Any, ...]]]:
    with engine.connect() as connection:
        query = "SELECT * FROM {} ORDER BY id"
        return {table: list(map(tuple, connection.exec_driver_sql(query.format(table)))) for table in TABLES}


def test_the_same_number_gives_the_same_rows(engine: sa.Engine, other: sa.Engine) -> None:
    for one in (engine, other):
        seeding.make_tables(one)
        seeding.seed(one, "store-1", 50, 7)
    assert rows(engine) == rows(other)


def test_another_number_gives_others(engine: sa.Engine, other: sa.Engine) -> None:
    for one, number in ((engine, 7), (other, 8)):
        seeding.make_tables(one)
        seeding.seed(one, "store-1", 50, number)
    assert rows(engine) != rows(other)


def test_nodes_never_give_the_same_key(engine: sa.Engine) -> None:
    seeding.make_tables(engine)
    for node in ("store-1", "store-2", "store", "store-1-1"):
        seeding.seed(engine, node, 20, 7)
    assert len(rows(engine)["sale"]) == 80


def test_more_continues_behind(engine: sa.Engine) -> None:
    seeding.make_tables(engine)
    first = seeding.seed(engine, "store-1", seeding.SALES_PER_TX + 1, 7)
    second = seeding.seed(engine, "store-1", 3, 7)
    assert (first.transactions, second.transactions) == (3, 2)
    assert len(rows(engine)["sale"]) == seeding.SALES_PER_TX + 4
    assert rows(engine)["sale"][-1][0] == f"store-1-{seeding.SALES_PER_TX + 4:08d}"


def test_filled_tables_are_refused(engine: sa.Engine) -> None:
    seeding.refuse_filled(engine)
    seeding.make_tables(engine)
    seeding.refuse_filled(engine)
    seeding.seed(engine, "store-1", 1, 1)
    with pytest.raises(UsageError, match="--more"):
        seeding.refuse_filled(engine)


def test_somebody_elses_table_is_left_alone(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE product (id INTEGER PRIMARY KEY, colour TEXT)")
    with pytest.raises(UsageError, match="product is not the trial one"):
        seeding.make_tables(engine)
    assert sa.inspect(engine).get_table_names() == ["product"]


def test_tables_are_made_once(engine: sa.Engine) -> None:
    assert set(seeding.make_tables(engine)) == set(TABLES)
    assert seeding.make_tables(engine) == ()


def test_decimals_and_text_arrive_as_they_are(engine: sa.Engine) -> None:
    seeding.make_tables(engine)
    seeding.seed(engine, "store-1", 200, 1)
    with engine.connect() as connection:
        wrong = (
            "SELECT count(*) FROM sale JOIN product p ON p.id = product_id WHERE amount <> round(price * quantity, 2)"
        )
        assert connection.exec_driver_sql(wrong).scalar() == 0
        assert connection.exec_driver_sql("SELECT count(DISTINCT note) FROM sale").scalar() == 4
