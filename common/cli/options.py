"""Options that every command takes, and how they reach the host of the running command."""

import copy
import logging
import sys
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import click

from common.cli.given import checked
from common.console import Console
from common.logs import LogFormat, logging_to
from common.runtime.host import Host

LEVELS = ("debug", "info", "warning", "error")


@dataclass
class CommandLine(Host):
    """One run of the command line, with what the shared options chose."""

    level: str = "warning"
    log_format: LogFormat = LogFormat.TEXT
    failure_level: int = logging.DEBUG
    """The level at which an error's traceback is logged; the sentence goes to stderr anyway."""
    _logging: ExitStack = field(default_factory=ExitStack)

    def start_logging(self) -> None:
        """Begin the log, or begin it anew after an option changed it."""
        self._logging.close()
        self._logging.enter_context(logging_to(sys.stderr, logging.getLevelName(self.level.upper()), self.log_format))

    def stop_logging(self) -> None:
        """Take the log off again. Safe to call twice."""
        self._logging.close()

    def use_json(self) -> None:
        """Report as one JSON document from here on."""
        self.console = Console(json=True)


def command_line(ctx: click.Context) -> CommandLine:
    """Return the host of the running command."""
    host = ctx.find_object(CommandLine)
    if host is None:
        raise RuntimeError("a command runs outside the rowferry program")
    return host


def with_shared_options(command: click.Command) -> click.Command:
    """Return a copy of `command` that takes `--json` and the options of the log too, with all below it; its own take
    nothing that nobody can mean."""
    own = copy.copy(command)
    if isinstance(own, click.Group):
        own.commands = {name: with_shared_options(below) for name, below in own.commands.items()}
    taken = {name for param in own.params for name in param.opts}
    own.params = [*map(checked, own.params), *(option for option in _shared() if not taken.intersection(option.opts))]
    return own


def _shared() -> list[click.Option]:
    """Return the options, made anew: a click option belongs to one command."""
    return [
        click.Option(
            ["--json", "as_json"],
            is_flag=True,
            expose_value=False,
            callback=_on_json,
            help="Print one JSON document on stdout and nothing else.",
        ),
        click.Option(
            ["--verbose", "-v"],
            is_flag=True,
            expose_value=False,
            callback=_on_verbose,
            help="Log what is being done, on stderr; same as --log-level info.",
        ),
        click.Option(
            ["--log-level"],
            type=click.Choice(LEVELS),
            expose_value=False,
            callback=_on_level,
            help="Minimum level to log. Default: warning; info for `run`.",
        ),
        click.Option(
            ["--log-format"],
            type=click.Choice([style.value for style in LogFormat]),
            expose_value=False,
            callback=_on_format,
            help="Format of log lines. Default: text; json for `run` when stderr is not a terminal.",
        ),
    ]


def _on_json(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        command_line(ctx).use_json()


def _on_verbose(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        _set_level(ctx, "info")


def _on_level(ctx: click.Context, _param: click.Parameter, value: Any) -> None:
    if value and not ctx.resilient_parsing:
        _set_level(ctx, str(value))


def _on_format(ctx: click.Context, _param: click.Parameter, value: str | None) -> None:
    if value and not ctx.resilient_parsing:
        host = command_line(ctx)
        host.log_format = LogFormat(value)
        host.start_logging()


def _set_level(ctx: click.Context, level: str) -> None:
    host = command_line(ctx)
    host.level = level
    host.start_logging()
