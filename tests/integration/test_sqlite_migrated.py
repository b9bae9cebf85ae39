"""Schema migrations of an application, as its framework writes them, under writes: both nodes end with the same rows.

The statements are Django's: a table is rebuilt by create, copy, drop and rename, or altered in place; new columns are
NOT NULL and have no default that the database knows of."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.nodes import CliNode, sync
from tests.support.waiting import wait_for

SCHEMA = """
CREATE TABLE author (id varchar(9) NOT NULL PRIMARY KEY, name varchar(50) NOT NULL);
CREATE TABLE book (id varchar(9) NOT NULL PRIMARY KEY, title varchar(50) NOT NULL,
    author_id varchar(9) NOT NULL REFERENCES author (id) DEFERRABLE INITIALLY DEFERRED);
INSERT INTO author VALUES ('a1', 'Ada'), ('a2', 'Bo');
INSERT INTO book VALUES ('b1', 'One', 'a1'), ('b2', 'Two', 'a2');
"""
RENAME_COLUMN = "ALTER TABLE author RENAME COLUMN name TO full_name;"
RENAME_TABLE = "ALTER TABLE author RENAME TO writer;"


class Shop(CliNode):
    """A node, and the application that writes its file."""

    def write(self, script: str) -> None:
        with closing(sqlite3.connect(self.folder / "shop.db")) as connection:
            connection.executescript(script)

    def stand(self) -> dict[str, list[tuple[object, ...]]]:
        """Return all rows of the application's tables."""
        with closing(sqlite3.connect(self.folder / "shop.db")) as connection:
            names = connection.execute(
                "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT GLOB 'rf_*' AND name <> 'rf_alembic'"
            ).fetchall()
            return {
                name: connection.execute(f"SELECT * FROM {name} ORDER BY 1").fetchall() for (name,) in sorted(names)
            }

    def letters(self) -> list[tuple[str, str]]:
        """Return reason and state of each letter that is open."""
        return sorted((one["reason"], one["state"]) for one in self.report("dlq", "list"))


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Shop, Shop]:
    made = []
    for node_id in ("one", "two"):
        folder = tmp_path / node_id
        folder.mkdir()
        with closing(sqlite3.connect(folder / "shop.db")) as connection:
            connection.executescript(SCHEMA)
        options = ("--directory", str(tmp_path / "exchange"), "--tables", "*")
        node = Shop.init(node_id, folder, f"sqlite:///{folder / 'shop.db'}", *options)
        node.ok("migrate")
        made.append(node)
    return made[0], made[1]


@pytest.mark.parametrize("there_first", [True, False])
def test_a_column_renamed_before_its_writes_are_sealed(pair: tuple[Shop, Shop], there_first: bool) -> None:
    one, two = pair
    one.write("UPDATE author SET name = 'Ada L' WHERE id = 'a1';")
    one.write(RENAME_COLUMN)
    one.write("INSERT INTO author VALUES ('a3', 'Cy'); UPDATE author SET full_name = 'Bo B' WHERE id = 'a2';")
    if there_first:
        two.write(RENAME_COLUMN)
        sync(two, one, two)
    else:
        sync(one, two, code=4)
        two.write(RENAME_COLUMN)
        two.ok("migrate")
    assert two.letters() == []
    assert one.stand() == two.stand()
    assert one.stand()["author"] == [("a1", "Ada L"), ("a2", "Bo B"), ("a3", "Cy")]


@pytest.mark.parametrize("there_first", [True, False])
def test_a_table_renamed_before_its_writes_are_sealed(pair: tuple[Shop, Shop], there_first: bool) -> None:
    one, two = pair
    one.write("UPDATE author SET name = 'Ada L' WHERE id = 'a1';")
    sync(one, two)
    one.write(RENAME_TABLE)
    one.write("INSERT INTO writer VALUES ('a3', 'Cy'); UPDATE writer SET name = 'Ada M' WHERE id = 'a1';")
    one.write("DELETE FROM book WHERE id = 'b2'; DELETE FROM writer WHERE id = 'a2';")
    if there_first:
        two.write(RENAME_TABLE)
        sync(two, one, two)
    else:
        sync(one, two, code=4)
        two.write(RENAME_TABLE)
        two.ok("migrate")
    assert one.letters() == two.letters() == []
    assert one.stand() == two.stand()
    assert one.stand()["writer"] == [("a1", "Ada M"), ("a3", "Cy")]
    # What was known of the rows goes on under the new name: the next write builds on it, and is no conflict.
    two.write("UPDATE writer SET name = 'Ada N' WHERE id = 'a1';")
    sync(two, one)
    assert one.stand() == two.stand()
    assert one.query("SELECT count(*) FROM rf_conflict") == [(0,)]


