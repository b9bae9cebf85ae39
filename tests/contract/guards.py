"""What the guards of `Rules` refuse and what they let pass, on every dialect."""

from __future__ import annotations

from typing import Protocol

import pytest

from common.ports.dialect import Database
from common.ports.key_share import KeyShare
from common.ports.rules import Rules
from tests.contract.dialect import DialectCase, captured, changes, put, seal, shapes, told

RULES = Rules(append_only=frozenset({"entry"}))
SCHEMA = (
    "CREATE TABLE account (id integer PRIMARY KEY, name text)",
    "CREATE TABLE entry (id integer PRIMARY KEY, code text UNIQUE, amount integer,"
    " account integer REFERENCES account (id) ON DELETE CASCADE ON UPDATE CASCADE)",
    "CREATE TABLE reading (place integer, at text, value integer, PRIMARY KEY (place, at))",
)
REFUSED = r"entry is append-only \(tables\.policy\).*rowferry pause entry"


def guarded(case: DialectCase) -> Database:
    """Return a database whose table `entry` takes inserts alone, with one row in it."""
    database = case.fresh(SCHEMA)
    database.capture(RULES).install(list(shapes(database).values()))
    case.execute(database, "INSERT INTO account VALUES (1, 'a')", "INSERT INTO entry VALUES (1, 'one', 10, 1)")
    return database


class GuardContract:
    """Append-only tables."""

    @pytest.mark.parametrize(
        "statement",
        [
            "UPDATE entry SET amount = 11",
            "UPDATE entry SET id = 2",
            "DELETE FROM entry",
            "DELETE FROM account",
            "UPDATE account SET id = 2",
            "INSERT INTO entry VALUES (1, 'other', 0, 1) ON CONFLICT (id) DO UPDATE SET amount = 0",
            "INSERT INTO entry VALUES (9, 'one', 0, 1) ON CONFLICT (code) DO UPDATE SET id = 9",
        ],
    )
    def test_what_changes_a_row_is_refused_whole(self, case: DialectCase, statement: str) -> None:
        database = guarded(case)
        seal(database)

        # given an application's transaction that does something else before
        with pytest.raises(Exception, match=REFUSED):
            case.execute(database, "INSERT INTO reading VALUES (1, 'now', 5)", statement)

        assert case.query(database, "SELECT * FROM entry") == [(1, "one", 10, 1)]
        assert case.query(database, "SELECT id FROM account") == [(1,)]
        assert seal(database) == []

    @pytest.mark.parametrize(
        "statement",
        [
            "INSERT INTO entry VALUES (2, 'two', 0, 1)",
            "INSERT INTO entry VALUES (1, 'x', 0, 1), (2, 'two', 0, 1) ON CONFLICT DO NOTHING",
            "INSERT INTO entry VALUES (2, 'two', 0, 1) ON CONFLICT (id) DO UPDATE SET amount = 0",
            "INSERT INTO entry SELECT 2, 'two', 0, id FROM account",
            "UPDATE entry SET amount = 0 WHERE id = 77",
            "DELETE FROM entry WHERE id = 77",
        ],
    )
    def test_inserts_and_what_finds_no_row_pass(self, case: DialectCase, statement: str) -> None:
        database = guarded(case)
        case.execute(database, statement, "INSERT INTO entry VALUES (3, 'three', 3, 1)")

        rows = case.query(database, "SELECT id, code FROM entry ORDER BY id")
        assert rows == [(1, "one"), *([(2, "two")] if "two" in statement else []), (3, "three")]
        sealed = {(one.table, one.op) for one in changes(seal(database))}
        assert sealed == {("account", "I"), ("entry", "I")}

    def test_other_tables_are_free(self, case: DialectCase) -> None:
        database = guarded(case)
        case.execute(database, "INSERT INTO reading VALUES (1, 'now', 5)", "UPDATE reading SET value = 6")
        case.execute(database, "DELETE FROM reading", "UPDATE account SET name = 'b'")

        assert case.query(database, "SELECT count(*) FROM reading") == [(0,)]

    def test_what_others_wrote_is_applied(self, case: DialectCase) -> None:
        database = guarded(case)
        seal(database)
        assert put(database, "entry", (b'{"id":1}', b'{"id":1,"code":"theirs","amount":1,"account":1}')) == []
        assert put(database, "entry", (b'{"id":1}', None), hlc=2_000) == []

        assert case.query(database, "SELECT * FROM entry") == []

    def test_a_guard_comes_and_goes_with_the_rules(self, case: DialectCase) -> None:
        database = guarded(case)
        tables = list(shapes(database).values())
        assert database.capture(RULES).drifted(tables) == []
        assert database.capture(RULES).plan(tables) == []

        # when the policy is taken out of the configuration
        assert database.capture().drifted(tables) == ["entry"]
        database.capture().install(tables)
        case.execute(database, "UPDATE entry SET amount = 11")

        # and put in again
        assert database.capture(RULES).drifted(tables) == ["entry"]
        assert database.capture(RULES).install(tables) != []
        with pytest.raises(Exception, match=REFUSED):
            case.execute(database, "UPDATE entry SET amount = 12")
        entries = told(one for one in changes(seal(database)) if one.table == "entry")
        assert {op for _, op, _, _ in entries} <= {"I", "U"}, "the update while there was no guard"
        assert case.query(database, "SELECT amount FROM entry") == [(11,)]

    def test_a_paused_table_is_free_and_guarded_again_afterwards(self, case: DialectCase) -> None:
        database = guarded(case)
        tables = shapes(database)
        seal(database)
        database.capture(RULES).pause([tables["entry"]], 1_000_000, "somebody")
        case.execute(database, "UPDATE entry SET amount = 11")

        database.capture(RULES).resume(["entry"], list(tables.values()))
        with pytest.raises(Exception, match=REFUSED):
            case.execute(database, "UPDATE entry SET amount = 12")
        assert [one.op for one in changes(seal(database))] in (["U"], ["I"])

    def test_nothing_is_left_when_capture_is_taken_off(self, case: DialectCase) -> None:
        database = guarded(case)
        database.capture(RULES).uninstall()

        case.execute(database, "UPDATE entry SET amount = 11", "DELETE FROM entry")
        assert case.query(database, "SELECT count(*) FROM entry") == [(0,)]

    def test_a_row_merged_of_two_nodes_columns_goes_on_as_an_insert(self, case: DialectCase) -> None:
        """Another node's append-only table takes nothing else."""
        database = captured(case, SCHEMA)
        case.execute(database, "INSERT INTO account VALUES (1, 'a')", "INSERT INTO entry VALUES (1, 'one', 10, 1)")
        database.capture(RULES).install(list(shapes(database).values()))
        seal(database)

        # when another node, which does not know of `amount`, has inserted the same key
        put(database, "entry", (b'{"id":1}', b'{"id":1,"code":"theirs","account":1}'), hlc=2**60)

        assert told(changes(seal(database))) == {("entry", "I", "-", "1,10,theirs,1")}


