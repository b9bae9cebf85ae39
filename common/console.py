"""How commands talk: tables and sentences for people, one JSON document for programs, progress bars on a terminal."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, TextIO

from rich.console import Console as RichConsole
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress
from rich.table import Table

from common.visible import visible

_WIDEST = 10_000
_WHOLE = frozenset({"tx_id", "id"})
"""Columns that are never broken, however narrow the terminal is."""


def counted(count: int, one: str, many: str) -> str:
    """Return `count` with its noun: 1 batch, 2 batches."""
    return f"{count} {one if count == 1 else many}"


def size(count: int) -> str:
    """Return a number of bytes as people read it: 340 B, 12 KiB, 3.4 GiB."""
    amount = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if amount >= 10 or unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"


def set_in(text: str, by: int = 4) -> str:
    """Return `text` with its further lines set in: else a name could make them look like lines of ours."""
    return text.replace("\n", "\n" + " " * by)


class Progress(Protocol):
    """A progress bar, or nothing."""

    def advance(self, amount: int = 1) -> None: ...


class _Silent:
    def advance(self, amount: int = 1) -> None:
        """Nobody watches."""


class _Bar:
    def __init__(self, bar: RichProgress, label: str, total: int | None) -> None:
        self._bar = bar
        self._task = bar.add_task(_safe(label), total=total)

    def advance(self, amount: int = 1) -> None:
        self._bar.advance(self._task, amount)


def listed(names: Sequence[str], most: int = 10) -> str:
    """Return names for a sentence, of very many the first: of a thousand nobody reads the second."""
    shown, rest = ", ".join(names[:most]), len(names) - most
    return shown if rest <= 0 else f"{shown} and {rest} more"


class Console:
    """Stdout for results, stderr for progress and errors. What it is given may be anybody's text: none of it commands
    the terminal."""

    def __init__(self, *, json: bool = False, out: TextIO | None = None, err: TextIO | None = None) -> None:
        self.json = json
        self._out = RichConsole(file=out, highlight=False, soft_wrap=True)
        if not self._out.is_terminal:
            # Nobody reads a pipe by its width: one row, one line, for grep and its friends.
            self._out.width = _WIDEST
        self._err = RichConsole(file=err, stderr=err is None, highlight=False, soft_wrap=True)

    def say(self, text: str = "", style: str | None = None) -> None:
        """Print one line for a person; with `--json` nothing, so that stdout holds the document alone."""
        if not self.json:
            self._out.print(_safe(text), style=style)

    def field(self, name: str, value: object) -> None:
        """Say one of what a thing has."""
        self.say(set_in(f"{name}: {value}"))

    def warn(self, text: str) -> None:
        """Print one line on stderr."""
        self._err.print(_safe(text), style="yellow")

    def error(self, text: str) -> None:
        """Print an error on stderr."""
        self._err.print(_safe(text), style="bold red")

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Print a table for a person."""
        table = Table(title=_safe(title) if title else None, title_justify="left", header_style="bold")
        for column in columns:
            # An id that is cut in two can't be copied.
            table.add_column(_safe(column), overflow="fold", no_wrap=column in _WHOLE)
        for row in rows:
            table.add_row(*("" if cell is None else _safe(str(cell)) for cell in row))
        self._out.print(table)

    def print_json(self, document: Any) -> None:
        """Print one JSON document."""
        is_unicode = self._out.encoding.lower().startswith("utf")
        self._out.file.write(visible(json.dumps(document, ensure_ascii=not is_unicode, indent=2)) + "\n")
        self._out.file.flush()

    def print_json_line(self, document: Any) -> None:
        """Print one JSON document on one line, for programs that read line by line."""
        is_unicode = self._out.encoding.lower().startswith("utf")
        self._out.file.write(visible(json.dumps(document, ensure_ascii=not is_unicode)) + "\n")

    @contextmanager
    def progress(self, total: int | None, label: str) -> Iterator[Progress]:
        """Show a bar on stderr when it is a terminal and `--json` is not asked for."""
        if self.json or not self._err.is_terminal:
            yield _Silent()
            return
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with RichProgress(*columns, console=self._err, transient=True) as bar:
            yield _Bar(bar, label, total)


def _safe(text: str) -> str:
    """Return text that is neither markup nor a command to the terminal."""
    return escape(visible(text))
