"""`rowferry demo`: three SQLite nodes, no servers: seed, sync, conflict, dead letter and replay, verify."""

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import sqlalchemy as sa

from common.cli.demo_nodes import DemoError, DemoNode, differing
from common.cli.options import command_line
from common.console import Console
from common.errors import UsageError
from common.ops.trial_schema import TABLES
from common.runtime.host import ExitCode, current_host
from common.schema import tables as rf

NAMES = ("main", "store-1", "store-2")
_PRODUCT = "main-00000001"
_MOST_ROUNDS = 4
_NEW_COLUMN = "ALTER TABLE product ADD COLUMN shelf TEXT"
_CONFLICT = ("node", "table", "ours", "from", "theirs", "winner", "rule")
_LETTER = ("node", "source_node", "reason", "state", "tx_id")


@click.command(short_help="Show everything with three SQLite nodes.")
@click.option("--keep", metavar="DIR", help="Keep the three nodes in this new folder, to look at and try out.")
def demo(keep: str | None) -> None:
    """Show everything in one run: three SQLite nodes on this machine exchange batches through a folder.

    Exit code 1 if the nodes differ at the end."""
    host = current_host()
    # Each command of the story has a log of its own.
    command_line(click.get_current_context()).stop_logging()
    with _folder(keep) as folder:
        story = _Story(host.console, tuple(DemoNode(name, folder) for name in NAMES))
        story.tell()
        differences = differing(story.nodes, TABLES)
        if differences:
            host.exit_code = ExitCode.FAILED
        host.emit(story.document(differences), lambda console: _tell_end(console, differences, keep))


