"""The `rowferry` program: loads the parts, gives each command its host, turns errors into sentences and exit codes."""

import errno
import gc
import io
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click
import sqlalchemy as sa

from common.cli.entry import INTERRUPTED
from common.cli.given import checked
from common.cli.options import LEVELS, CommandLine, command_line, with_shared_options
from common.cli.streams import fill_closed_streams, forgive_closed_stdout
from common.config.load import config_path
from common.config.variables import with_variables
from common.console import Console, counted
from common.crash_points import arm_from
from common.errors import ConfigError, OutageError, PreflightError, RowferryError, UsageError
from common.logs import LogFormat, masked
from common.ports.part import Commands, Part, commands_of
from common.runtime.host import ExitCode
from common.runtime.node import Node
from common.runtime.parts import load_parts

log = logging.getLogger(__name__)

_SERVICES = ("run", "serve")
_FIRST: Commands = {
    **commands_of("common.cli.init", "init"),
    **commands_of("common.cli.migrate", "migrate", "unmigrate"),
    **commands_of("common.cli.seed", "seed"),
    **commands_of("common.cli.run", "run"),
}
_LAST: Commands = {
    **commands_of("common.cli.pause", "pause", "resume"),
    **commands_of("common.cli.status", "status"),
    **commands_of("common.cli.doctor", "doctor"),
    **commands_of("common.cli.why", "why"),
    **commands_of("common.cli.purge", "purge"),
    **commands_of("common.cli.backup", "backup", "restore"),
    **commands_of("common.cli.node", "node"),
    **commands_of("common.cli.token", "token"),
    **commands_of("common.cli.key", "key"),
    **commands_of("common.cli.serve", "serve"),
    **commands_of("common.cli.topology", "topology"),
    **commands_of("common.cli.demo", "demo"),
}


class NodeCommandLine(CommandLine):
    """The host of real runs: a driver's error leaves the opened node as the error that it calls for."""

    @contextmanager
    def node(self) -> Iterator[Node]:
        with super().node() as node:
            try:
                yield node
            except sa.exc.SQLAlchemyError as error:
                raise node.database.translate(error) from error


