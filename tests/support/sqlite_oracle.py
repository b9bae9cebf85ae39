"""Random SQL against one SQLite database, and the truth about it: what a table holds, class by class, byte by byte."""

from __future__ import annotations

import random
import sqlite3
from dataclasses import dataclass

APPLICATION_TRIGGERS = (
    "CREATE TRIGGER touch_plain AFTER INSERT ON plain BEGIN UPDATE plain SET stamp = stamp + 1 WHERE id = NEW.id; END",
    "CREATE TRIGGER again_plain AFTER UPDATE OF a ON plain BEGIN"
    " UPDATE plain SET stamp = coalesce(stamp, 0) + 1 WHERE id = NEW.id; END",
    "CREATE TRIGGER spill AFTER INSERT ON texts WHEN NEW.v = 3 BEGIN DELETE FROM texts WHERE k = NEW.k; END",
    "CREATE TRIGGER once_more AFTER INSERT ON pairs WHEN NEW.a = 2 BEGIN"
    " INSERT OR IGNORE INTO pairs VALUES (NEW.a, NEW.b, 'again'); END",
    "CREATE TRIGGER drop_fresh AFTER INSERT ON plain WHEN NEW.a = 4 BEGIN DELETE FROM plain WHERE id = NEW.id; END",
    "CREATE TRIGGER other AFTER DELETE ON child BEGIN INSERT OR REPLACE INTO texts VALUES ('c' || OLD.id, OLD.id); END",
    "CREATE TRIGGER early BEFORE INSERT ON coll BEGIN DELETE FROM coll WHERE v = NEW.v; END",
)
SCHEMA = (
    "CREATE TABLE plain (id INTEGER PRIMARY KEY, a, b INTEGER UNIQUE, c TEXT, stamp INTEGER)",
    "CREATE UNIQUE INDEX plain_c ON plain (lower(c)) WHERE a > 1",
    "CREATE TABLE counted (id INTEGER PRIMARY KEY AUTOINCREMENT, u TEXT COLLATE NOCASE UNIQUE, v REAL)",
    "CREATE TABLE texts (k TEXT PRIMARY KEY, v INTEGER NOT NULL DEFAULT 1 UNIQUE)",
    "CREATE TABLE pairs (a INTEGER, b, v TEXT, PRIMARY KEY (a, b)) WITHOUT ROWID",
    "CREATE TABLE coll (k TEXT COLLATE NOCASE PRIMARY KEY NOT NULL, v, g TEXT AS (upper(v)) UNIQUE)",
    "CREATE TABLE any_key (k PRIMARY KEY NOT NULL, v ANY, u UNIQUE ON CONFLICT REPLACE)",
    "CREATE TABLE strict_one (k INT PRIMARY KEY, v ANY, t TEXT, UNIQUE (v, t)) STRICT",
    "CREATE TABLE parent (id INTEGER PRIMARY KEY, u INTEGER UNIQUE)",
    "CREATE TABLE child (id INTEGER PRIMARY KEY, p INTEGER REFERENCES parent (id) ON DELETE CASCADE ON UPDATE CASCADE,"
    " q INTEGER REFERENCES parent (u) ON DELETE SET NULL ON UPDATE CASCADE,"
    " r INTEGER REFERENCES child (id) ON DELETE CASCADE)",
)
COLUMNS = {
    "plain": ("id", "a", "b", "c", "stamp"),
    "counted": ("id", "u", "v"),
    "texts": ("k", "v"),
    "pairs": ("a", "b", "v"),
    "coll": ("k", "v"),
    "any_key": ("k", "v", "u"),
    "strict_one": ("k", "v", "t"),
    "parent": ("id", "u"),
    "child": ("id", "p", "q", "r"),
}
_NUMBERS = ("0", "1", "2", "3", "4", "5", "NULL")
_ANYTHING = (*_NUMBERS, "'a'", "'A'", "'b'", "'3'", "1.0", "2.5", "-0.0", "0.0", "x'61'", "''", "CAST(x'ff61' AS TEXT)")
_TEXTS = ("'a'", "'A'", "'b'", "'B'", "'c'", "''", "NULL")


