"""What each side offers to the hosts (command line, later the web), which may not import the sides."""

import threading
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any, Protocol, TypeVar, cast, runtime_checkable

import click

from common.ports.retention import Purged
from common.ports.row_history import RowAsked, RowEvent

NodeT = TypeVar("NodeT", contravariant=True)
Commands = Mapping[str, Callable[[], click.Command]]
"""By name, how to get each command. Its module is imported only when it is called or listed: what all of them need
takes a second of a small machine."""


def commands_of(module: str, *names: str) -> Commands:
    """Return the commands that stand in `module` under their names, with an underscore for each dash."""

    def loader(name: str) -> Callable[[], click.Command]:
        return lambda: cast(click.Command, getattr(import_module(module), name.replace("-", "_")))

    return {name: loader(name) for name in names}


class Service(Protocol):
    """A loop of `rowferry run`. The supervisor gives it a thread, restarts it after OutageError, and stops it."""

    @property
    def name(self) -> str: ...

    def step(self, idle_seconds: float) -> bool:
        """Do one round; True when there was work. Waits at most `idle_seconds` for work. Tests call this."""
        ...

    def wake(self) -> None:
        """End the wait of a running `step` early. Any thread."""
        ...

    def close(self) -> None:
        """Give everything back; the work in hand is finished or safe to repeat. Safe to call twice."""
        ...


class Part(Protocol[NodeT]):
    """One side: its commands, services and status. Loaded through the entry point group `rowferry.parts`."""

    @property
    def name(self) -> str: ...

    def commands(self) -> Commands: ...

    def services(self, node: NodeT, stop: threading.Event) -> Sequence[Service]:
        """Build what `run` runs, in the order in which they are stopped."""
        ...

    def status(self, node: NodeT) -> Mapping[str, Any]:
        """Return this side's share of `status --json`; opens no transport that could block for long."""
        ...


@runtime_checkable
class KnowsRows(Protocol[NodeT]):
    """A part that can tell what became of single rows."""

    def row_events(self, node: NodeT, asked: RowAsked) -> Sequence[RowEvent]:
        """Return what this side knows of a row, in any order. Reads all that it keeps once: for people."""
        ...


@runtime_checkable
class BeforeRun(Protocol[NodeT]):
    """A part that has to look at something before `run` seals anything."""

    def before_run(self, node: NodeT) -> None:
        """Look. Where it can't, it leaves that to its services."""
        ...


@runtime_checkable
class AfterMigrate(Protocol[NodeT]):
    """A part that has work to do once `migrate` has seen new tables or columns."""

    def after_migrate(self, node: NodeT) -> int:
        """Try again what waited for an unknown table or column. Returns how many txs were applied."""
        ...


@runtime_checkable
class Purges(Protocol[NodeT]):
    """A part that keeps things which somebody has to take away at some time."""

    def purge(self, node: NodeT, actor: str, *, dry_run: bool) -> Sequence[Purged]:
        """Take away what is old enough and not needed; with `dry_run` only tell. Raises OutageError."""
        ...
