"""A main node that serves HTTP, and branches that know nothing but its address."""

from __future__ import annotations

import re
from pathlib import Path

from tests.support.nodes import CliNode, Running, sqlite_database
from tests.support.waiting import wait_for

SCHEMA = [
    "CREATE TABLE store (id TEXT PRIMARY KEY, name TEXT)",
    "CREATE TABLE sale (id TEXT PRIMARY KEY, store TEXT REFERENCES store(id), amount NUMERIC)",
]
TABLES = ["store", "sale"]
URL = re.compile(r"http://127\.0\.0\.1:(\d+)")


class Fleet:
    """A main node that serves, and branches that know nothing but its address."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.main = self._node("main", "--role", "main")
        self._without_folder(self.main, "[server]\nport = 0\n")
        self.main.ok("migrate")
        self.server: Running | None = None
        self.port = 0
        self.branches: list[CliNode] = []

    def serve(self) -> None:
        """Start `rowferry serve`; at the same port when it was up before."""
        running = self.main.start("--port", str(self.port), command="serve")
        wait_for(lambda: URL.search(running.tail()) is not None, 60, "serve to listen")
        found = URL.search(running.tail())
        assert found is not None
        self.server, self.port = running, int(found.group(1))

    def branch(self, name: str) -> CliNode:
        node = self._node(name)
        token = self.main.report("token", "create", "--node", name)["token"]
        file = node.folder / "main.token"
        file.write_text(token)
        file.chmod(0o600)
        peer = f'[peers.main]\nurl = "http://127.0.0.1:{self.port}"\ntoken_file = "main.token"\n'
        self._without_folder(node, peer)
        node.ok("migrate")
        self.branches.append(node)
        return node

    def close(self) -> None:
        for node in (self.main, *self.branches):
            node.close()

    def _node(self, name: str, *options: str) -> CliNode:
        folder = self.folder / name
        folder.mkdir()
        return CliNode.init(name, folder, sqlite_database(folder, "app.db", SCHEMA), *options)

    @staticmethod
    def _without_folder(node: CliNode, sections: str) -> None:
        config = node.folder / "rowferry.toml"
        text = config.read_text()
        config.write_text(text.replace("[directory]\npath", "[directory_of_nobody]\n# path") + sections)
        lines = [line for line in config.read_text().splitlines() if line != "[directory_of_nobody]"]
        config.write_text("\n".join(lines) + "\n")


def insert(node: CliNode, name: str, count: int = 1) -> None:
    node.execute(
        f"INSERT INTO store VALUES ('{name}', 'of {node.node_id}')",
        *(f"INSERT INTO sale VALUES ('{name}-{number}', '{name}', {number}.5)" for number in range(count)),
    )


def same(*nodes: CliNode) -> bool:
    first = nodes[0].rows(TABLES)
    return all(node.rows(TABLES) == first for node in nodes[1:])


def wait_until_same(fleet: Fleet, rows: int, timeout_seconds: float = 120) -> None:
    nodes = (fleet.main, *fleet.branches)

    def settled() -> bool:
        return same(*nodes) and len(fleet.main.rows(TABLES)["store"]) == rows

    try:
        wait_for(settled, timeout_seconds, "all nodes to hold the same rows")
    except TimeoutError as error:
        for node in nodes:
            error.add_note(f"--- {node.node_id}: {node.rows(TABLES)['store']}")
            for running in node.runs[-1:]:
                error.add_note(running.tail())
        raise
