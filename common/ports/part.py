"""What each side offers to the hosts (command line, later the web), which may not import the sides."""

import threading
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeVar

import click

NodeT = TypeVar("NodeT", contravariant=True)


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

    def commands(self) -> Sequence[click.Command]: ...

    def services(self, node: NodeT, stop: threading.Event) -> Sequence[Service]:
        """Build what `run` runs, in the order in which they are stopped."""
        ...

    def status(self, node: NodeT) -> Mapping[str, Any]:
        """Return this side's share of `status --json`; opens no transport that could block for long."""
        ...
