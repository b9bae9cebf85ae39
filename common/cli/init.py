"""`rowferry init`: a commented configuration that is known to load."""

import contextlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import click

from common.config.load import load_config
from common.config.secrets import holds_secret
from common.config.toml import toml_text
from common.console import Console
from common.errors import ConfigError, UsageError
from common.ops.export_files import failed
from common.runtime.host import Host, current_host

DEFAULT_DIRECTORY = "exchange"


@dataclass(frozen=True, slots=True)
class Choices:
    """What the person who sets up a node decides."""

    node: str
    database: str
    role: str = "branch"
    broker: str | None = None
    directory: str | None = None
    tables: tuple[str, ...] = ("*",)
    policies: tuple[tuple[str, str], ...] = ()

    @property
    def holds_password(self) -> bool:
        """Whether a URL carries a password: then the file is nobody else's to read."""
        return any(holds_secret(url) for url in (self.database, self.broker) if url)

    @property
    def exchange_folder(self) -> str | None:
        """The folder that carries the batches: always one where there is no broker."""
        return self.directory or (None if self.broker else DEFAULT_DIRECTORY)


@click.command()
@click.option("--node", required=True, metavar="ID", help="This node's id: letters, digits, - and _.")
@click.option("--database", required=True, metavar="URL", help="Database URL, such as sqlite:///store.db.")
@click.option(
    "--role",
    type=click.Choice(["main", "branch"]),
    default="branch",
    show_default=True,
    help="Role of this node; exactly one node is main.",
)
@click.option("--broker", metavar="URL", help="Broker URL, such as amqp://user:password@host:5672/vhost.")
@click.option("--directory", metavar="DIR", help="Folder shared by the nodes. Default without a broker: `exchange`.")
@click.option("--tables", multiple=True, metavar="A,B", help="Tables to keep in sync; repeatable. Default: all (*).")
@click.option("--policy", multiple=True, metavar="TABLE=POLICY", help="Conflict policy of a table; repeatable.")
@click.option("--force", is_flag=True, help="Overwrite an existing configuration file.")
def init(
    node: str,
    database: str,
    role: str,
    broker: str | None,
    directory: str | None,
    tables: tuple[str, ...],
    policy: tuple[str, ...],
    force: bool,
) -> None:
    """Write a commented rowferry.toml for this node.

    Every setting is explained in docs/reference/configuration.md."""
    host = current_host()
    choices = Choices(node, database, role, broker, directory, _split(tables) or ("*",), _pairs(policy))
    write_configuration(host.config_file, choices, force=force)
    made = _make_exchange_folder(host.config_file, choices)
    document = {
        "config": str(host.config_file),
        "node": node,
        "role": role,
        "sink": "broker" if broker else "directory",
        "directory": str(made) if made else None,
        "private": choices.holds_password,
    }
    host.emit(document, lambda console: _tell(console, host, choices, made))


def write_configuration(path: Path, choices: Choices, *, force: bool) -> None:
    """Write the file whole or not at all, once it is known to load.

    Raises UsageError where one stands already, RowferryError where it can't be written."""
    if path.exists() and not force:
        raise UsageError(f"{path} already exists; use --force to overwrite it")
    if not path.parent.is_dir():
        raise UsageError(f"{path.parent}: no such folder; create it first")
    try:
        _write(path, choices)
    except OSError as error:
        raise failed(error, path) from error


def _write(path: Path, choices: Choices) -> None:
    with _draft(path) as draft:
        # mkstemp makes it 0600; a file without secrets may be read like any other.
        if not choices.holds_password:
            draft.chmod(0o644)
        draft.write_text(render(choices), encoding="utf-8")
        try:
            # Without the environment: the file must be right by itself.
            load_config(draft, {})
        except ConfigError as error:
            raise ConfigError(str(error).replace(str(draft), f"{path} (not written)")) from error
        os.replace(draft, path)


def _make_exchange_folder(config: Path, choices: Choices) -> Path | None:
    """Make the exchange folder where only it is missing; a whole path that is missing may be a share not mounted."""
    if choices.exchange_folder is None:
        return None
    folder = config.resolve().parent / choices.exchange_folder
    if folder.exists() or not folder.parent.is_dir():
        return None
    try:
        folder.mkdir()
    except OSError as error:
        raise failed(error, folder) from error
    return folder


