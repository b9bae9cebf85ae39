"""`topology`: what should stand on RabbitMQ, as definitions to import, and compared with what stands."""

import json
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from common.config.load import read_secret_file
from common.config.model import BrokerSection, Config
from common.errors import ConfigError, UsageError
from common.ops.export_files import failed
from common.ports.dialect import Database
from common.retry import in_transaction
from common.schema import tables as rf
from common.transports.files import replace_file_durably
from common.transports.rabbitmq.comparing import compare
from common.transports.rabbitmq.configured import settings_from
from common.transports.rabbitmq.connection import password_of, user_of, vhost_of
from common.transports.rabbitmq.definitions import Document, definitions
from common.transports.rabbitmq.findings import Finding, State
from common.transports.rabbitmq.looking import look
from common.transports.rabbitmq.management import open_management
from common.transports.rabbitmq.settings import RabbitSettings

_PASSWORD_BYTES = 24
_PRIVATE = 0o600


@dataclass(frozen=True, slots=True)
class Passwords:
    """The passwords of nodes' users, as a private file holds them: a JSON object, node id to password."""

    file: Path
    known: Mapping[str, str]
    made: tuple[str, ...]
    """Nodes whose password is new."""
    is_written: bool
    """The file holds them all already."""

    def write(self) -> None:
        """Make the file hold them all. Raises RowferryError."""
        if not self.is_written:
            write_private_json(self.file, dict(sorted(self.known.items())))


def rabbit_settings(config: Config) -> RabbitSettings:
    """Return the node's way to RabbitMQ. Raises UsageError where it has none: topology is RabbitMQ's alone."""
    return settings_from(config.node.id, _broker(config))


def known_nodes(config: Config, database: Database) -> tuple[str, ...]:
    """Return this node, the peers it has heard of, and those that the configuration names."""
    peers = sa.union(
        sa.select(rf.node.c.node_id).where(sa.not_(rf.node.c.is_self)),
        sa.select(rf.sync_state.c.peer).where(rf.sync_state.c.direction == "in"),
    )
    heard = in_transaction(database, lambda connection: connection.scalars(peers).all())
    broker = _broker(config)
    named = [config.node.main] if config.node.main else []
    return (config.node.id, *sorted({*heard, *broker.listen, *broker.peers, *named} - {config.node.id}))


def passwords_for(nodes: Iterable[str], settings: RabbitSettings, file: Path) -> Passwords:
    """Return a password for each node: the file's, else the broker's URL's where its user is the node, else a new one.

    Raises ConfigError for a file that others can read or that is no such file."""
    standing = _read(file)
    own = password_of(settings)
    offered = ({user_of(settings): own} if own else {}) | standing
    wanted = {node: offered.get(node) or secrets.token_urlsafe(_PASSWORD_BYTES) for node in nodes}
    made = tuple(node for node in wanted if node not in offered)
    return Passwords(file, standing | wanted, made, wanted.keys() <= standing.keys())


def write_private_json(file: Path, document: Mapping[str, Any]) -> None:
    """Write a file for its owner alone, whole or not at all. Raises RowferryError."""
    text = json.dumps(document, indent=2, ensure_ascii=False)
    path = file.resolve()
    try:
        replace_file_durably(path, f"{text}\n".encode(), _PRIVATE)
    except OSError as error:
        raise failed(error, path) from error


def export(config: Config, nodes: Iterable[str], passwords: Mapping[str, str]) -> Document:
    """Return the definitions. The other nodes are taken to be configured as this one, and to listen to everybody."""
    own = rabbit_settings(config)
    every = [own if node == own.node_id else replace(own, node_id=node, listen=()) for node in nodes]
    return definitions(every, vhost_of(own), passwords)


def check(config: Config, management_url: str | None, password: str | None) -> list[Finding]:
    """Compare this node's part of the topology, through AMQP or the management API; nothing is changed.

    Raises OutageError, ConfigError."""
    settings = rabbit_settings(config)
    user = _user_with_rights(settings)
    if management_url is None:
        return look(settings, user)
    return compare(open_management(management_url, settings, password), settings, user)


def problems(findings: Iterable[Finding]) -> list[Finding]:
    """Return what has to be mended."""
    return [one for one in findings if one.is_wrong]


def unchecked(findings: Iterable[Finding]) -> list[Finding]:
    """Return what could not be seen."""
    return [one for one in findings if one.state is State.UNCHECKED]


def _user_with_rights(settings: RabbitSettings) -> str | None:
    """Return the user whose rights are to be the least: nodes that share an account prove nothing anyway."""
    proven = settings.verify_user or user_of(settings) == settings.node_id
    return settings.node_id if proven else None


def _broker(config: Config) -> BrokerSection:
    if config.broker is None or not config.broker.is_rabbitmq:
        raise UsageError("topology is only for RabbitMQ, and [broker] url names none (amqp:// or amqps://)")
    return config.broker


def _read(file: Path) -> dict[str, str]:
    if not file.exists():
        return {}
    try:
        found = json.loads(read_secret_file(file, "passwords"))
    except ValueError as error:
        raise _no_passwords(file) from error
    if not isinstance(found, dict) or not all(isinstance(one, str) and one for one in found.values()):
        raise _no_passwords(file)
    return found


def _no_passwords(file: Path) -> ConfigError:
    return ConfigError(f"{file} is not a file of passwords (a JSON object, node id to password); name another")
