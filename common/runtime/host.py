"""What a command gets from the program that hosts it: the configuration, the opened node, the way to report."""

import getpass
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property
from pathlib import Path
from typing import Any

import click

from common.config.load import DEFAULT_FILE, load_config
from common.config.model import Config
from common.console import Console, Progress
from common.runtime.node import Node, open_node


class ExitCode(IntEnum):
    """What the exit status of every command means (docs/README_M2.md)."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    REFUSED = 3
    SET_ASIDE = 4
    UNREACHABLE = 5


@dataclass
class Host:
    """One run of the command line. Commands find it with `click.get_current_context().find_object(Host)`."""

    config_file: Path
    console: Console
    exit_code: ExitCode = field(default=ExitCode.DONE)
    """What the process ends with when the command returns; commands set SET_ASIDE."""
    is_service: bool = False
    """It works until it is told to stop: then it has done what it was asked to, whatever it set aside meanwhile."""
    own_letters: int = 0
    """How many dead letters of this node's own rows were made while it was open: sealing makes them."""

    @cached_property
    def config(self) -> Config:
        """The configuration, read at first use. Raises ConfigError."""
        return load_config(self.config_file)

    def command(self, line: str) -> str:
        """Return a command as a person has to type it for this configuration."""
        is_found = str(self.config_file) == DEFAULT_FILE or "ROWFERRY_CONFIG" in os.environ
        return f"rowferry {line}" if is_found else f"rowferry --config {self.config_file} {line}"

    @property
    def actor(self) -> str:
        """Who runs this, for the audit."""
        try:
            # The environment may say anything, also bytes that are no UTF-8.
            return getpass.getuser().encode("utf-8", "backslashreplace").decode("utf-8")
        except (OSError, KeyError):
            # A container may run under a number that has no name.
            return f"uid-{os.getuid()}"

    @contextmanager
    def node(self) -> Iterator[Node]:
        """Open the configured node. Raises ConfigError, OutageError."""
        with open_node(self.config) as node:
            try:
                yield node
            finally:
                self.own_letters += node.database.own_letters

    def emit(self, document: Any, human: Callable[[Console], None]) -> None:
        """Report: the JSON document alone with `--json`, else what `human` prints."""
        if self.console.json:
            self.console.print_json(document)
        else:
            human(self.console)

    def progress(self, total: int | None, label: str) -> AbstractContextManager[Progress]:
        """Show a progress bar while a person watches; nothing in a pipe or with `--json`."""
        return self.console.progress(total, label)


def current_host() -> Host:
    """Return the host of the running command."""
    host = click.get_current_context().find_object(Host)
    if host is None:
        raise RuntimeError("a command runs outside the rowferry program")
    return host