class Program(click.Group):
    """The command group: lists commands in the order of a node's life, ends with the documented exit codes."""

    def __init__(self, *arguments: Any, loaders: Commands, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._loaders = loaders

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 -- click's own signature
        return list(self._loaders)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command with the options that all have, imported at its first use."""
        if cmd_name in self._loaders and cmd_name not in self.commands:
            self.add_command(with_shared_options(self._loaders[cmd_name]()), cmd_name)
        return super().get_command(ctx, cmd_name)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command and exit with its code. Usage errors and broken pipes are click's: 2, and a silent 1."""
        try:
            super().invoke(ctx)
            code = int(_judged(ctx))
        except KeyboardInterrupt:
            code = INTERRUPTED
        except (click.ClickException, click.Abort, click.exceptions.Exit):
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.errno == errno.EPIPE:
                raise
            # What we raise on purpose says all there is to say.
            level = logging.DEBUG if isinstance(error, RowferryError) else command_line(ctx).failure_level
            log.log(level, "command.failed", exc_info=True)
            command_line(ctx).console.error(f"Error: {sentence_for(error)}")
            code = int(exit_code_for(error))
        ctx.exit(code)


def _judged(ctx: click.Context) -> ExitCode:
    """Return what a command that came to its end ends with: whatever it sealed on its way counts too."""
    host = command_line(ctx)
    if not host.own_letters or host.is_service:
        return host.exit_code
    many = counted(host.own_letters, "dead letter of this node's own rows was", "dead letters of its own rows were")
    host.console.warn(f"{many} created: see `{host.command('dlq list')}`.")
    return ExitCode.SET_ASIDE if host.exit_code is ExitCode.DONE else host.exit_code


def exit_code_for(error: Exception) -> ExitCode:
    """Return what the process ends with after `error`."""
    match error:
        case ConfigError() | UsageError():
            return ExitCode.USAGE
        case PreflightError():
            return ExitCode.REFUSED
        case OutageError():
            return ExitCode.UNREACHABLE
        case _:
            return ExitCode.FAILED


def sentence_for(error: Exception) -> str:
    """Return what to tell a person, without passwords."""
    match error:
        case ConfigError() | OutageError():
            text = with_variables(str(error))
        case RowferryError():
            text = str(error)
        case sa.exc.SQLAlchemyError():
            text = f"the database refused: {getattr(error, 'orig', None) or error}"
        case OSError() if error.filename is not None:
            text = f"{error.filename}: {error.strerror}"
        case OSError() if error.errno is not None:
            # Without a name it is a stream of ours: a result on its way to a full disk.
            text = f"the output can't be written: {error.strerror}"
        case _:
            text = f"{type(error).__name__}: {error}; this is a bug in Rowferry: run again with --debug and report it"
    return masked(text)


def build(parts: Sequence[Part[Node]] | None = None) -> Program:
    """Return the program with its own commands and those of `parts` (default: all that are installed)."""
    loaders = dict(_FIRST)
    for share in (*(part.commands() for part in (load_parts() if parts is None else parts)), _LAST):
        twice = loaders.keys() & share.keys()
        if twice:
            raise RuntimeError(f"two commands are called {min(twice)!r}")
        loaders |= share
    program = Program(
        "rowferry", help=_HELP, params=[*map(checked, _global_options())], callback=_begin, loaders=loaders
    )
    click.version_option(package_name="rowferry", prog_name="rowferry")(program)
    return program


def main() -> None:
    """Run the command line of this process; never returns."""
    fill_closed_streams()
    program = build()
    _collect_rarely()
    _escape_what_the_terminal_can_not_show()
    try:
        program.main(prog_name="rowferry")
    except OSError as error:
        # Help and version are printed before there is a command that could fail.
        sys.stderr.write(f"Error: {sentence_for(error)}\n")
        sys.exit(ExitCode.FAILED)


def _escape_what_the_terminal_can_not_show() -> None:
    """A name that another node chose must not end a command here, whatever the locale."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _collect_rarely() -> None:
    """Look for cyclic garbage less often than Python does by itself.

    A group of changes is tens of thousands of objects that live together for a moment and are in no cycle: at the
    default thresholds, walking over them took 40 % of the consumer's time."""
    gc.freeze()
    gc.set_threshold(50_000, 10, 10)


_HELP = """Keeps databases on many nodes in sync through a message queue, files or HTTP.

\b
First steps:
  rowferry init --node ID --database URL
  rowferry migrate
  rowferry run

Exit codes: 0 done; 1 failed; 2 usage or configuration; 3 input refused by preflight; 4 done, but this command set
something aside or left it waiting; 5 database or broker unreachable."""


def _global_options() -> list[click.Parameter]:
    return [
        click.Option(
            ["--config"],
            metavar="FILE",
            type=click.Path(dir_okay=False),
            help="Configuration file. Default: $ROWFERRY_CONFIG, else rowferry.toml in the current folder.",
        ),
        click.Option(["--json", "as_json"], is_flag=True, help="Print one JSON document on stdout and nothing else."),
        click.Option(["--verbose", "-v"], is_flag=True, help="Same as --log-level info."),
        click.Option(["--log-level"], type=click.Choice(LEVELS), help="Minimum level to log, on stderr."),
        click.Option(
            ["--log-format"],
            type=click.Choice([style.value for style in LogFormat]),
            help="Format of log lines. Default: text; json for `run` when stderr is not a terminal.",
        ),
        click.Option(["--debug"], is_flag=True, help="Log everything, including error tracebacks."),
    ]


def _begin(
    config: str | None,
    as_json: bool,
    verbose: bool,
    log_level: str | None,
    log_format: str | None,
    debug: bool,
) -> None:
    """Build the host from the global options, before the command reads its own."""
    ctx = click.get_current_context()
    is_service = ctx.invoked_subcommand in _SERVICES
    if is_service and not as_json:
        forgive_closed_stdout()
    chosen = "debug" if debug else log_level or ("info" if verbose or is_service else "warning")
    default_style = LogFormat.JSON if is_service and not sys.stderr.isatty() else LogFormat.TEXT
    ctx.obj = host = NodeCommandLine(
        config_file=config_path(config, os.environ),
        console=Console(json=as_json),
        level=chosen,
        log_format=LogFormat(log_format) if log_format else default_style,
        failure_level=logging.ERROR if is_service else logging.DEBUG,
    )
    arm_from(os.environ)
    host.start_logging()
    ctx.call_on_close(host.stop_logging)
