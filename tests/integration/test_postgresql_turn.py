"""The turn of sealer and appliers: waited for longer than the application's rows are."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from common.dialects.postgresql.turn import Turn
from common.errors import ConfigError
from tests.support.postgresql_node import PostgresNode
from tests.support.waiting import wait_for

pytestmark = pytest.mark.containers

_WAITS_FOR_LONG = """
SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
AND clock_timestamp() - query_start > interval '500 ms'
"""


@pytest.fixture
def node(pg_database: str) -> Iterator[PostgresNode]:
    with PostgresNode(pg_database, "a", "CREATE TABLE item (id int PRIMARY KEY)") as opened:
        yield opened


def test_the_turn_is_waited_for_and_shows_what_its_holder_left(node: PostgresNode) -> None:
    with node.application() as holder, node.application() as applier, ThreadPoolExecutor() as beside:
        holder.execute("UPDATE rf_seal SET snapshot = '5:5:'")
        applier.execute("SET LOCAL lock_timeout = '100ms'")
        turn = Turn(applier)
        waits = beside.submit(turn.ask)
        # Many times the timeout of rows: it has not given up.
        wait_for(lambda: node.rows(_WAITS_FOR_LONG), 60, "the applier to wait for long")
        assert not waits.done()
        holder.commit()
        waits.result(timeout=60)
        applier.execute("SELECT 1")
        lows, highs = turn.ended_since()
        assert lows.startswith("{5")
        assert highs != "{}"
        assert applier.execute("SHOW lock_timeout").fetchone() == ("100ms",)


def test_rows_are_waited_for_as_shortly_as_before(node: PostgresNode) -> None:
    node.run("INSERT INTO item VALUES (1)")
    with node.application() as holder, node.application() as applier:
        holder.execute("UPDATE item SET id = id")
        applier.execute("SET LOCAL lock_timeout = '100ms'")
        Turn(applier).ask()
        with pytest.raises(psycopg.errors.LockNotAvailable):
            applier.execute("SELECT FROM item FOR UPDATE")


def test_without_its_row_the_remedy_is_named(node: PostgresNode) -> None:
    node.run("DELETE FROM rf_seal")
    with node.application() as applier:
        turn = Turn(applier)
        turn.ask()
        with pytest.raises(ConfigError, match="migrate"):
            turn.ended_since()