def render(choices: Choices) -> str:
    """Return the text of the configuration."""
    return "\n".join([*_node(choices), "", *_tables(choices), "", *_ways(choices), "", *_LIMITS]) + "\n"


@contextlib.contextmanager
def _draft(path: Path) -> Iterator[Path]:
    """Give a private file beside `path`; nothing of it is left."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}-", suffix=".tmp", dir=path.parent)
    os.close(handle)
    try:
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


def _split(given: Iterable[str]) -> tuple[str, ...]:
    names = [name.strip() for one in given for name in one.split(",")]
    return tuple(dict.fromkeys(name for name in names if name))


def _pairs(given: Iterable[str]) -> tuple[tuple[str, str], ...]:
    pairs: dict[str, str] = {}
    for one in given:
        table, separator, policy = one.rpartition("=")
        if not separator or not table or not policy:
            raise UsageError(f"--policy {one!r}: write TABLE=POLICY, like company=lww")
        if pairs.setdefault(table.strip(), policy.strip()) != policy.strip():
            raise UsageError(
                f"--policy {one!r}: {table.strip()} was already given {pairs[table.strip()]}: a table has one policy"
            )
    return tuple(pairs.items())


def _node(choices: Choices) -> list[str]:
    return [
        "# Rowferry configuration. All settings are described in docs/reference/configuration.md.",
        "# Relative paths are relative to this file's folder.",
        "",
        "[node]",
        f"id = {toml_text(choices.node)}  # the name other nodes know this one by; never change it once it has synced",
        f"role = {toml_text(choices.role)}  # main | branch",
        f"database = {toml_text(choices.database)}  # direct, not through a pooler; or use database_file",
        "# auto_migrate = true  # update capture automatically when a table changes shape",
    ]


def _tables(choices: Choices) -> list[str]:
    lines = [
        "[tables]",
        f'include = [{", ".join(map(toml_text, choices.tables))}]  # names, or "*" for every table that can be synced',
        "exclude = []",
        '# foreign_keys = "check"  # check | ignore (for a database that never enforced its foreign keys)',
        "",
        "[tables.policy]  # who wins a conflict; a table not listed here uses lww (the later write wins)",
    ]
    lines += [f"{toml_text(table)} = {toml_text(policy)}" for table, policy in choices.policies]
    return [
        *lines,
        "",
        "# [tables.keys]  # who numbers the rows of a table whose keys the database generates",
        '# sale = "stride"  # each node in its own share of the numbers, with [node] number; or main-only, shared',
    ]


def _ways(choices: Choices) -> list[str]:
    folder = choices.exchange_folder
    broker = [
        "[broker]",
        f"url = {toml_text(choices.broker or _BROKER)}  # amqps:// for TLS; or use url_file",
        'channel = "default"',
    ]
    directory = [
        "[directory]",
        f"path = {toml_text(folder or DEFAULT_DIRECTORY)}  # this node writes to its own folder in it",
    ]
    fallback = ["[fallback]", "after = 60  # seconds without a broker before files are written to the directory too"]
    lines = ["# Without a broker, batches travel through the directory only."]
    lines += broker if choices.broker else _commented(broker)
    lines += ["", "# A folder that all nodes share: a mounted share, a synced folder, a USB stick."]
    lines += directory if folder else _commented(directory)
    return [*lines, "", *(fallback if choices.broker else _commented(fallback))]


def _commented(lines: Iterable[str]) -> list[str]:
    return [f"# {line}" for line in lines]


_BROKER = "amqp://user:password@host:5672/vhost"
_LIMITS = [
    "# [limits]",
    "# max_batch_bytes = 4194304  # larger transactions are split into parts",
    "# early_seconds = 86400  # how long a row waits for a row that it references",
]


def _tell(console: Console, host: Host, choices: Choices, made: Path | None) -> None:
    console.say(f"Wrote {host.config_file} for node {choices.node} ({choices.role}).")
    if made:
        console.say(f"Created the folder {made}; the nodes exchange batches through it.")
    if choices.holds_password:
        console.say("The configuration contains a password, so only you can read it.")
    console.say(f"Next: {host.command('migrate')}, then {host.command('run')}")
