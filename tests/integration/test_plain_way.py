"""The short way writes what the long way writes, or nothing at all."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from common.versions import NEVER, Version
from common.wire.compress import Encoding, compress
from common.wire.encode import encode_tx
from consumer.plain.group import PlainGroup
from tests.support.applying import (
    TABLES,
    Origin,
    World,
    Write,
    close_world,
    item,
    open_world,
    resealed,
    sqlite_url,
    tx_id_of,
)

KEPT = {
    "rf_row_version": "*",
    "rf_applied_tx": "*",
    "rf_sync_state": "*",
    "rf_node": "node_id, role, incarnation, last_seen_us, ahead_us",
    "rf_audit": "actor, action, source_node, tx_id, detail",
    "rf_conflict": "table_name, pk, kind, state, winner, rule, our_image, their_image, tx_id",
    "rf_dead_letter": "source_node, tx_id, reason, state, sha256",
    **dict.fromkeys(TABLES, "*"),
}


class Ways:
    """One node that may go the short way, one that may not, and how often the first one did."""

    def __init__(self, short: World, long: World) -> None:
        self.short, self.long = short, long
        self.went: list[bool] = []
        self.short_ids: set[str] = set()
        """What was applied on the short way."""
        note_attempts(short, self.went, self.short_ids)
        long.intake()._lane._is_open = False

    def make_ready_ahead(self) -> None:
        """Have each group made ready before it is applied, as in a backlog."""
        lane = self.short.intakes[-1]._lane
        apply: Callable[[PlainGroup], bool] = lane.apply

        def ready_first(group: PlainGroup) -> bool:
            lane.ready(group)
            return apply(group)

        lane.apply = ready_first  # type: ignore[method-assign]

    def receive(self, *bodies: bytes, **fields: Any) -> bool:
        """Let both receive, find them equal, and tell whether the short way was gone to its end."""
        before = len(self.went)
        for world in (self.short, self.long):
            world.receive(*bodies, **fields)
        assert state(self.short) == state(self.long)
        return set(self.went[before:]) == {True}

    def execute(self, *statements: str) -> None:
        for world in (self.short, self.long):
            world.execute(*statements)


def note_attempts(world: World, went: list[bool], tx_ids: set[str]) -> None:
    """Note how each attempt of the world's intake ends, and what went; let it try each round."""
    lane = world.intake()._lane
    apply: Callable[[PlainGroup], bool] = lane.apply

    def noting(group: PlainGroup) -> bool:
        went.append(apply(group))
        lane._rest = 0
        tx_ids.update(tx.tx_id for tx in group.txs if went[-1])
        return went[-1]

    lane.apply = noting  # type: ignore[method-assign]


def state(world: World) -> dict[str, list[tuple[Any, ...]]]:
    """Return everything that applying writes; the clocks of both nodes stand still."""
    found = {table: world.query(f"SELECT {columns} FROM {table}") for table, columns in KEPT.items()}
    # What stands in the table has other blanks than what came in the same commit.
    found["rf_conflict"] = [tuple(str(value).replace(" ", "") for value in row) for row in found["rf_conflict"]]
    identity = world.node.facts.incarnation
    return {
        table: sorted(
            tuple("own" if value == identity else value for value in row if table != "rf_node" or row[0] != "here")
            for row in rows
        )
        for table, rows in found.items()
        if table != "rf_node" or rows
    }


@pytest.fixture
def ways(pg_database_factory: Callable[[], str]) -> Iterator[Ways]:
    worlds = [open_world(pg_database_factory()) for _ in range(2)]
    try:
        yield Ways(*worlds)
    finally:
        for world in worlds:
            close_world(world)


def test_plain_txs_of_two_sources_go_the_short_way(ways: Ways) -> None:
    a, b = Origin("a"), Origin("b")
    first = a.tx(item(1, "one", 10), item(2, "two", 11), Write("I", "parent", {"id": 1, "name": "p"}, 12))
    second = a.tx(item(1, "uno", 20, Version(0, 10, "a"), "U"), Write("I", "child", {"id": 1, "parent_id": 1}, 21))
    other = b.tx(item(2, "dos", 30, Version(0, 11, "a"), "U"))
    gone = a.tx(item(2, "dos", 40, Version(0, 30, "b"), "D"), item(3, "three", 41))
    again = b.tx(item(2, "again", 50, Version(0, 40, "a"), "I"))
    assert ways.receive(first.body + second.body, other.body, gone.body, again.body)
    assert ways.short.rows() == [(1, "uno", 1.5), (2, "again", 1.5), (3, "three", 1.5)]
    # Across commits too, and where no version is known yet.
    ways.execute("INSERT INTO item VALUES (9, 'old', 1)", "DELETE FROM rf_row_version WHERE key = '{\"id\":9}'")
    assert ways.receive(
        a.tx(item(3, "drei", 60, Version(0, 41, "a"), "U"), item(1, "", 61, Version(0, 20, "a"), "D")).body
    )


