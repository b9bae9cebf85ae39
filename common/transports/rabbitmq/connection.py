"""Connection parameters, short-lived connections, and the one place that translates pika's exceptions."""

import re
import shlex
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pika
import pika.exceptions
from pika.adapters.utils import connection_workflow as workflow

from common.errors import ConfigError, OutageError, RowferryError
from common.http.certificates import NO_TLS, NOT_TRUSTED, CertificateError, Pair
from common.transports.rabbitmq.settings import RabbitSettings

LIBRARY_ERRORS = (pika.exceptions.AMQPError, workflow.AMQPConnectorException, OSError)
"""What pika lets through when the broker or the way to it fails."""

_RESET_AT_ONCE = "Expected connected socket"
"""What pika's bare ValueError says where the other side has reset the connection before pika asks who it is."""
_DEFAULT_USER = "guest"
_HANDSHAKE_SECONDS = 3
_PORT, _TLS_PORT = 5672, 5671

_ACCESS_REFUSED = 403
_NOT_FOUND = 404
_PRECONDITION_FAILED = 406
_NOT_ALLOWED = 530
_IS_FULL = "connection limit"
"""What RabbitMQ says of a vhost, or a user, that has as many connections as it may."""
_INEQUIVALENT = re.compile(
    r"inequivalent arg '(?P<argument>[^']+)' for (?P<kind>\w+) '(?P<name>[^']+)' in vhost '(?P<vhost>[^']*)'"
)
_WITHOUT = "but current is none"
"""What RabbitMQ says of an argument that what stands there does not have."""
_VALUES = re.compile(r": (?P<values>received .*)", re.DOTALL)
_REMEDIES = {
    "x-max-length-bytes": "set [broker] queue_max_bytes to what stands",
    "x-expires": "set [broker] queue_expires_seconds to what stands (given here in milliseconds)",
}


def parameters(settings: RabbitSettings, role: str) -> pika.URLParameters:
    """Return pika's parameters for one connection. Raises ConfigError for a URL or a certificate it can't use."""
    address = urlsplit(settings.url)
    if address.username and address.password is None:
        raise ConfigError("[broker] url has a user but no password: write amqp://user:password@host:5672/vhost")
    try:
        made = pika.URLParameters(settings.url)
        if made.ssl_options is not None and _own_tls(settings):
            made.ssl_options = pika.SSLOptions(tls_context(settings))
    except (ValueError, TypeError, SyntaxError, OSError) as error:
        # The URL may hold a password, so the message names the key alone.
        raise ConfigError(f"[broker] url or its TLS files can't be used: {type(error).__name__}: {error}") from error
    if made.heartbeat is None:
        made.heartbeat = settings.heartbeat_seconds
    made.client_properties = {"connection_name": f"rowferry {settings.node_id} {role}"}
    made.blocked_connection_timeout = settings.blocked_timeout_seconds
    # One attempt: who calls retries with backoff, and needs to see the failure to fall back on files.
    made.connection_attempts = 1
    made.socket_timeout = settings.connect_timeout_seconds
    # TCP, TLS and the handshake together: a node that is told to stop meanwhile has ten seconds.
    made.stack_timeout = settings.connect_timeout_seconds + _HANDSHAKE_SECONDS
    return made


def user_of(settings: RabbitSettings) -> str:
    """Return the broker's user that the URL names."""
    return unquote(urlsplit(settings.url).username or _DEFAULT_USER)


def password_of(settings: RabbitSettings) -> str | None:
    """Return the password that the URL holds."""
    password = urlsplit(settings.url).password
    return None if password is None else unquote(password)


def vhost_of(settings: RabbitSettings) -> str:
    """Return the vhost that the URL names."""
    return unquote(urlsplit(settings.url).path[1:]) or "/"


def address_of(settings: RabbitSettings) -> str:
    """Return host and port."""
    parts = urlsplit(settings.url)
    return f"{parts.hostname or 'localhost'}:{parts.port or (_TLS_PORT if parts.scheme == 'amqps' else _PORT)}"


def place(settings: RabbitSettings) -> str:
    """Return where the broker is, for messages: never with the password."""
    return f"broker {address_of(settings)}, vhost {vhost_of(settings)!r}"


