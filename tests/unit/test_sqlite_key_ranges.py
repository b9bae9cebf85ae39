"""Keys by stride on SQLite: when a chunk is used up, and what steers the next one."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.ports.key_share import KeyShare
from common.ports.rules import Rules
from tests.support.sqlite_app import SqliteApp

SHARE = KeyShare(2, nodes=4, bits=31)
RULES = Rules(stride=frozenset({"Sale's"}), share=SHARE)
TABLE = """CREATE TABLE "Sale's" (id INTEGER PRIMARY KEY /* counts */ autoincrement, rowid TEXT)"""
MANY = """INSERT INTO "Sale's" (rowid)
WITH n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {}) SELECT i FROM n"""
LARGEST = """SELECT max(id) FROM "Sale's" """


@pytest.fixture
def app(tmp_path: Path) -> Iterator[SqliteApp]:
    app = SqliteApp(tmp_path / "app.db", TABLE, capture=False)
    app.database.capture(RULES).install(list(app.tables.values()))
    yield app
    app.close()


def largest(app: SqliteApp) -> int:
    return int(app.query(LARGEST)[0][0])


def test_a_used_up_chunk_refuses_and_sealing_takes_the_next_one(app: SqliteApp) -> None:
    app.run(MANY.format(SHARE.chunk))
    assert SHARE.room(largest(app)) == 1
    with pytest.raises(
        sqlite3.IntegrityError, match=r"Sale's that this node may give for now are used up.*rowferry run"
    ):
        app.run(MANY.format(1))
    # given a key that the application names itself
    app.run("""INSERT INTO "Sale's" VALUES (5, 'named')""")

    app.seal()
    app.run(MANY.format(1))
    assert SHARE.in_chunk(largest(app))
    assert SHARE.room(largest(app)) == SHARE.chunk


def test_too_many_rows_for_a_chunk_in_one_statement_are_refused_whole(app: SqliteApp) -> None:
    with pytest.raises(sqlite3.IntegrityError, match="used up"):
        app.run(MANY.format(SHARE.chunk + 1))
    assert app.query("""SELECT count(*) FROM "Sale's" """) == [(0,)]


def test_a_chunk_that_is_half_used_is_left_at_the_next_seal(app: SqliteApp) -> None:
    app.run(MANY.format(SHARE.chunk // 2))
    app.seal()
    first = largest(app)
    app.run(MANY.format(1))
    assert largest(app) == first + 1

    app.seal()
    app.run(MANY.format(SHARE.chunk))
    assert SHARE.in_chunk(largest(app))
    assert largest(app) > first + SHARE.chunk


def test_what_the_application_names_above_all_does_not_lead_into_others_shares(app: SqliteApp) -> None:
    others = KeyShare(3, nodes=4, bits=31).next_chunk(2**30 + 2**20)
    app.run(f"""INSERT INTO "Sale's" VALUES ({others}, 'named')""")
    with pytest.raises(sqlite3.IntegrityError, match="used up"):
        app.run(MANY.format(1))
    app.seal()
    app.run(MANY.format(2))
    assert SHARE.in_chunk(largest(app))


def test_at_the_end_of_all_keys_there_is_an_error_and_more_bits_help(app: SqliteApp) -> None:
    app.run(f"""INSERT INTO "Sale's" VALUES ({SHARE.last}, 'named')""")
    app.seal()
    with pytest.raises(sqlite3.IntegrityError, match=r"raise tables\.key_bits"):
        app.run(MANY.format(1))

    more = KeyShare(2, nodes=4, bits=63)
    app.database.capture(Rules(stride=frozenset({"Sale's"}), share=more)).install(list(app.tables.values()))
    app.run(MANY.format(1))
    assert more.in_chunk(largest(app))


def test_a_table_made_anew_is_steered_on(app: SqliteApp) -> None:
    app.run(MANY.format(3))
    before = largest(app)
    app.run(
        """CREATE TABLE anew (id INTEGER PRIMARY KEY AUTOINCREMENT, rowid TEXT, more TEXT)""",
        """INSERT INTO anew SELECT id, rowid, NULL FROM "Sale's" """,
        """DROP TABLE "Sale's" """,
        """ALTER TABLE anew RENAME TO "Sale's" """,
    )
    app.database.capture(RULES).install(list(app.tables.values()))
    app.run(MANY.format(1))
    assert largest(app) == before + 1

    # given others' rows, applied as a batch of theirs
    theirs = KeyShare(3, nodes=4, bits=31).next_chunk(before)
    assert theirs is not None
    app.seal()
    app.put("Sale's", b'{"id":%d}' % theirs, b'{"id":%d,"rowid":"t","more":null}' % theirs)
    app.run(MANY.format(1))
    assert largest(app) > theirs
    assert SHARE.in_chunk(largest(app))


@pytest.mark.parametrize("batch_first", [True, False])
def test_a_renamed_table_keeps_its_share_while_the_rules_know_its_old_name_alone(
    app: SqliteApp, batch_first: bool
) -> None:
    app.run("""ALTER TABLE "Sale's" RENAME TO sold""")
    if batch_first:
        app.put("sold", b'{"id":1}', b'{"id":1,"rowid":"t"}')
    for rules in (RULES, RULES, Rules(stride=frozenset({"sold"}), share=SHARE)):
        capture = app.database.capture(rules)
        capture.install(list(app.tables.values()))
        assert capture.drifted(list(app.tables.values())) == []
        theirs = KeyShare(3, nodes=4, bits=31).next_chunk(app.query("SELECT max(id) FROM sold")[0][0] or 0)
        app.seal()
        app.put("sold", b'{"id":%d}' % theirs, b'{"id":%d,"rowid":"t"}' % theirs)
        app.run("INSERT INTO sold (rowid) VALUES ('own')")
        ((own,),) = app.query("SELECT max(id) FROM sold")
        assert SHARE.in_chunk(own)

    # when it counts by itself again
    app.database.capture(Rules()).install(list(app.tables.values()))
    app.run("INSERT INTO sold (rowid) VALUES ('own')")
    assert app.query("SELECT max(id) FROM sold") == [(own + 1,)]
    assert app.query("SELECT * FROM rf_key_range") == []


@pytest.mark.parametrize(
    ("sql", "counts"),
    [
        ('CREATE TABLE t (id INTEGER PRIMARY KEY, [autoincrement] TEXT, "autoincrement " TEXT)', False),
        ("CREATE TABLE t (id INTEGER PRIMARY KEY /* autoincrement */, v DEFAULT 'key autoincrement')", False),
        ("CREATE TABLE t (id INTEGER PRIMARY KEY AutoIncrement)", True),
        ("CREATE TABLE t (id INTEGER PRIMARY KEY -- the key\n ON CONFLICT REPLACE AUTOINCREMENT)", True),
        ("CREATE TABLE t (id INTEGER CONSTRAINT k PRIMARY KEY ASC AUTOINCREMENT)", True),
    ],
)
def test_autoincrement_is_told_from_what_only_looks_like_it(tmp_path: Path, sql: str, counts: bool) -> None:
    app = SqliteApp(tmp_path / "other.db", sql, capture=False)
    table = app.tables["t"]
    app.database.capture(Rules(stride=frozenset({"t"}), share=SHARE)).install([table])
    app.run("INSERT INTO t DEFAULT VALUES")
    assert (table.no_stride is None, app.query("SELECT id FROM t") != [(1,)]) == (counts, counts)
    app.close()