@pytest.mark.parametrize("encoding", ["zstd", "gzip"])
def test_what_is_wrapped_goes_the_short_way_as_well(ways: Ways, encoding: Encoding) -> None:
    a = Origin("a")
    body = b"".join(a.put(number, f"n{number}", 10 + number).body for number in range(300))
    assert ways.receive(compress(body, encoding, quick=True), content_encoding=encoding)
    assert ways.short.rows() == [(number, f"n{number}", 1.5) for number in range(300)]


@pytest.mark.parametrize("damage", ["torn", "altered", "another encoding"])
def test_what_is_wrapped_and_broken_goes_the_long_way(ways: Ways, damage: str) -> None:
    a = Origin("a")
    wrapped = compress(a.put(1, "one", 10).body + a.put(2, "two", 11).body, "zstd")
    broken = {"torn": wrapped[:-9], "altered": wrapped[:20] + b"?" + wrapped[21:], "another encoding": wrapped}[damage]
    assert not ways.receive(broken, content_encoding="br" if damage == "another encoding" else "zstd")
    assert ways.short.rows() == []
    assert [reason for (reason,) in ways.short.query("SELECT reason FROM rf_dead_letter")] != []


OBSTACLES: dict[str, Callable[[Ways, Origin], bytes]] = {
    "a conflict": lambda ways, a: a.put(1, "other", 90, Version(0, 5, "c"), "U").body,
    "an update of a row that never came": lambda ways, a: a.put(77, "none", 90, Version(0, 5, "c"), "U").body,
    "a delete of a row that was deleted": lambda ways, a: (
        a.put(1, "one", 90, Version(0, 10, "a"), "D").body + a.put(1, "one", 95, Version(0, 90, "a"), "D").body
    ),
    "a parent that is not there": lambda ways, a: a.tx(Write("I", "child", {"id": 8, "parent_id": 8}, 90)).body,
    "children left behind": lambda ways, a: (
        a.tx(Write("D", "parent", {"id": 1, "name": "p"}, 90, Version(0, 12, "a"))).body
    ),
    "a clash in a unique key": lambda ways, a: a.tx(Write("I", "code", {"id": 2, "code": "taken"}, 90)).body,
    "an epoch above": lambda ways, a: (
        a.tx(Write("U", "item", {"id": 1, "name": "m", "price": "1"}, 90, Version(0, 10, "a"), epoch=1)).body
    ),
    "another's version": lambda ways, a: a.tx(item(5, "five", 90, node="c")).body,
    "a key without value": lambda ways, a: a.tx(Write("I", "item", {"id": None, "name": "n", "price": "1"}, 90)).body,
    "a column too many": lambda ways, a: (
        a.tx(Write("I", "item", {"id": 5, "name": "n", "price": "1", "x": 1}, 90)).body
    ),
    "a column too few": lambda ways, a: a.tx(Write("I", "item", {"id": 5, "name": "n"}, 90)).body,
    "a value that does not fit": lambda ways, a: (
        a.tx(Write("I", "item", {"id": 5, "name": "n", "price": "much"}, 90)).body
    ),
    "a wrapped value that does not fit": lambda ways, a: (
        a.tx(Write("I", "item", {"id": 5, "name": "n", "price": {"$bytes": "AAAA"}}, 90)).body
    ),
    "one key in two spellings": lambda ways, a: (
        a.put(5, "five", 90).body
        + a.tx(Write("U", "item", {"id": "5", "name": "again", "price": "1.50"}, 95, Version(0, 90, "a"))).body
    ),
    "a new key in two spellings": lambda ways, a: (
        a.put(5, "five", 90).body + a.tx(Write("I", "item", {"id": "5", "name": "again", "price": "1.50"}, 95)).body
    ),
    "a key in two spellings, deleted in one": lambda ways, a: (
        a.put(1, "one", 90, Version(0, 10, "a"), "D").body
        + a.tx(Write("I", "item", {"id": "1", "name": "again", "price": "1.50"}, 95, Version(0, 10, "a"))).body
    ),
    "a new key that has a version": lambda ways, a: a.put(1, "other", 90).body,
    "a new key that came and went": lambda ways, a: (
        a.put(1, "other", 90).body + a.put(1, "other", 95, Version(0, 90, "a"), "D").body
    ),
    "a base that is not here": lambda ways, a: a.put(5, "five", 90, Version(0, 80, "c"), "I").body,
}


def base(ways: Ways) -> Origin:
    a = Origin("a")
    first = a.tx(
        item(1, "one", 10),
        Write("I", "code", {"id": 1, "code": "taken"}, 11),
        Write("I", "parent", {"id": 1, "name": "p"}, 12),
        Write("I", "child", {"id": 1, "parent_id": 1}, 13),
    )
    assert ways.receive(first.body)
    return a


