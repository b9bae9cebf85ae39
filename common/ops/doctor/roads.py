"""The ways that batches take: the broker's topology and account, the shared folder."""

import os
import tempfile
from collections.abc import Iterable, Iterator

from common.config.model import BrokerSection, Config
from common.errors import ConfigError, OutageError, RowferryError
from common.http.certificates import NOT_TRUSTED, CertificateError, Pair
from common.http.scopes import Scope
from common.ops.doctor.signatures import for_whom
from common.ops.listening import IN_THE_OPEN_REMEDY, address_fault, in_the_open, is_in_the_open
from common.ops.tokens import Token
from common.ports.health import Finding, Level

_BROKER_CA = (
    "put the certificate of the CA that signed the broker's (PEM) into broker.tls_ca_file; there, use one that is "
    "valid now and for the name in broker.url"
)
_CA = "put the certificate of the CA that signed the one of {0} (PEM) into peers.{0}.tls_ca_file here"


def broker_findings(config: Config) -> Iterator[Finding]:
    """Look at the broker, if there is one; changes nothing on it."""
    if config.broker is None:
        return
    if not config.broker.is_rabbitmq:
        yield from _other_broker(config, config.broker)
        text = "this broker does not prove senders, and confirms less than RabbitMQ (docs/reference/transports.md)"
        yield Finding("broker", Level.NOTE, text)
        return
    yield from _topology(config)
    yield from _proof(config, config.broker)


def _other_broker(config: Config, broker: BrokerSection) -> Iterator[Finding]:
    # Not at the top: kombu takes a part of a second to import.
    from common.transports.kombu_broker import KombuSettings, look

    try:
        look(KombuSettings(broker.url, config.node.id))
    except OutageError as error:
        yield _unreachable(error, "start it, or correct broker.url")
    except ConfigError as error:
        yield Finding("broker", Level.FAIL, str(error))


def _unreachable(error: OutageError, remedy: str) -> Finding:
    return Finding("broker", Level.FAIL, f"can't be reached: {error}", remedy, unreachable=True)


def _topology(config: Config) -> Iterator[Finding]:
    # Not at the top: pika takes a part of a second to import.
    from common.ops.topology import check, problems, unchecked

    try:
        found = check(config, None, None)
    except OutageError as error:
        yield _unreachable(error, _BROKER_CA if NOT_TRUSTED in str(error) else "start it, or correct broker.url")
        return
    except ConfigError as error:
        yield Finding("broker", Level.FAIL, str(error))
        return
    wrong, unseen = problems(found), unchecked(found)
    for one in wrong:
        yield Finding("broker", Level.FAIL, f"{one.state.value}: {one.kind} {one.name}: {one.detail}", one.remedy)
    if unseen:
        text = f"{len(unseen)} things can't be seen with this account"
        yield Finding("broker", Level.NOTE, text, "rowferry topology check --management URL compares them")
    if not wrong:
        yield Finding(
            "broker", Level.OK, f"{len(found) - len(unseen)} exchanges, queues and bindings are as they should be"
        )


def _proof(config: Config, broker: BrokerSection) -> Iterator[Finding]:
    whom = for_whom(config)
    if not broker.verify_user and whom is not None:
        text = f"unauthenticated: whoever has an account on the broker can speak for {whom}"
        remedy = "create a user per node (rowferry topology export), set broker.verify_user = true; or use signatures"
        yield Finding("broker", Level.WARN, text, remedy)
    if broker.url.startswith("amqp://"):
        yield Finding("broker", Level.NOTE, "the connection is not encrypted", "use amqps:// with broker.tls_ca_file")


def peer_findings(config: Config) -> Iterator[Finding]:
    """Ask each HTTP peer who it is, with this node's token."""
    if not config.peers:
        return
    # Not at the top: HTTP takes a part of a second to import.
    from common.transports.http.peer import asked_state
    from common.transports.http.settings import settings_of

    for name, peer in config.peers.items():
        try:
            state = asked_state(settings_of(name, peer), config.node.id)
        except OutageError as error:
            remedy = f"start rowferry serve there, or correct peers.{name}.url (https:// if it uses TLS)"
            if NOT_TRUSTED in str(error):
                remedy = f"{_CA.format(name)}; there, use one that is valid now and for the name in peers.{name}.url"
            yield Finding("peers", Level.FAIL, f"{name} can't be reached: {error}", remedy, unreachable=True)
            continue
        except CertificateError as error:
            yield Finding("peers", Level.FAIL, f"{name}: {error}", _CA.format(name))
            continue
        except RowferryError as error:
            remedy = (
                f"run rowferry token create --node {config.node.id} there, put it into peers.{name}.token_file here"
            )
            yield Finding("peers", Level.FAIL, f"{name}: {error}", remedy)
            continue
        yield Finding("peers", Level.OK, f"{peer.url} is {state.node} ({state.role}), and accepts this node's token")