@dataclass
class RandomSql:
    """An application with no manners: REPLACE, UPSERT, IGNORE, key changes, cascades."""

    chance: random.Random

    def statement(self) -> str:
        table = self.chance.choice(list(COLUMNS))
        kind = self.chance.random()
        if kind < 0.5:
            return self._insert(table)
        return self._update(table) if kind < 0.85 else self._delete(table)

    def _value(self, table: str, column: str) -> str:
        if table == "strict_one" and column == "t":
            return self.chance.choice(_TEXTS)
        if (table, column) in (("plain", "c"), ("counted", "u"), ("texts", "k"), ("coll", "k")):
            return self.chance.choice(_TEXTS if self.chance.random() < 0.8 else _ANYTHING)
        if (table, column) in (("plain", "a"), ("pairs", "b"), ("any_key", "k"), ("strict_one", "v"), ("coll", "v")):
            return self.chance.choice(_ANYTHING)
        if table == "any_key":
            return self.chance.choice(_ANYTHING)
        return self.chance.choice(_NUMBERS)

    def _insert(self, table: str) -> str:
        verb = self.chance.choice(("INSERT", "INSERT OR REPLACE", "REPLACE", "INSERT OR IGNORE", "INSERT"))
        names = [name for name in COLUMNS[table] if self.chance.random() < 0.85] or [COLUMNS[table][0]]
        rows = [
            "(" + ", ".join(self._value(table, name) for name in names) + ")"
            for _ in range(self.chance.choice((1, 1, 2, 3)))
        ]
        upsert = ""
        if verb == "INSERT" and self.chance.random() < 0.4:
            column = self.chance.choice(COLUMNS[table])
            upsert = f" ON CONFLICT DO UPDATE SET {column} = {self._value(table, column)}"
        return f"{verb} INTO {table} ({', '.join(names)}) VALUES {', '.join(rows)}{upsert}"

    def _update(self, table: str) -> str:
        verb = self.chance.choice(("UPDATE", "UPDATE OR REPLACE", "UPDATE OR IGNORE", "UPDATE"))
        columns = self.chance.sample(COLUMNS[table], self.chance.choice((1, 1, 2)))
        assigned = ", ".join(f"{name} = {self._value(table, name)}" for name in columns)
        return f"{verb} {table} SET {assigned}{self._where(table)}"

    def _delete(self, table: str) -> str:
        return f"DELETE FROM {table}{self._where(table)}"

    def _where(self, table: str) -> str:
        if self.chance.random() < 0.15:
            return ""
        column = self.chance.choice(COLUMNS[table])
        return f" WHERE {column} = {self._value(table, column)}"


def run_transaction(connection: sqlite3.Connection, sql: RandomSql, statements: int) -> None:
    """Run statements as one transaction; what SQLite refuses is skipped, and now and then all of it is taken back."""
    connection.execute("BEGIN")
    for _ in range(statements):
        try:
            connection.execute(sql.statement())
        except sqlite3.Error as error:
            # A REPLACE outside turns an IGNORE inside a trigger into a REPLACE: the application's own endless loop.
            if not isinstance(error, sqlite3.IntegrityError) and "recursion" not in str(error):
                raise
    try:
        connection.execute("ROLLBACK" if sql.chance.random() < 0.05 else "COMMIT")
    except sqlite3.IntegrityError:
        connection.execute("ROLLBACK")


def dump(connection: sqlite3.Connection, key: dict[str, tuple[str, ...]]) -> dict[str, list[tuple[object, ...]]]:
    """Return what each table holds: class and bytes of each value; rows with NULL in their key are left out."""
    found = {}
    for table, columns in COLUMNS.items():
        shown = ", ".join(f"typeof({name}), hex({name}), quote({name})" for name in columns)
        named = " AND ".join(f"{name} IS NOT NULL" for name in key[table])
        rows = connection.execute(f"SELECT {shown} FROM {table} WHERE {named}").fetchall()
        found[table] = sorted(rows)
    return found