# The one that meets nothing is as plain as can be: a base is only what its writer had seen.
PLAIN_ALL_THE_SAME = {"a base that is not here"}


@pytest.mark.parametrize("name", OBSTACLES)
@pytest.mark.parametrize("apart", [False, True])
def test_what_takes_a_decision_goes_the_long_way(ways: Ways, name: str, apart: bool) -> None:
    if not apart:
        ways.make_ready_ahead()
    a = base(ways)
    before, obstacle = a.put(3, "before", 50).body, OBSTACLES[name](ways, a)
    if apart:
        assert ways.receive(before)
        ways.receive(obstacle)
    else:
        ways.receive(before, obstacle)
    assert (tx_id_of("a", a.made) in ways.short_ids) is (name in PLAIN_ALL_THE_SAME)
    # And the way is open again.
    assert ways.short.letters_open() or ways.receive(a.put(4, "after", 990).body)


def test_copies_go_the_long_way(ways: Ways) -> None:
    a = base(ways)
    first, second = a.put(3, "three", 50).body, a.put(4, "four", 60).body
    assert ways.receive(first)
    for bodies in ([first], [first, second], [second, second], [second]):
        ways.receive(*bodies)
    assert ways.short.one("SELECT count(*) FROM rf_applied_tx") == 3


NOTED = {
    "rf_applied_tx": "(source_node, tx_id, incarnation, prev_lsn, to_lsn, sha256, applied_us)"
    " VALUES ('a', '{}', 'other', 70, 71, 'x', 1)",
    "rf_dead_letter": "(source_node, tx_id, reason, state, error, attempts, first_failed_us, last_failed_us, sha256,"
    " origin) VALUES ('a', '{}', 'crash', 'dead', 'e', 1, 1, 1, 'x', 'test')",
}


# The first tx is in rf_applied_tx anyway.
@pytest.mark.parametrize(
    ("table", "number", "is_short"),
    [("rf_dead_letter", 1, True), *((table, n, n == 5) for table in NOTED for n in (2, 3, 4, 5))],
)
def test_what_is_known_under_a_tx_id_goes_the_long_way(ways: Ways, table: str, number: int, is_short: bool) -> None:
    """Known of another log, since the watermark says that it is new."""
    a = base(ways)
    ways.execute(f"INSERT INTO {table} {NOTED[table].format(tx_id_of('a', number))}")
    assert ways.receive(b"".join(a.put(row, "new", 50 + row).body for row in (2, 3, 4))) is is_short
    assert ways.receive(Origin("b").put(9, "another's", 90).body)


def test_what_may_have_been_deleted_goes_the_long_way(ways: Ways) -> None:
    a = base(ways)
    ways.execute("INSERT INTO rf_horizon SELECT table_id, 0, 500, 'z' FROM rf_table WHERE name = 'item'")
    assert not ways.receive(a.put(3, "below", 400).body)
    assert ways.receive(a.put(4, "above", 600).body)
    assert ways.short.letters() == [(tx_id_of("a", 2), "older-than-tombstones", "dead")]


def test_a_gap_goes_the_long_way(ways: Ways) -> None:
    a = base(ways)
    missing = a.put(3, "missing", 50)
    assert not ways.receive(a.put(4, "later", 60).body)
    assert not ways.receive(missing.body)
    assert ways.receive(a.put(5, "five", 70).body)


def test_a_new_key_that_has_a_tombstone_goes_the_long_way(ways: Ways) -> None:
    a = base(ways)
    assert ways.receive(a.put(1, "one", 80, Version(0, 10, "a"), "D").body)
    assert not ways.receive(a.put(1, "other", 90).body)


def test_a_new_row_stands_already(ways: Ways) -> None:
    """Since before the first sync: it has no version, so what comes is made on what stands, and replaces it."""
    a = base(ways)
    ways.execute(
        "ALTER TABLE item DISABLE TRIGGER ALL",
        "INSERT INTO item VALUES (6, 'since ever', 1)",
        "ALTER TABLE item ENABLE TRIGGER ALL",
    )
    assert not ways.receive(a.put(6, "six", 90).body)
    assert ("six",) in ways.short.query("SELECT name FROM item WHERE id = 6")
    assert ways.receive(a.put(6, "six again", 95, Version(0, 90, "a"), "U").body)


