"""Which DDL an import lets through. What is not on the list stays out, whatever it is called."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from common.preflight.rulings import DdlRules


def wants(table: str) -> bool:
    return table != "secret"


ALLOWED = [
    "CREATE TABLE shop (id INTEGER PRIMARY KEY, name TEXT NOT NULL DEFAULT 'x', n NUMERIC(10, 2) DEFAULT -1)",
    "create table if not exists shop (a int, b int, primary key (a, b), foreign key (b) references other (id))",
    "ALTER TABLE shop ADD COLUMN note TEXT DEFAULT 'none'",
    "ALTER TABLE shop ADD COLUMN note TEXT",
]
DESTRUCTIVE = ["DROP TABLE shop", "DROP TABLE IF EXISTS shop", "ALTER TABLE shop DROP COLUMN note"]
REFUSED = [
    "CREATE TABLE shop AS SELECT * FROM users",
    "CREATE TABLE shop (id INT, name TEXT)",
    "CREATE TABLE shop (id INT UNIQUE, name TEXT REFERENCES other (id))",
    "CREATE TABLE shop (id INT DEFAULT (random()))",
    "CREATE TABLE shop (id INT, at TEXT DEFAULT CURRENT_TIMESTAMP)",
    "CREATE TABLE shop (id INT CHECK (id > (SELECT max(id) FROM users)))",
    "CREATE TEMPORARY TABLE shop (id INT)",
    "CREATE VIEW shop AS SELECT 1",
    "CREATE TRIGGER t AFTER INSERT ON shop BEGIN DELETE FROM users; END",
    "CREATE INDEX i ON shop (id)",
    "CREATE TABLE shop (id INT); DROP TABLE users",
    "CREATE TABLE secret (id INT)",
    "CREATE TABLE rf_node (id INT)",
    "CREATE TABLE RF_extra (id INT)",
    "CREATE TABLE sqlite_master (id INT)",
    "DROP TABLE shop CASCADE",
    "DROP DATABASE shop",
    "ALTER TABLE shop RENAME TO users",
    "ALTER TABLE shop ADD COLUMN n INT DEFAULT (abs(-1))",
    "ALTER TABLE secret ADD COLUMN n INT",
    "INSERT INTO shop VALUES (1)",
    "ATTACH DATABASE 'x' AS y",
    "PRAGMA writable_schema = 1",
    "VACUUM",
    "not sql at all (",
    "",
]


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
@pytest.mark.parametrize("sql", ALLOWED)
def test_what_a_flag_lets_through_is_rendered_anew(sql: str, database: str) -> None:
    assert not DdlRules(database, wants).judge(sql).allowed
    ruling = DdlRules(database, wants, allow=True).judge(sql + " -- a comment")
    assert ruling.allowed, ruling.why
    assert ruling.rendered is not None
    assert "comment" not in ruling.rendered
    assert '"shop"' in ruling.rendered


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
@pytest.mark.parametrize("sql", DESTRUCTIVE)
def test_what_can_destroy_needs_the_other_flag(sql: str, database: str) -> None:
    assert not DdlRules(database, wants, allow=True).judge(sql).allowed
    assert DdlRules(database, wants, allow_destructive=True).judge(sql).allowed


SMUGGLED = [
    'ALTER TABLE shop ADD COLUMN n INT REFERENCES shop (id) ON "DELETE CASCADE; DROP TABLE users; --" CASCADE',
    'CREATE TABLE shop (id INT PRIMARY KEY, FOREIGN KEY (id) REFERENCES shop ON "DELETE CASCADE) --" CASCADE)',
    'CREATE TABLE shop (id INT PRIMARY KEY, FOREIGN KEY (id) ON DELETE "cascade); DROP TABLE users; --")',
    "CREATE TABLE shop (id INT PRIMARY KEY, FOREIGN KEY (id) ON DELETE 'cascade); DROP TABLE users; --')",
    'ALTER TABLE shop ADD COLUMN n INT REFERENCES shop (id) ON "DELETE CASCADE DEFAULT (random()) ON UPDATE" CASCADE',
]
SMUGGLED_TYPES = [
    "x DEFAULT (random())",
    "x CHECK (length(shop.n) < 9)",
    "a); DROP TABLE users; --",
    "x AS (id * 2) STORED",
]


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
@pytest.mark.parametrize("sql", SMUGGLED)
def test_what_is_quoted_where_a_word_belongs_is_refused(sql: str, database: str) -> None:
    """sqlglot writes words out as they came."""
    assert not DdlRules(database, wants, allow=True, allow_destructive=True).judge(sql).allowed


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
@pytest.mark.parametrize("kind", SMUGGLED_TYPES)
@pytest.mark.parametrize("sql", ["CREATE TABLE shop (id INT PRIMARY KEY, n {})", "ALTER TABLE shop ADD COLUMN n {}"])
def test_a_quoted_type_stays_a_name(sql: str, kind: str, database: str) -> None:
    ruling = DdlRules(database, wants, allow=True).judge(sql.format(f'"{kind}"'))
    assert not ruling.allowed or f'"{kind}"' in str(ruling.rendered)


@pytest.mark.parametrize("schema", ["temp", "TEMP", "Temp", "aux"])
def test_sqlite_makes_and_drops_tables_in_the_database_itself(schema: str) -> None:
    """One in `temp` is gone with the connection, and until then stands before the real one of its name."""
    rules = DdlRules("sqlite", wants, allow=True, allow_destructive=True)
    for sql in (f"CREATE TABLE {schema}.shop (id INTEGER PRIMARY KEY)", f"DROP TABLE IF EXISTS {schema}.shop"):
        ruling = rules.judge(sql)
        assert not ruling.allowed
        assert f"{schema}.shop" in ruling.why
    assert rules.judge("CREATE TABLE Main.shop (id INTEGER PRIMARY KEY)").allowed


REFERENCES = [
    "REFERENCES other",
    "REFERENCES other (id) ON DELETE SET NULL",
    "REFERENCES other (id) on update cascade on delete no action",
    "REFERENCES other (id) ON DELETE RESTRICT ON UPDATE SET DEFAULT",
    "REFERENCES other (id) DEFERRABLE INITIALLY DEFERRED",
    "REFERENCES other (id) MATCH FULL",
]


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
@pytest.mark.parametrize("reference", REFERENCES)
def test_a_reference_keeps_its_actions(reference: str, database: str) -> None:
    rules = DdlRules(database, wants, allow=True)
    for sql in (
        f"ALTER TABLE shop ADD COLUMN n INT {reference}",
        f"CREATE TABLE shop (id INT PRIMARY KEY, n INT, FOREIGN KEY (n) {reference})",
    ):
        ruling = rules.judge(sql)
        assert ruling.allowed, ruling.why
        words = reference.replace("other", "").replace("(id)", "").upper().split()
        assert all(word in str(ruling.rendered).upper() for word in words)


@pytest.mark.parametrize("default", ["foo", '"foo"', "now", "id"])
def test_a_default_that_names_a_column_is_no_literal(default: str) -> None:
    for sql in (
        "ALTER TABLE shop ADD COLUMN n TEXT DEFAULT {}",
        "CREATE TABLE shop (id INT PRIMARY KEY, n INT DEFAULT {})",
    ):
        assert not DdlRules("postgresql", wants, allow=True).judge(sql.format(default)).allowed


def test_a_change_of_type_is_destructive() -> None:
    sql = "ALTER TABLE shop ALTER COLUMN name TYPE VARCHAR(10)"
    assert not DdlRules("postgresql", wants, allow=True).judge(sql).allowed
    assert DdlRules("postgresql", wants, allow_destructive=True).judge(sql).allowed
    using = sql + " USING left(name, 3)"
    assert not DdlRules("postgresql", wants, allow_destructive=True).judge(using).allowed


def test_what_sqlite_has_no_statement_for_is_refused_before_it_is_tried() -> None:
    ruling = DdlRules("sqlite", wants, allow_destructive=True).judge("ALTER TABLE shop ALTER COLUMN name TYPE INTEGER")
    assert not ruling.allowed
    assert "SQLite can't change a column's type" in str(ruling.why)


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
@pytest.mark.parametrize("sql", REFUSED)
def test_everything_else_stays_out_whatever_the_flags(sql: str, database: str) -> None:
    assert not DdlRules(database, wants, allow=True, allow_destructive=True).judge(sql).allowed


def test_sqlite_keeps_its_exact_types() -> None:
    sql = "CREATE TABLE shop (id INTEGER PRIMARY KEY, price DECIMAL(12, 2), open BOOLEAN, at TIMESTAMP)"
    rendered = DdlRules("sqlite", wants, allow=True).judge(sql).rendered
    columns = '"id" INTEGER PRIMARY KEY, "price" NUMERIC(12, 2), "open" BOOLEAN, "at" TIMESTAMP'
    assert rendered == f'CREATE TABLE "shop" ({columns})'


@pytest.mark.parametrize("kind", ["INT", "int(11)", "INT4", "BIGINT", "SMALLINT", "TINYINT", "MEDIUMINT", "INTEGER"])
@pytest.mark.parametrize("column", ["id", '"a b"', "int", "integer"])
def test_sqlite_makes_the_rowid_the_key_only_where_the_file_does(kind: str, column: str) -> None:
    sql = f"CREATE TABLE shop (n INTEGER, {column} {kind} PRIMARY KEY, int8 INT)"
    ruling = DdlRules("sqlite", wants, allow=True).judge(sql)
    assert ruling.rendered is not None, ruling.why
    assert _takes_text_as_key(ruling.rendered) == _takes_text_as_key(sql)


def _takes_text_as_key(sql: str) -> bool:
    """A rowid does not."""
    with closing(sqlite3.connect(":memory:")) as database:
        database.execute(sql)
        try:
            database.execute("INSERT INTO shop VALUES (1, 'one', 1)")
        except sqlite3.IntegrityError:
            return False
        return True


def test_postgresql_folds_names_that_are_not_quoted() -> None:
    ruling = DdlRules("postgresql", wants, allow=True).judge('CREATE TABLE Shop (Id INT PRIMARY KEY, "Name" TEXT)')
    assert (ruling.table, ruling.rendered) == ("shop", 'CREATE TABLE "shop" ("id" INT PRIMARY KEY, "Name" TEXT)')


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_a_column_of_the_key_is_not_dropped(database: str) -> None:
    rules = DdlRules(database, wants, allow_destructive=True)
    keys = {"shop": ("id", "Part")}
    for sql in ("ALTER TABLE shop DROP COLUMN id", 'ALTER TABLE SHOP DROP COLUMN "Part"'):
        assert "primary key" in rules.judge(sql, keys).why
    assert rules.judge("ALTER TABLE shop DROP COLUMN name", keys).allowed
    assert rules.judge("ALTER TABLE other DROP COLUMN id", keys | {"other": ("code",)}).allowed
    assert rules.judge("ALTER TABLE shop DROP COLUMN part", keys).allowed == (database == "postgresql")


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_the_key_of_a_table_that_is_made(database: str) -> None:
    rules = DdlRules(database, wants, allow=True)
    assert rules.judge("CREATE TABLE shop (id INTEGER PRIMARY KEY, x TEXT)").pk == ("id",)
    assert rules.judge("CREATE TABLE shop (a INT, b INT, CONSTRAINT k PRIMARY KEY (a, b))").pk == ("a", "b")