@contextmanager
def short_connection(settings: RabbitSettings, role: str) -> Iterator[pika.BlockingConnection]:
    """Open a connection for a few calls and close it; pika's exceptions come out translated."""
    made = parameters(settings, role)
    try:
        connection = pika.BlockingConnection(made)
    except LIBRARY_ERRORS as error:
        raise translate(error, settings) from error
    except ValueError as error:
        if _RESET_AT_ONCE not in str(error):
            raise
        raise OutageError(f"{place(settings)} is out of reach: it resets connections as they are made") from error
    try:
        yield connection
    except LIBRARY_ERRORS as error:
        raise translate(error, settings) from error
    finally:
        _close(connection)


def translate(error: BaseException, settings: RabbitSettings) -> RowferryError:
    """Return what pika's `error` means here.

    Only what a setting must mend is a ConfigError. Refused credentials and rights are an outage: an operator may give
    them while the node runs, and until then the batches go by files.
    """
    where = place(settings)
    cause = _root(error)
    match cause:
        case pika.exceptions.ChannelClosedByBroker():
            return _from_channel(cause.reply_code, cause.reply_text, where)
        case pika.exceptions.AuthenticationError() | pika.exceptions.ProbableAuthenticationError():
            return OutageError(f"{where} refuses user {user_of(settings)!r} or its password: check [broker] url")
        case pika.exceptions.ProbableAccessDeniedError() if _IS_FULL in str(cause):
            return OutageError(
                f"{where} accepts no more connections, a limit of the vhost or the user is reached: {cause}"
            )
        case pika.exceptions.ProbableAccessDeniedError():
            return OutageError(f"{where}: the vhost is missing or user {user_of(settings)!r} may not enter it: {cause}")
        case pika.exceptions.ConnectionBlockedTimeout():
            seconds = f"{settings.blocked_timeout_seconds:g} s"
            return OutageError(f"{where} blocks publishers (memory or disk alarm) for more than {seconds}")
        case workflow.AMQPConnectorStackTimeout():
            seconds = f"{settings.connect_timeout_seconds + _HANDSHAKE_SECONDS:g} s"
            return OutageError(f"{where} accepts connections but does not answer within {seconds}")
        case pika.exceptions.AMQPHeartbeatTimeout():
            return OutageError(f"{where} sent no heartbeat: the connection is given up")
        case pika.exceptions.ConnectionClosedByBroker() if cause.reply_code == _NOT_ALLOWED:
            return OutageError(f"{where} does not let user {user_of(settings)!r} in: {cause.reply_text}")
        case ssl.SSLCertVerificationError():
            return OutageError(f"{where}: its {NOT_TRUSTED} ({cause.verify_message})")
        case ssl.SSLError() if cause.reason == NO_TLS:
            return OutageError(
                f"{where} does not speak TLS at this port: name its port for TLS (mostly {_TLS_PORT}) in [broker] url, "
                "or write amqp:// if the network is private"
            )
        case pika.exceptions.IncompatibleProtocolError():
            # What passes ports on to a broker that is not up yet does the same.
            return OutageError(
                f"{where} is out of reach: it hangs up at once. It is starting, or not RabbitMQ, or this is a port "
                "for TLS (amqps://)"
            )
        case _:
            return OutageError(f"{where} is out of reach: {type(cause).__name__}: {cause}")


def reply_code(error: pika.exceptions.AMQPError) -> int | None:
    """Return the broker's reply code when it closed the channel."""
    return int(error.reply_code) if isinstance(error, pika.exceptions.ChannelClosedByBroker) else None


def is_refused(error: pika.exceptions.AMQPError) -> bool:
    """Whether the account lacks a right (403)."""
    return reply_code(error) == _ACCESS_REFUSED


def is_missing(error: pika.exceptions.AMQPError) -> bool:
    """Whether the exchange or queue does not exist (404)."""
    return reply_code(error) == _NOT_FOUND


@dataclass(frozen=True, slots=True)
class Difference:
    """What the broker said about a thing that exists with other arguments."""

    kind: str
    name: str
    argument: str
    values: str
    remedy: str


