"""From settings to a kombu connection, and from what kombu raises to our errors."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from common.config.urls import OF_SQLALCHEMY
from common.errors import ConfigError, OutageError
from common.transports.files import remedy, storage_outage
from common.transports.kombu_broker import filesystem, sql
from common.transports.kombu_broker.traits import Unacked, traits_for
from common.transports.kombu_broker.untyped import KOMBU_ERRORS, Connection
from common.wire.compress import Encoding

log = logging.getLogger(__name__)
EXCHANGE = "rowferry.changes"
QUEUE_PREFIX = "rowferry.node."
_ERRORS = (*KOMBU_ERRORS, OSError, SQLAlchemyError)


@dataclass(frozen=True, slots=True)
class KombuSettings:
    """One node's way to a broker that kombu drives. The URL may hold a password, so `repr` leaves it out."""

    url: str = field(repr=False)
    """Any URL that kombu knows. `filesystem:///srv/exchange` is that folder, `filesystem://exchange` a relative one."""
    node_id: str
    channel: str = "default"
    listen: tuple[str, ...] = ()
    """Peers whose batches are wanted; empty: everybody's."""
    peers: tuple[str, ...] = ()
    """Nodes to send to, where a transport can't find their queues by itself."""
    max_message_bytes: int | None = None
    compression: Encoding | None = None
    poll_seconds: float = 1.0
    """How often an idle source looks, at the least."""


def node_queue(node_id: str) -> str:
    """Return the queue that a node reads."""
    return QUEUE_PREFIX + node_id


def shown(url: str) -> str:
    """Return the URL without user and password, for messages and logs."""
    scheme, _, rest = url.partition("://")
    # Whatever stands before an @ may be a password, also one with a / in it.
    return f"{scheme}://{rest.partition('?')[0].rpartition('@')[2]}"


def release(settings: KombuSettings, connection: Any) -> None:
    """Close a connection, also a broken one: what goes wrong then is logged, since there is nothing left to do."""
    try:
        with outages(settings.url, "leaving", connection):
            connection.release()
    except OutageError as error:
        log.warning("kombu.close-failed", extra={"error": str(error)})


@contextmanager
def outages(url: str, doing: str, connection: Any = None) -> Iterator[None]:
    """Turn what kombu and its transports raise into OutageError."""
    # Each transport names its own library's errors too, those of redis for example.
    own = () if connection is None else connection.connection_errors + connection.channel_errors
    try:
        yield
    except (*_ERRORS, *own) as error:
        raise OutageError(f"{doing} {shown(url)}: {error}; {_remedy(url, error)}") from error


def _remedy(url: str, error: BaseException) -> str:
    # Kombu wraps some of what the file system says.
    found = error if isinstance(error, OSError) else error.__cause__
    if url.startswith("filesystem://") and isinstance(found, OSError):
        return remedy(found)
    return "check that the broker runs and the URL is right"


def open_connection(settings: KombuSettings) -> Any:
    """Return a connected kombu connection. Raises OutageError, and ConfigError for a URL that can't be right."""
    connection = _connection(settings.url)
    try:
        with outages(settings.url, "connecting to", connection):
            connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0, timeout=10)
    except OutageError:
        release(settings, connection)
        raise
    return connection


def look(settings: KombuSettings) -> None:
    """Make sure that the broker can be used, as far as that shows without a change of it.

    Raises OutageError, and ConfigError for a URL that can't be right."""
    scheme, _, path = settings.url.partition("://")
    if scheme.partition("+")[0] in OF_SQLALCHEMY:
        _look_at_database(settings.url)
        return
    if scheme != "filesystem":
        release(settings, open_connection(settings))
        return
    root = _root(path)
    if not root.is_dir():
        raise OutageError(f"{root} is {'no folder' if root.exists() else 'not there'}; mount the share, or make it")


def _look_at_database(url: str) -> None:
    with outages(url, "connecting to"):
        engine = sa.create_engine(url.partition("+")[2], poolclass=sa.NullPool)
        # A file of SQLite is made by who looks into it.
        if engine.dialect.name != "sqlite" or Path(engine.url.database or "").exists():
            engine.connect().close()


def _connection(url: str) -> Any:
    scheme, _, rest = url.partition("://")
    try:
        if scheme == "filesystem":
            return _filesystem(rest)
        if scheme.partition("+")[0] in OF_SQLALCHEMY:
            return Connection(url.partition("+")[2], transport=sql.Transport)
        options = {"confirm_publish": True} if traits_for(url).unacked is Unacked.BROKER else {}
        connection = Connection(url, transport_options=options)
        # Makes the transport, which needs its library, without connecting: here its absence can be named.
        log.debug("kombu.transport", extra={"version": connection.transport.driver_version()})
    except ValueError:
        # Its words quote what they stumbled over, which may be a part of the password.
        raise ConfigError(
            f"broker.url: kombu can't use {shown(url)}: its host or port can't be read; in a user or password"
            " write / as %2F, @ as %40"
        ) from None
    except (ImportError, KeyError) as error:
        raise ConfigError(
            f"broker.url: kombu can't use {shown(url)}: {error}; check the scheme, and install the library it needs"
        ) from error
    return connection


def _filesystem(path: str) -> Any:
    root = _root(path)
    try:
        filesystem.make_folders(root)
    except OSError as error:
        raise storage_outage(error, root, "opening the message folder") from error
    return Connection(transport=filesystem.Transport, transport_options=filesystem.transport_options(root))


def _root(path: str) -> Path:
    root = Path(unquote(path.partition("?")[0]))
    if not root.name:
        raise ConfigError("broker.url: filesystem:// needs a folder, like filesystem:///srv/exchange")
    return root