def server_findings(config: Config, now_us: int) -> Iterator[Finding]:
    """Look at where `serve` listens, and at the certificate with which it answers where it does TLS itself."""
    server = config.server
    if is_in_the_open(server):
        yield Finding("server", Level.FAIL, f"{in_the_open(server)}: serve does not start", IN_THE_OPEN_REMEDY)
    if (fault := address_fault(server)) is not None:
        yield Finding(
            "server", Level.FAIL, fault, "set server.host to an address of this machine; ports below 1024 need root"
        )
    if server.tls_cert_file is None:
        return
    try:
        certificate = Pair("server", server.tls_cert_file, server.tls_key_file).read()
    except CertificateError as error:
        yield Finding(
            "server", Level.FAIL, str(error), "provide a certificate and its key in PEM; serve can't start without"
        )
        return
    fault, until = certificate.fault(now_us), f"{certificate.ends:%Y-%m-%d %H:%M} UTC"
    if fault is not None:
        remedy = "renew it under the same file names: serve loads it within a minute; or correct this machine's clock"
        yield Finding("server", Level.FAIL, f"server.tls_cert_file: {server.tls_cert_file} {fault}", remedy)
    elif certificate.ends_soon(now_us):
        text = f"server.tls_cert_file: {server.tls_cert_file} expires on {until}"
        yield Finding("server", Level.WARN, text, "renew it under the same file names: serve loads it within a minute")
    else:
        yield Finding("server", Level.OK, f"the certificate is valid until {until}")


def handing_on_findings(config: Config, tokens: Iterable[Token], now_us: int) -> Iterator[Finding]:
    """Name those whose changes come over HTTP alone, where others are on the broker: nothing goes on to these."""
    if config.broker is None:
        return
    pushing = {one.node_id for one in tokens if Scope.PUSH in one.scopes and one.works_at(now_us)}
    if names := sorted(pushing - {config.node.id}):
        whose = f"what {', '.join(names)} may push over HTTP"
        text = f"{whose} is handed on to nodes that pull here, not to nodes that are only on the broker"
        yield Finding("broker", Level.NOTE, text, "set [broker] on these nodes too, or [peers] to here on the others")


def main_findings(config: Config, main: str | None) -> Iterator[Finding]:
    """Say where a peer's own word decides whether it may hand on others' batches. `main`: as far as it is known."""
    if config.node.role != "branch" or main is not None:
        return
    undecided = [name for name, peer in config.peers.items() if peer.trusted_forwarder is None]
    if len(undecided) < 2:
        return
    text = f"no node is known to be main: whichever of {', '.join(undecided)} claims to be can speak for any node"
    remedy = "set node.main to the main node's id, or peers.NAME.trusted_forwarder for each"
    yield Finding("peers", Level.WARN, text, remedy)


def directory_findings(config: Config) -> Iterator[Finding]:
    """Look at the shared folder, if there is one: whether this node can read it, and write its own part."""
    if config.directory is None:
        return
    path, own = config.directory.path, config.directory.path / config.node.id
    if not path.is_dir():
        what, remedy = "not there", "mount the share, or run rowferry migrate to create it"
        if path.exists():
            what, remedy = "not a folder", "correct directory.path"
        yield Finding("directory", Level.FAIL, f"{path} is {what}", remedy)
        return
    try:
        os.listdir(path)
        with tempfile.NamedTemporaryFile(dir=own if own.is_dir() else path, prefix=".rowferry-doctor-"):
            pass
    except OSError as error:
        yield Finding(
            "directory", Level.FAIL, f"{error.filename or path}: {error.strerror}", "give this account permission"
        )
        return
    yield Finding("directory", Level.OK, f"{path} can be read and written")
    whom = for_whom(config)
    if whom is not None:
        text = f"unauthenticated: whoever can write the folder can speak for {whom}"
        remedy = "let only the nodes' accounts write there; set node.require_signed"
        yield Finding("directory", Level.NOTE, text, remedy)