@pytest.mark.parametrize("op", ["D", "U"])
def test_a_row_without_version_in_two_spellings(ways: Ways, op: str) -> None:
    """One says that its key never had a version, the other goes on from one that is not here: neither is asked for."""
    base(ways)
    ways.execute(
        "ALTER TABLE item DISABLE TRIGGER ALL",
        "INSERT INTO item VALUES (6, 'since ever', 1)",
        "ALTER TABLE item ENABLE TRIGGER ALL",
    )
    one, other = Origin("b"), Origin("c")
    again = other.tx(item(6, "again", 95, Version(0, 90, "b"), op))
    spelled_otherwise = resealed(again.body, b'"pk":{"id":6}', b'"pk":{"id": 6}')
    assert not ways.receive(one.put(6, "six", 90, NEVER, "U").body + spelled_otherwise)
    assert ways.went[-1] is False
    assert ways.short.one("SELECT count(*) FROM item WHERE id = 6") == (op == "U")


def test_own_writes_that_are_not_sealed_are_not_overwritten_unseen(ways: Ways) -> None:
    a = base(ways)
    ways.execute("UPDATE item SET name = 'local' WHERE id = 1")
    for world in (ways.short, ways.long):
        world.receive(a.put(1, "theirs", 90, Version(0, 10, "a"), "U").body)
    assert ways.went[-1] is False
    for world in (ways.short, ways.long):
        assert world.one("SELECT count(*) FROM rf_conflict") == 1
    assert ways.short.rows() == ways.long.rows()


def test_what_is_kept_for_others_goes_the_long_way(pg_database: str) -> None:
    world = open_world(pg_database, node={"id": "hub", "role": "main", "database": pg_database})
    try:
        a = Origin("a")
        went: list[bool] = []
        note_attempts(world, went, set())
        world.receive(a.put(1, "one", 10).body)
        world.execute(
            "INSERT INTO rf_token (id, node_id, scopes, hash, created_us, created_by)"
            " VALUES ('t', 'b', 'pull', '', 1, '')"
        )
        world.receive(a.put(2, "two", 20).body)
        assert went == [True, False]
        assert world.one("SELECT count(*) FROM rf_relay") == 1
    finally:
        close_world(world)


def test_own_writes_of_other_rows_are_no_obstacle(ways: Ways) -> None:
    a = base(ways)
    ways.execute("INSERT INTO item VALUES (50, 'local', 1)")
    before = len(ways.went)
    for world in (ways.short, ways.long):
        world.receive(a.put(1, "theirs", 90, Version(0, 10, "a"), "U").body)
    assert ways.went[before:] == [True]
    assert ways.short.rows() == ways.long.rows()


@pytest.mark.parametrize("seed", range(3))
def test_random_histories_come_to_the_same(ways: Ways, seed: int) -> None:
    chance = random.Random(seed)
    if seed % 2:
        ways.make_ready_ahead()
    sources = [Origin(name) for name in "abc"]
    versions: dict[int, list[tuple[Version, bool]]] = {}
    clock = 100
    for _ in range(25):
        bodies = []
        for _ in range(chance.randint(1, 4)):
            origin = chance.choice(sources)
            body = b""
            for _ in range(chance.randint(1, 3)):
                clock += chance.randint(1, 9)
                key = chance.randint(1, 12)
                known = versions.setdefault(key, [])
                # Mostly on top of what is there: that is what is plain.
                made_on = known[-1] if known and chance.random() < 0.97 else (NEVER, True)
                if known and chance.random() < 0.02:
                    made_on = chance.choice(known)
                op = "I" if made_on[1] else chance.choice("UUUD")
                body += origin.put(key, f"{origin.node_id}{clock}", clock, made_on[0], op).body
                known.append((Version(0, clock, origin.node_id), op == "D"))
            bodies.append(body)
        if chance.random() < 0.05:
            bodies.append(chance.choice(bodies))
        ways.receive(*bodies)
    assert ways.went.count(True) > 5


@pytest.mark.parametrize("name", ['k "num%', "back\\slash", "tab\there", "ünï"])
def test_columns_of_any_name_come_in(tmp_path: Path, pg_database: str, name: str) -> None:
    """The decoder of the short way takes no name that JSON would have to escape."""
    quoted = '"' + name.replace('"', '""') + '"'
    ddl = f"CREATE TABLE odd ({quoted} INTEGER PRIMARY KEY, v TEXT)"
    urls = {"here": pg_database, "there": sqlite_url(tmp_path, "there.db")}
    target, source = (
        # psycopg takes a percent sign for a parameter's.
        open_world(url, [ddl.replace("%", "%%") if url == pg_database else ddl], node={"id": node_id, "database": url})
        for node_id, url in urls.items()
    )
    source.execute("INSERT INTO odd VALUES (1, 'a'), (2, 'b')")
    database, facts = source.node.database, source.node.facts
    database.sealer(facts).seal()
    target.receive(b"".join(part.body for tx in database.log(facts).read(0, 10**6) for part in encode_tx(tx, 10**6)))
    assert target.letters() == []
    assert target.rows("odd") == [(1, "a"), (2, "b")]
    for world in (source, target):
        close_world(world)
