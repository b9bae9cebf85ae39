"""Batches with words and numbers that no column takes: each is set aside, and what comes behind it is applied."""

from __future__ import annotations

from contextlib import closing

import pytest

from common.dialects import open_database
from common.errors import PoisonError, Reason
from common.retry import in_transaction
from tests.support.applying import Origin, World, resealed

NUL = b"\\u0000"
HUGE = b"1" + b"0" * 30
SUM = b'"tx_sha256":"' + b"0" * 64 + b'","part":1,'


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({b'"item"': b'"it' + NUL + b'em"'}, Reason.UNKNOWN_TABLE),
        ({b'"item"': b'"nothing"', b'"exported_at":"': b'"exported_at":"' + NUL}, Reason.UNKNOWN_TABLE),
        ({b'"type":"batch",': b'"type":"batch","requires":["' + NUL + b'"],'}, Reason.REQUIRES),
        ({b'"changes":1': b'"changes":2147483648'}, Reason.CHECKSUM),
        ({b'"changes":1': b'"changes":' + HUGE}, Reason.CHECKSUM),
        ({b'"part":1,"parts":1': SUM + b'"parts":2147483648'}, Reason.LIMIT),
        ({b'"part":1,"parts":1': SUM + b'"parts":' + HUGE}, Reason.LIMIT),
    ],
)
def test_what_no_column_takes_stops_nothing(world: World, changed: dict[bytes, bytes], reason: Reason) -> None:
    body = Origin("a").put(1, "strange", 1).body
    for old, new in changed.items():
        body = resealed(body, old, new)
    fine = Origin("b").put(2, "fine", 1).body
    world.receive(body)
    world.receive(fine)
    assert [row[1] for row in world.rows()] == ["fine"]
    assert [letter[1] for letter in world.letters()] == [reason.value]
    assert len(world.source.acked) == 2
    # It can be tried again, and listed.
    world.receive(body)
    assert [letter[1] for letter in world.letters()] == [reason.value]


def test_a_value_that_the_driver_does_not_send_is_no_outage(pg_database: str) -> None:
    with closing(open_database(pg_database)) as database, pytest.raises(PoisonError, match="NUL") as caught:
        in_transaction(database, lambda connection: connection.exec_driver_sql("SELECT %s::text", ("a\0b",)))
    assert caught.value.reason is Reason.TYPE
