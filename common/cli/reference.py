"""Prints `docs/reference/cli.md`, made from the commands' own help."""

from collections.abc import Iterator

import click

from common.cli.main import build

_WIDTH = 100
_INTRODUCTION = """# Commands

Made from the commands' own help by `python -m common.cli.reference`; a test holds that it is up to date.

`--json` may stand before or after the command's name; what it prints is described in [json.md](json.md). Settings are
described in [configuration.md](configuration.md).

| exit code | means |
| --- | --- |
| 0 | done |
| 1 | failed; also when the reader of the output went away |
| 2 | usage: an option, an argument or the configuration is wrong |
| 3 | input refused by preflight: torn, altered, of an unknown format |
| 4 | done, but this command set aside batches, or rows of this node that can't travel, or left conflicts waiting |
| 5 | database or broker unreachable |
| 130 | ended by Ctrl-C |
| 143, 129 | ended by SIGTERM or SIGHUP, as a shell reports it; `run` and `serve` stop cleanly instead |

An error is one sentence on stderr; with `--debug` its traceback too. Results go to stdout, everything else to stderr.
"""


def render(program: click.Group) -> str:
    """Return the whole page."""
    sections = [_INTRODUCTION, _section(program, click.Context(program, info_name="rowferry", terminal_width=_WIDTH))]
    sections += [_section(command, ctx) for command, ctx in walk(program)]
    return "\n".join(sections)


def walk(program: click.Group, above: click.Context | None = None) -> Iterator[tuple[click.Command, click.Context]]:
    """Yield every command below `program`, groups before their own, each with a context that knows its full name."""
    ctx = above or click.Context(program, info_name="rowferry", terminal_width=_WIDTH)
    for name in program.list_commands(ctx):
        command = program.get_command(ctx, name)
        if command is None:
            raise RuntimeError(f"{name} is listed and can't be loaded")
        below = click.Context(command, parent=ctx, info_name=name, terminal_width=_WIDTH)
        yield command, below
        if isinstance(command, click.Group):
            yield from walk(command, below)


def _section(command: click.Command, ctx: click.Context) -> str:
    level = "##" if ctx.parent is None else "###"
    return f"{level} `{ctx.command_path}`\n\n```text\n{command.get_help(ctx)}\n```\n"


def main() -> None:
    """Print the page."""
    click.echo(render(build()), nl=False)


if __name__ == "__main__":
    main()