def test_a_row_merged_of_two_shapes_ends_the_same_on_both_nodes(pair: tuple[Shop, Shop]) -> None:
    """One writes a new column, the other, which has not got it yet, writes the same row later."""
    one, two = pair
    two.write("ALTER TABLE book ADD COLUMN note varchar(9) NULL;")
    two.ok("migrate")
    two.write("UPDATE book SET note = 'mine' WHERE id = 'b1';")
    two.ok("run", "--once")
    one.write("UPDATE book SET title = 'First' WHERE id = 'b1'; UPDATE book SET title = 'Second' WHERE id = 'b2';")
    one.ok("run", "--once", code=4)
    sync(two, one, code=4)
    one.write("ALTER TABLE book ADD COLUMN note varchar(9) NULL;")
    sync(one, two, one, two)
    assert one.letters() == two.letters() == []
    assert one.stand() == two.stand()
    assert one.stand()["book"] == [("b1", "First", "a1", "mine"), ("b2", "Second", "a2", None)]
    # Where the column holds what it holds by itself there was nothing to send: b2 went one way alone.
    assert two.query("SELECT count(*) FROM rf_change_log") == [(2,)]
    assert two.query("SELECT count(*) FROM rf_conflict") == one.query("SELECT count(*) FROM rf_conflict")


def test_a_column_that_each_node_fills_by_itself(pair: tuple[Shop, Shop]) -> None:
    """NOT NULL, without a default that the database knows of, while both nodes write."""
    one, two = pair
    rebuild = (
        "BEGIN; CREATE TABLE new__book (id varchar(9) NOT NULL PRIMARY KEY, title varchar(50) NOT NULL,"
        " author_id varchar(9) NOT NULL REFERENCES author (id) DEFERRABLE INITIALLY DEFERRED, stock integer NOT NULL);"
        "INSERT INTO new__book SELECT id, title, author_id, {} FROM book; DROP TABLE book;"
        "ALTER TABLE new__book RENAME TO book; COMMIT;"
    )
    two.write(rebuild.format("7"))
    two.write("INSERT INTO book VALUES ('b3', 'Three', 'a1', 3); UPDATE book SET title = 'Two!' WHERE id = 'b2';")
    one.write("INSERT INTO book VALUES ('b4', 'Four', 'a2'); UPDATE book SET title = 'One!' WHERE id = 'b1';")
    one.ok("run", "--once")
    two.ok("run", "--once", code=4)
    assert two.letters() == [("constraint", "early")]
    one.write(rebuild.format("8"))
    one.write("INSERT INTO book VALUES ('b5', 'Five', 'a2', 5);")
    for node in (one, two, one, two, one):
        node.call("run", "--once")
    wait_for(lambda: not two.report("run", "--once")["set_aside"] and two.letters() == [], 30, "b4 to be taken")
    one.ok("run", "--once")
    assert one.letters() == []
    assert one.stand() == two.stand()
    titles = {row[0]: row[1] for row in one.stand()["book"]}
    assert titles == {"b1": "One!", "b2": "Two!", "b3": "Three", "b4": "Four", "b5": "Five"}


@pytest.mark.parametrize(
    ("migration", "write", "standing"),
    [
        (RENAME_COLUMN, "UPDATE author SET name = 'Ada L' WHERE id = 'a1';", ("a1", "Ada L")),
        (RENAME_TABLE, "INSERT INTO author VALUES ('a3', 'Cy'); DELETE FROM author WHERE id = 'a2';", ("a3", "Cy")),
    ],
)
def test_what_came_under_a_name_that_is_gone_comes_again_once_its_node_has_renamed_too(
    pair: tuple[Shop, Shop], migration: str, write: str, standing: tuple[str, str]
) -> None:
    one, two = pair
    one.write("DELETE FROM book WHERE id = 'b2';")
    sync(one, two)
    two.write(migration)
    two.ok("run", "--once")
    one.write(write)
    sync(one, two, code=4)
    assert two.letters() != []
    one.write(migration)
    one.write("INSERT INTO book VALUES ('b3', 'Three', 'a1');")
    sync(one, two, one)
    assert one.stand() == two.stand()
    assert standing in (one.stand().get("writer") or one.stand()["author"])
    # The letter itself can't be applied any more; nothing of it is missing.
    assert [state for _, state in two.letters()] == ["dead"]