SHARES = [KeyShare(number, nodes=4, bits=40) for number in (1, 2, 3)]


class KeyContract:
    """Tables that number their rows by themselves."""

    def test_nodes_that_insert_apart_never_give_the_same_key(self, case: KeyCase) -> None:
        databases = [strided(case, share) for share in SHARES]
        for database in databases:
            case.execute(database, *["INSERT INTO sale (what) VALUES ('x')"] * 3)
            case.execute(database, "INSERT INTO sale (what) SELECT what FROM sale")

        keys = [row[0] for database in databases for row in case.query(database, "SELECT id FROM sale")]
        assert len(keys) == len(set(keys)) == 18

    def test_after_others_rows_have_come_a_node_goes_on_in_its_own_share(self, case: KeyCase) -> None:
        databases = [strided(case, share) for share in SHARES]
        for turn in range(3):
            for database in databases:
                case.execute(database, f"INSERT INTO sale (what) VALUES ('{turn}'), ('more')")
                seal(database)
            for source in databases:
                for target in databases:
                    if target is not source:
                        replay_fresh(case, source, target)

        rows = [case.query(database, "SELECT * FROM sale ORDER BY id") for database in databases]
        assert rows[0] == rows[1] == rows[2]
        assert len(rows[0]) == 18

    def test_it_is_noticed_set_once_and_put_back(self, case: KeyCase) -> None:
        database = strided(case, SHARES[1])
        capture, tables = database.capture(with_share(SHARES[1])), list(shapes(database).values())
        case.execute(database, "INSERT INTO sale (what) VALUES ('first')")
        seal(database)
        ((first,),) = case.query(database, "SELECT id FROM sale")
        assert (capture.drifted(tables), capture.plan(tables), capture.install(tables)) == ([], [], [])

        # when the node gets another number
        other = database.capture(with_share(SHARES[2]))
        assert other.drifted(tables) == ["sale"]
        assert other.plan(tables) == other.install(tables) != []
        case.execute(database, "INSERT INTO sale (what) VALUES ('second')")
        ((second,),) = case.query(database, "SELECT max(id) FROM sale")
        assert is_of(SHARES[1], first)
        assert is_of(SHARES[2], second)

        # and when it counts by itself again
        assert database.capture().drifted(tables) == ["sale"]
        database.capture().install(tables)
        assert database.capture().drifted(tables) == []
        case.execute(database, *["INSERT INTO sale (what) VALUES ('third')"] * 2)
        assert case.query(database, "SELECT max(id) FROM sale") == [(second + 2,)]

    def test_rows_that_stand_already_are_passed(self, case: KeyCase) -> None:
        database = case.fresh((case.NUMBERED,))
        case.execute(database, *["INSERT INTO sale (what) VALUES ('old')"] * 9)
        database.capture(with_share(SHARES[0])).install(list(shapes(database).values()))
        case.execute(database, "INSERT INTO sale (what) VALUES ('new')")

        ((key,),) = case.query(database, "SELECT id FROM sale WHERE what = 'new'")
        assert key > 9
        assert is_of(SHARES[0], key)

    def test_taking_capture_off_puts_the_counting_back(self, case: KeyCase) -> None:
        database = strided(case, SHARES[0])
        database.capture(with_share(SHARES[0])).uninstall()
        case.execute(database, *["INSERT INTO sale (what) VALUES ('x')"] * 2)

        (first,), (second,) = case.query(database, "SELECT id FROM sale ORDER BY id")
        assert second == first + 1

    def test_where_another_node_gives_the_keys_an_insert_without_one_is_refused(self, case: KeyCase) -> None:
        database = case.fresh((case.NUMBERED,))
        rules = Rules(no_own_keys=frozenset({"sale"}))
        tables = list(shapes(database).values())
        database.capture(rules).install(tables)
        assert database.capture(rules).drifted(tables) == []

        with pytest.raises(Exception, match=r"keys of sale .*main-only"):
            case.execute(database, "INSERT INTO sale (what) VALUES ('x')")
        case.execute(database, "INSERT INTO sale (id, what) VALUES (7, 'named'), (8, 'named')")
        with pytest.raises(Exception, match=r"keys of sale .*main-only"):
            case.execute(
                database, "INSERT INTO sale (id, what) VALUES (9, 'x')", "INSERT INTO sale (what) VALUES ('x'), ('y')"
            )
        assert case.query(database, "SELECT id FROM sale ORDER BY id") == [(7,), (8,)]
        seal(database)
        assert put(database, "sale", (b'{"id":1}', b'{"id":1,"what":"theirs"}')) == []

        database.capture().install(tables)
        case.execute(database, "INSERT INTO sale (id, what) VALUES (30, 'x')")


class KeyCase(DialectCase, Protocol):
    """A dialect with the statement for a table that numbers its rows."""

    NUMBERED: str


def with_share(share: KeyShare) -> Rules:
    return Rules(stride=frozenset({"sale"}), share=share)


def strided(case: KeyCase, share: KeyShare) -> Database:
    database = case.fresh((case.NUMBERED,))
    database.capture(with_share(share)).install(list(shapes(database).values()))
    return database


def is_of(share: KeyShare, key: int) -> bool:
    return share.in_chunk(key) if key >= share.lower_end else share.is_step(key)


def replay_fresh(case: DialectCase, source: Database, target: Database) -> None:
    """Carry over what the target does not have yet."""
    have = {key for (key,) in case.query(target, "SELECT id FROM sale")}
    rows = [row for row in case.query(source, "SELECT id, what FROM sale") if row[0] not in have]
    if rows:
        put(
            target,
            "sale",
            *((b'{"id":%d}' % key, b'{"id":%d,"what":"%s"}' % (key, what.encode())) for key, what in rows),
        )
