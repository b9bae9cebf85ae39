"""What `verify` and `adopt` take alike: with whom, which tables, how many rows are named."""

from collections.abc import Iterable
from pathlib import Path

import click

from common.config.model import Config
from common.errors import UsageError
from common.transports.http.settings import PeerSettings, settings_for_url, settings_of

FILE = click.Path(dir_okay=False, path_type=Path)
token_file_option = click.option(
    "--token-file",
    "token_file",
    metavar="FILE",
    type=FILE,
    help="File with the token. Default: from [peers] with this url.",
)
tables_option = click.option(
    "--tables", "tables", metavar="NAMES", multiple=True, help="Only these tables; repeatable, or with commas."
)
most_option = click.option(
    "--most",
    "most",
    metavar="COUNT",
    type=click.IntRange(1, 1_000_000),
    default=1_000,
    show_default=True,
    help="List at most this many rows.",
)


def names_in(tables: Iterable[str]) -> list[str] | None:
    """Return the tables that `--tables` names; None where it names none: all."""
    return [name for one in tables for name in one.split(",") if name] or None


def settings_of_peer(config: Config, name: str) -> PeerSettings:
    """Return how a configured peer is reached. Raises UsageError, ConfigError."""
    section = config.peers.get(name)
    if section is None:
        known = ", ".join(config.peers) or "none"
        raise UsageError(f"{name}: no [peers] section with that name (there are: {known}); or use --url or --file")
    return settings_of(name, section)


def settings_for(config: Config, peer: str, url: str | None, token_file: Path | None) -> PeerSettings:
    """Return how the node at `url` is reached; without one, `peer`. Raises UsageError, ConfigError."""
    return settings_of_peer(config, peer) if url is None else settings_for_url(config, url, token_file)