class _Story:
    """The steps, in order; each says what happens, does it, and shows what came of it."""

    def __init__(self, console: Console, nodes: tuple[DemoNode, ...]) -> None:
        self._console = console
        self.nodes = nodes
        self._main, self._store_1, self._store_2 = nodes
        self._runs = 0
        self._conflicts: list[dict[str, Any]] = []
        self._dead_letters: list[dict[str, Any]] = []

    def tell(self) -> None:
        self._set_up()
        self._first_sync()
        self._conflict()
        self._dead_letter()
        self._replay()

    def document(self, differences: list[str]) -> dict[str, Any]:
        """Return what `--json` prints."""
        return {
            "nodes": [node.name for node in self.nodes],
            "rows": {table: len(self._main.rows(table)) for table in TABLES},
            "runs": self._runs,
            "conflicts": self._conflicts,
            "dead_letters": self._dead_letters,
            "differences": differences,
            "equal": not differences,
        }

    def _set_up(self) -> None:
        self._step("Three nodes: main, store-1 and store-2. Each is one SQLite file; they share only a folder.")
        for node in self.nodes:
            role = "main" if node is self._main else "branch"
            database = f"sqlite:///{node.name}.db"
            self._do(node, "init", "--node", node.name, "--role", role, "--database", database)
            self._do(node, "migrate")
        for node, sales in zip(self.nodes, ("60", "30", "20"), strict=True):
            self._do(node, "seed", "--rows", sales)
        self._count("Before the first sync, each node has only its own rows:")

    def _first_sync(self) -> None:
        self._step("Sync: each node writes its changes to the folder and applies what the others wrote.")
        self._sync(*self.nodes)
        self._count("Now every node has all rows:")

    def _conflict(self) -> None:
        self._step("A conflict: both stores change the price of the same product before they sync.")
        self._price(self._store_1, "11.11")
        self._price(self._store_2, "22.22")
        self._sync(self._store_1, self._store_2)
        self._conflicts = [conflict for node in self.nodes for conflict in self._conflicts_of(node)]
        if not self._conflicts:
            raise DemoError("two stores wrote the same row, and no node recorded a conflict")
        self._table("Recorded on every node, with both images", _CONFLICT, self._conflicts)
        self._say(
            f"The later write wins on every node: {self._price_on(self._main)}. The rule is lww, last writer wins:"
        )
        self._say("the clock decides, but a write made after seeing another always beats it (docs/DB_SYNC_POLICY.md).")

    def _dead_letter(self) -> None:
        self._step("A dead letter: store-1 gets a new column that the others don't have, and uses it.")
        self._write(self._store_1, _NEW_COLUMN)
        self._do(self._store_1, "migrate")
        self._write(self._store_1, "UPDATE product SET shelf = 'A 7' WHERE id = :id", id=_PRODUCT)
        for node in (self._store_1, self._main, self._store_2):
            self._run(node)
        for node in (self._main, self._store_2):
            letters = self._do(node, "dlq", "list")
            self._dead_letters += [{"node": node.name, **letter} for letter in letters]
        if not self._dead_letters:
            raise DemoError("no node set the batch with the unknown column aside")
        self._table("Set aside whole, with the reason", _LETTER, self._dead_letters)
        self._say("Nothing is lost, and later changes do not wait for it.")

    def _replay(self) -> None:
        self._step("Fix and replay: main and store-2 get the column, and the dead letters are applied.")
        self._write(self._main, _NEW_COLUMN)
        self._do(self._main, "migrate")
        self._say("migrate saw the new column, and replayed by itself what had failed without it.")
        self._write(self._store_2, _NEW_COLUMN)
        self._do(self._store_2, "dlq", "replay", "--all")
        self._say("The same, done by hand. Capture picks up the new column at the next run:")
        self._run(self._store_2)
        for node in (self._main, self._store_2):
            if self._do(node, "dlq", "list"):
                raise DemoError(f"{node.name} still has a dead letter after its cause was fixed")
        self._sync()

    def _sync(self, *writers: DemoNode) -> None:
        """Run the nodes in turn until they are equal, those with news first."""
        turn = [*writers, *(node for node in self.nodes if node not in writers)]
        for node in turn * _MOST_ROUNDS:
            if not differing(self.nodes, TABLES):
                return
            self._run(node)

    def _run(self, node: DemoNode) -> None:
        self._runs += 1
        self._do(node, "run", "--once", expect=(ExitCode.DONE, ExitCode.SET_ASIDE))

    def _price(self, node: DemoNode, price: str) -> None:
        self._write(node, "UPDATE product SET price = :price WHERE id = :id", price=price, id=_PRODUCT)

    def _write(self, node: DemoNode, sql: str, **values: str) -> None:
        """Do what the node's application does; it knows nothing of Rowferry."""
        node.write(sql, **values)
        for name, value in values.items():
            sql = sql.replace(f":{name}", f"'{value}'")
        self._console.say(f"  on {node.name}: {sql}")

    def _price_on(self, node: DemoNode) -> Any:
        query = sa.text("SELECT price FROM product WHERE id = :id").bindparams(id=_PRODUCT)
        return node.read(sa.select(query.columns(sa.column("price")).subquery()))[0][0]

    def _conflicts_of(self, node: DemoNode) -> list[dict[str, Any]]:
        one = rf.conflict.c
        query = sa.select(one.table_name, one.our_image, one.source_node, one.their_image, one.winner, one.rule)
        return [
            {
                "node": node.name,
                "table": table,
                "ours": json.loads(ours)["price"],
                "from": source,
                "theirs": json.loads(theirs)["price"],
                "winner": winner,
                "rule": rule,
            }
            for table, ours, source, theirs, winner, rule in node.read(query.order_by(one.id))
        ]

    def _do(self, node: DemoNode, *arguments: str, expect: tuple[int, ...] = (ExitCode.DONE,)) -> Any:
        self._console.say(f"  $ rowferry --config {node.config.name} {' '.join(arguments)}", style="cyan")
        return node.rowferry(*arguments, expect=expect)

    def _step(self, text: str) -> None:
        self._console.say()
        self._console.say(text, style="bold")

    def _say(self, text: str) -> None:
        self._console.say(text)

    def _count(self, title: str) -> None:
        counts = [{"node": node.name} | {table: len(node.rows(table)) for table in TABLES} for node in self.nodes]
        self._table(title, ("node", *TABLES), counts)

    def _table(self, title: str, columns: tuple[str, ...], rows: Sequence[Mapping[str, Any]]) -> None:
        if not self._console.json:
            self._console.table(title, columns, [[row[column] for column in columns] for row in rows])


@contextmanager
def _folder(keep: str | None) -> Iterator[Path]:
    if keep is None:
        with tempfile.TemporaryDirectory(prefix="rowferry-demo-") as name:
            yield Path(name)
        return
    folder = Path(keep)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"--keep: {folder} exists and is not an empty folder; name a new one")
    folder.mkdir(parents=True, exist_ok=True)
    yield folder.resolve()


def _tell_end(console: Console, differences: list[str], keep: str | None) -> None:
    console.say()
    if differences:
        console.error(f"The nodes differ: {'; '.join(differences)}")
        return
    console.say("Verified: all tables are equal on all three nodes, row for row.", style="bold green")
    console.say("Next steps:")
    if keep:
        console.say(f"  rowferry --config {Path(keep) / 'main.toml'} status")
    else:
        console.say("  rowferry demo --keep DIR     the same, but the nodes are kept for you to look at")
    console.say("  rowferry init --node ID --database URL     your own first node")