def difference(text: str) -> Difference | None:
    """Return what a refused declaration (406) says; None when it is about something else."""
    found = _INEQUIVALENT.search(text)
    if found is None:
        return None
    kind, name, argument = found["kind"], found["name"], found["argument"]
    matched = _VALUES.search(text, found.end())
    values = matched["values"] if matched else text
    remedy = remedy_for(kind, name, found["vhost"], None if _WITHOUT in values else argument)
    return Difference(kind, name, argument, values, remedy)


def remedy_for(kind: str, name: str, vhost: str, argument: str | None) -> str:
    """Return how to mend an exchange or a queue that differs.

    `argument`: the only one that differs, if a setting here can follow it."""
    if kind == "queue":
        command = f"rabbitmqctl delete_queue -p {shlex.quote(vhost)} {name}"
        mend = f"delete the queue on the broker (`{command}`) so that it is made anew"
    else:
        # rabbitmqctl can't delete one. All nodes' bindings go with it, and each node makes its own anew.
        mend = f"delete the {kind} on its management page, then start every node anew or import `topology export`"
    setting = _REMEDIES.get(argument) if argument else None
    return f"{setting}, or {mend}" if setting else mend


def is_different(error: pika.exceptions.AMQPError) -> bool:
    """Whether a thing exists otherwise than it was declared (406)."""
    return reply_code(error) == _PRECONDITION_FAILED


def _from_channel(code: int, text: str, where: str) -> RowferryError:
    if code == _PRECONDITION_FAILED:
        return _from_precondition(text, where)
    if code == _ACCESS_REFUSED:
        return OutageError(f"{where} refuses a right: {text}: `rowferry topology export` shows what a node needs")
    if code == _NOT_FOUND:
        return OutageError(f"{where}: {text}: start a node whose user may declare it, or import `topology export`")
    return OutageError(f"{where} closed the channel: {code} {text}")


def _from_precondition(text: str, where: str) -> RowferryError:
    different = difference(text)
    if different:
        return _different(different, where)
    if "user_id" in text:
        return ConfigError(f"{where}: {text}: the user in [broker] url must be the one that signs in")
    if "larger than" in text:
        return ConfigError(f"{where}: {text}: lower [broker] max_message_bytes, or raise the broker's max_message_size")
    # For one: an acknowledgement that took longer than the broker's consumer_timeout. The messages come again.
    return OutageError(f"{where} closed the channel: {text}")


def _different(found: Difference, where: str) -> ConfigError:
    return ConfigError(
        f"{where}: {found.kind} {found.name!r} exists with another {found.argument!r} ({found.values}): "
        f"{found.remedy}; what was in a deleted node queue is a gap, which `rowferry status` names"
    )


def _root(error: BaseException) -> BaseException:
    """Return the innermost cause that pika wrapped while it connected."""
    inner: Any = None
    if isinstance(error, workflow.AMQPConnectionWorkflowFailed) and error.exceptions:
        inner = error.exceptions[-1]
    elif isinstance(error, workflow.AMQPConnectorPhaseErrorBase):
        inner = error.exception
    elif isinstance(error, pika.exceptions.AMQPConnectionError) and error.args:
        inner = error.args[0]
    return _root(inner) if isinstance(inner, BaseException) else error


def _own_tls(settings: RabbitSettings) -> bool:
    return bool(settings.tls_ca_file or settings.tls_cert_file)


def tls_context(settings: RabbitSettings) -> ssl.SSLContext:
    """Return what the broker's certificate is checked against, and what this node shows it.

    Raises OSError, CertificateError."""
    try:
        context = ssl.create_default_context(cafile=settings.tls_ca_file)
    except ssl.SSLError as error:
        raise CertificateError(f"broker.tls_ca_file: {settings.tls_ca_file} can't be used: {error}") from error
    if settings.tls_cert_file:
        key_file = None if settings.tls_key_file is None else Path(settings.tls_key_file)
        pair = Pair("broker", Path(settings.tls_cert_file), key_file)
        pair.read()
        pair.load_into(context)
    return context


def _close(connection: pika.BlockingConnection) -> None:
    if not connection.is_open:
        return
    try:
        connection.close()
    except LIBRARY_ERRORS:
        # It was lost while it closed: what the caller wanted has been done, or its own error is on its way up.
        return
