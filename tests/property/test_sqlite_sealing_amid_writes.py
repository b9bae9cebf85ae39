"""An application writes between the pieces of one look: nothing of it is lost, and no mark takes more than its own.

The touch log's numbers begin anew whenever it is empty, which it is after any of those pieces.
`ROWFERRY_SEEDS=100:200` runs those seeds."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from common.dialects.sqlite import backlog, looking, sealing
from common.wire.records import Change
from tests.support.sqlite_app import NODE, SqliteApp, sqlite_app

_SEEDS = range(*map(int, os.environ.get("ROWFERRY_SEEDS", "0:8").split(":")))
_TABLES = ("a", "b")
_SCHEMA = [f"CREATE TABLE {name} (id INTEGER PRIMARY KEY, n INTEGER)" for name in _TABLES]
_MARK = "INSERT INTO rf_mark DEFAULT VALUES"
_change = msgspec.json.Decoder(Change)


class Writer:
    """Writes transactions that each give their rows the next number, and knows which of them were named."""

    def __init__(self, app: SqliteApp, dice: random.Random) -> None:
        self.number = 0
        self.named: list[int] = []
        self._app, self._dice = app, dice

    def write(self) -> None:
        self.number += 1
        statements = [
            f"INSERT INTO {table} VALUES ({row}, {self.number}) ON CONFLICT DO UPDATE SET n = excluded.n"
            for table in self._dice.sample(_TABLES, self._dice.choice((1, 1, 2)))
            for row in self._dice.sample(range(20), self._dice.choice((1, 2, 12)))
        ]
        if self._dice.random() < 0.6:
            statements.append(_MARK)
            self.named.append(self.number)
        self._app.run(*statements)


def sealed_numbers(app: SqliteApp) -> Iterator[set[int]]:
    """Yield the numbers of each tx, and see that each image follows on the one before."""
    rows: dict[tuple[str, bytes], bytes] = {}
    for tx in app.database.log(NODE).read(0, 2**40):
        numbers = set()
        for change in map(_change.decode, tx.lines()):
            row = change.table, bytes(change.pk)
            assert bytes(change.before) == rows.get(row, b"null"), f"a change of {row} is missing"
            rows[row] = bytes(change.after)
            numbers.add(msgspec.json.decode(change.after)["n"])
        yield numbers
    stored = {
        (table, b'{"id":%d}' % key): b'{"id":%d,"n":%d}' % (key, number)
        for table in _TABLES
        for key, number in app.query(f"SELECT id, n FROM {table}")
    }
    assert rows == stored


@pytest.mark.parametrize("seed", _SEEDS)
def test_nothing_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    dice = random.Random(seed)
    monkeypatch.setattr(sealing, "_CHANGES_A_LOCK", dice.choice((1, 30)))
    monkeypatch.setattr(looking, "MOST_HELD", dice.choice((1, 10, 50_000)))
    monkeypatch.setattr(backlog, "_PAGE", 3)
    with sqlite_app(tmp_path / "a.db", *_SCHEMA) as app:
        writer = Writer(app, dice)
        sealer = app.database.sealer(NODE)
        for _ in range(60):
            for _ in range(dice.choice((0, 1, 1, 3))):
                writer.write()
            if dice.random() < 0.2:
                # As after a kill: what the look before had found is forgotten.
                sealer = app.database.sealer(NODE)
            sealer.seal(1)
        while sealer.seal().more:
            pass
        txs = list(sealed_numbers(app))
    for named in writer.named:
        for numbers in txs:
            later = {one for one in numbers if one > named}
            assert not (later and later != numbers), f"{numbers} are one tx, though {named} was named"
