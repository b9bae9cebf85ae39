"""The nodes of the demo: three SQLite files in one folder, driven by the very commands that a person would type."""

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import sqlalchemy as sa

from common.cli.entry import INTERRUPTED
from common.errors import RowferryError
from common.runtime.host import ExitCode

Rows = list[tuple[Any, ...]]


class DemoError(RowferryError):
    """A step of the demo did not end as it should."""


@dataclass(frozen=True, slots=True)
class DemoNode:
    """One database with its configuration."""

    name: str
    folder: Path

    @property
    def config(self) -> Path:
        return self.folder / f"{self.name}.toml"

    def rowferry(self, *arguments: str, expect: tuple[int, ...] = (ExitCode.DONE,)) -> Any:
        """Run one command of this program on the node; return its JSON document, None where it prints none.

        Raises DemoError when the exit code is another than expected; Ctrl-C ends the demo as it ends a command."""
        program = click.get_current_context().find_root().command
        line = ["--config", str(self.config), "--log-level", "error", "--json", *arguments]
        printed = io.StringIO()
        with redirect_stdout(printed):
            code = program.main(line, prog_name="rowferry", standalone_mode=False)
        if code == INTERRUPTED:
            raise KeyboardInterrupt
        if code not in expect:
            raise DemoError(f"rowferry {' '.join(line)}: exit code {code}, expected {expect[0]}")
        text = printed.getvalue()
        return json.loads(text) if text.strip() else None

    def write(self, sql: str, **values: object) -> None:
        """Do what an application does: one plain statement, committed. It knows nothing of Rowferry."""
        with self._engine() as engine, engine.begin() as connection:
            connection.execute(sa.text(sql), values)

    def read(self, query: sa.Select[Any]) -> Rows:
        with self._engine() as engine, engine.connect() as connection:
            return [tuple(row) for row in connection.execute(query)]

    def rows(self, table: str) -> Rows:
        """Return every row of a table, by its first column."""
        return self.read(sa.select(sa.text("*")).select_from(sa.text(table)).order_by(sa.text("1")))

    @contextmanager
    def _engine(self) -> Iterator[sa.Engine]:
        engine = sa.create_engine(f"sqlite:///{self.folder / self.name}.db")
        try:
            yield engine
        finally:
            engine.dispose()


def differing(nodes: tuple[DemoNode, ...], tables: tuple[str, ...]) -> list[str]:
    """Compare row for row; return `table: node against node` for every difference."""
    first, *others = nodes
    found = []
    for table in tables:
        expected = first.rows(table)
        found += [f"{table}: {node.name} against {first.name}" for node in others if node.rows(table) != expected]
    return found
