"""Unique indexes: which values can displace a row. Expressions are cut out of the index's own SQL."""

import re
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass

from common.dialects.sqlite.names import quote

TOKEN = re.compile(
    r"""--[^\n]*|/\*.*?(?:\*/|\Z)|'(?:[^']|'')*'|"(?:[^"]|"")*"|`(?:[^`]|``)*`|\[[^\]]*\]|\w+|\s+|.""", re.DOTALL
)
_TAIL = re.compile(r"(\s+COLLATE\s+(\w+|\"(?:[^\"]|\"\")*\"|'[^']*'|`[^`]*`|\[[^\]]*\]))?(\s+(ASC|DESC))?\s*\Z", re.I)


@dataclass(frozen=True, slots=True)
class IndexPart:
    """One column or expression of an index."""

    column: str | None
    """None for an expression."""
    sql: str
    """As it is written where the table's columns are in reach."""
    collation: str


@dataclass(frozen=True, slots=True)
class UniqueIndex:
    """What must not be there twice."""

    parts: tuple[IndexPart, ...]
    where: str | None
    """A partial index: it holds for these rows only."""
    is_key: bool
    """The primary key's own."""
    name: str = ""

    @property
    def columns(self) -> tuple[str, ...] | None:
        """Its columns, where it is a plain key of the whole table."""
        names = tuple(part.column for part in self.parts if part.column is not None)
        return names if len(names) == len(self.parts) and self.where is None else None


def unique_indexes(connection: sqlite3.Connection, table: str) -> list[UniqueIndex]:
    """Return the unique indexes of `table`, the primary key's among them where it has one (a rowid alias has none)."""
    found = []
    for _, name, unique, origin, partial in connection.execute(f"PRAGMA main.index_list({quote(table)})").fetchall():
        if unique:
            found.append(_read(connection, name, is_key=origin == "pk", partial=bool(partial)))
    return found


def _read(connection: sqlite3.Connection, name: str, *, is_key: bool, partial: bool) -> UniqueIndex:
    rows = connection.execute(f"PRAGMA main.index_xinfo({quote(name)})").fetchall()
    keys = [(column, collation) for _, cid, column, _, collation, key in rows if key]
    expressions: list[str] = []
    where = None
    if partial or any(column is None for column, _ in keys):
        query = "SELECT sql FROM main.sqlite_master WHERE type = 'index' AND name = ?"
        expressions, where = index_terms(connection.execute(query, (name,)).fetchone()[0])
    parts = tuple(
        IndexPart(column, f"({expressions[place]})" if column is None else quote(column), collation)
        for place, (column, collation) in enumerate(keys)
    )
    return UniqueIndex(parts, where, is_key, name)


def index_terms(sql: str) -> tuple[list[str], str | None]:
    """Return the terms of a CREATE INDEX statement without collation and order, and its WHERE."""
    tokens = [token for token in TOKEN.findall(sql) if not token.startswith(("--", "/*"))]
    start = next(place for place, token in enumerate(tokens) if token == "(")
    terms: list[list[str]] = [[]]
    depth = 0
    for place, token in _from(tokens, start):
        depth += (token == "(") - (token == ")")
        if depth == 0:
            return [_bare("".join(term)) for term in terms], _where(tokens[place + 1 :])
        if depth == 1 and token == ",":
            terms.append([])
        elif not (depth == 1 and token == "("):
            terms[-1].append(token)
    raise ValueError(f"can't read the index {sql!r}")


def _from(tokens: list[str], start: int) -> Iterator[tuple[int, str]]:
    return ((place, tokens[place]) for place in range(start, len(tokens)))


def _bare(term: str) -> str:
    return _TAIL.sub("", term).strip()


def _where(tokens: list[str]) -> str | None:
    text = "".join(tokens).strip()
    return text[len("where") :].strip() if text[:5].lower() == "where" else None
