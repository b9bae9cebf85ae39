"""Two nodes that compare themselves: a main node that is served, a branch that knows it, and rows changed past both."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from common.http.scopes import Scope
from tests.support.cli import document, ok
from tests.support.nodes import CliNode
from tests.support.web import Served, served

DDL = (
    "CREATE TABLE parent (id integer PRIMARY KEY, name text)",
    "CREATE TABLE item (id integer PRIMARY KEY, parent_id integer REFERENCES parent (id), name text,"
    " price numeric(9, 2))",
    "CREATE TABLE code (id integer PRIMARY KEY, code text NOT NULL UNIQUE)",
)


@dataclass
class Pair:
    """A main node that is served, and a branch that knows it."""

    main: Served
    branch: CliNode

    def sync(self) -> None:
        for _ in range(2):
            ok(self.branch, "run", "--once")

    def report(self, *arguments: str, code: int = 0) -> Any:
        return document(self.branch.folder / "rowferry.toml", "verify", *arguments, code=code)

    def verify(self, *arguments: str, code: int = 0) -> Any:
        return self.report("main", "--wait", "0", *arguments, code=code)

    def damage_main(self, *statements: str) -> None:
        damage(self.main.world.node.config.node.database, *statements)

    def damage_branch(self, *statements: str) -> None:
        damage(self.branch.database, *statements)

    def token(self, *scopes: Scope) -> None:
        file = self.branch.folder / "main.token"
        file.write_text(self.main.token(self.branch.node_id, *scopes))
        file.chmod(0o600)


def damage(url: str, *statements: str) -> None:
    """Write with no trigger seeing it."""
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as raw, raw:
            made = raw.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
            for name, _ in made:
                raw.execute(f'DROP TRIGGER "{name}"')
            for statement in statements:
                raw.execute(statement)
            for _, sql in made:
                raw.execute(sql)
        return
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        connection.exec_driver_sql("SET LOCAL session_replication_role = replica")
        for statement in statements:
            connection.exec_driver_sql(statement)
    engine.dispose()


@contextmanager
def made_pair(
    folder: Path,
    main_url: str,
    shop_url: str,
    ddl: tuple[str, ...] = DDL,
    shop_ddl: tuple[str, ...] | None = None,
    **sections: Any,
) -> Iterator[Pair]:
    application(shop_url, *(shop_ddl or ddl))
    node = {"id": "main", "database": main_url, "role": "main"}
    with served(main_url, schema=ddl, node=node, **sections) as main:
        yield pair_with(main, "shop", folder, shop_url)


def pair_with(main: Served, name: str, folder: Path, url: str) -> Pair:
    """Make a branch of `main` on a database that has its tables already."""
    branch = CliNode(name, folder / name, url)
    branch.folder.mkdir()
    ok(branch, "init", "--node", name, "--database", url, "--directory", str(folder / "unused"))
    config = branch.folder / "rowferry.toml"
    lines = [line for line in config.read_text().splitlines() if not line.startswith(("[directory]", "path ="))]
    peer = f'\n[peers.main]\nurl = "{main.url}"\ntoken_file = "main.token"\n'
    config.write_text("\n".join(lines) + peer)
    pair = Pair(main, branch)
    pair.token(Scope.PUSH, Scope.PULL)
    ok(branch, "migrate")
    return pair


def application(url: str, *statements: str) -> None:
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)
    engine.dispose()


def seed(pair: Pair) -> None:
    pair.main.world.execute(
        "INSERT INTO parent VALUES (1, 'one'), (2, 'two')",
        "INSERT INTO item VALUES (1, 1, 'tea', 1.50), (2, 1, 'ä', 2), (3, NULL, NULL, NULL), (4, 2, 'gone', 9.99)",
        "INSERT INTO code VALUES (1, 'a')",
    )
    pair.branch.execute("INSERT INTO item VALUES (11, NULL, 'from the shop', 0.10)", "INSERT INTO code VALUES (2, 'b')")
    pair.sync()
    pair.main.world.execute("DELETE FROM item WHERE id = 4")
    pair.branch.execute("UPDATE item SET price = 3.00 WHERE id = 2")
    pair.sync()


def rows(report: Any) -> list[tuple[Any, ...]]:
    return [(one["table"], one["pk"]["id"], one["kind"], one["state"]) for one in report["rows"]]
