"""What connection settings become, and what pika's exceptions mean."""

from __future__ import annotations

import socket
import ssl
import subprocess
import sys
from pathlib import Path

import pika.exceptions
import pytest
from pika.adapters.utils import connection_workflow as workflow

from common.errors import ConfigError, OutageError
from common.transports.rabbitmq.connection import parameters, place, short_connection, translate, user_of
from common.transports.rabbitmq.settings import RabbitSettings
from tests.support.certificates import certificate

SETTINGS = RabbitSettings(url="amqp://store-1:p%40ss@broker.example:5673/shop", node_id="store-1")


def test_parameters_name_the_connection_and_keep_heartbeats() -> None:
    made = parameters(SETTINGS, "publisher")
    assert (made.host, made.port, made.virtual_host) == ("broker.example", 5673, "shop")
    assert (made.credentials.username, made.credentials.password) == ("store-1", "p@ss")
    assert made.client_properties["connection_name"] == "rowferry store-1 publisher"
    assert (made.heartbeat, made.blocked_connection_timeout, made.connection_attempts) == (30, 30.0, 1)
    assert made.ssl_options is None


def test_the_url_may_set_the_heartbeat() -> None:
    assert parameters(RabbitSettings(url="amqp://host/?heartbeat=7", node_id="a"), "publisher").heartbeat == 7


def test_tls_checks_certificate_and_name() -> None:
    made = parameters(RabbitSettings(url="amqps://u:p@broker.example/", node_id="a"), "publisher")
    assert made.port == 5671
    assert made.ssl_options.context.verify_mode is ssl.CERT_REQUIRED
    assert made.ssl_options.context.check_hostname


def test_a_certificate_file_that_is_missing_is_a_config_error(tmp_path: Path) -> None:
    broken = RabbitSettings(url="amqps://u:p@host/", node_id="a", tls_ca_file=str(tmp_path / "none.pem"))
    with pytest.raises(ConfigError, match="TLS files"):
        parameters(broken, "publisher")


def test_a_file_of_certificates_that_holds_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("none\n")
    broken = RabbitSettings(url="amqps://u:p@host/", node_id="a", tls_ca_file=str(tmp_path / "ca.pem"))
    with pytest.raises(ConfigError, match=r"^broker\.tls_ca_file: .*ca\.pem can't be used"):
        parameters(broken, "publisher")


def test_a_key_with_a_password_is_refused_rather_than_asked_for(tmp_path: Path) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    certificate(cert, key, password=b"secret")
    shown = RabbitSettings(url="amqps://u:p@host/", node_id="a", tls_cert_file=str(cert), tls_key_file=str(key))
    with pytest.raises(ConfigError, match=r"broker\.tls_key_file: .*key\.pem is encrypted"):
        parameters(shown, "publisher")


def test_a_user_without_a_password_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="no password"):
        parameters(RabbitSettings(url="amqp://shop@host/", node_id="a"), "publisher")


def test_no_password_where_settings_are_shown() -> None:
    assert "p@ss" not in place(SETTINGS)
    assert "p%40ss" not in repr(SETTINGS)


def test_place_and_user_have_the_same_defaults_as_the_connection() -> None:
    for url in ("amqp://", "amqps://host", "amqp://%75ser:p@host/a%2Fb", "amqp://u:p@[::1]:7/"):
        configured = RabbitSettings(url=url, node_id="a")
        made = parameters(configured, "publisher")
        assert place(configured) == f"broker {made.host}:{made.port}, vhost {made.virtual_host!r}"
        assert user_of(configured) == made.credentials.username


def test_a_late_acknowledgement_is_no_config_error() -> None:
    text = "PRECONDITION_FAILED - delivery acknowledgement on channel 1 timed out. Timeout value used: 1800000 ms"
    assert type(translate(pika.exceptions.ChannelClosedByBroker(406, text), SETTINGS)) is OutageError


def test_the_cause_inside_pikas_wrappers_is_named() -> None:
    inner = workflow.AMQPConnectorSocketConnectError(ConnectionRefusedError(111, "Connection refused"))
    wrapped = pika.exceptions.AMQPConnectionError(workflow.AMQPConnectionWorkflowFailed([inner]))
    assert "ConnectionRefusedError" in str(translate(wrapped, SETTINGS))


def _tls_error(reason: str) -> ssl.SSLError:
    error = ssl.SSLError(1, f"[SSL: {reason}] wrong version number (_ssl.c:1006)")
    error.reason = reason
    return error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (pika.exceptions.AMQPHeartbeatTimeout("x"), "heartbeat"),
        (pika.exceptions.ConnectionBlockedTimeout("x"), "blocks publishers"),
        (workflow.AMQPConnectorStackTimeout("x"), "does not answer within 8 s"),
        (pika.exceptions.ProbableAccessDeniedError("x"), "may not enter"),
        (
            pika.exceptions.ProbableAccessDeniedError("access refused for user 'u': connection limit (3) is reached"),
            "a limit of the vhost or the user is reached",
        ),
        (pika.exceptions.ConnectionClosedByBroker(530, "NOT_ALLOWED - vhost shop not found"), "does not let"),
        (pika.exceptions.ConnectionClosedByBroker(320, "CONNECTION_FORCED"), "out of reach"),
        (pika.exceptions.ChannelClosedByBroker(404, "NOT_FOUND - no queue"), "topology export"),
        (pika.exceptions.ChannelClosedByBroker(500, "INTERNAL"), "500"),
        (TimeoutError("slow"), "out of reach"),
        (_tls_error("WRONG_VERSION_NUMBER"), "does not speak TLS at this port"),
        (pika.exceptions.IncompatibleProtocolError("StreamLostError: x"), "a port for TLS (amqps://)"),
    ],
)
def test_everything_else_is_an_outage_that_says_why(error: Exception, said: str) -> None:
    found = translate(error, SETTINGS)
    assert type(found) is OutageError
    assert said in str(found)
    assert "broker.example:5673" in str(found)


def test_a_connection_that_is_reset_at_once_is_an_outage() -> None:
    """At every moment of its start: pika gives a bare ValueError where the reset comes before it asks for the address
    of the other side."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        # A process of its own that never sleeps: any other comes too late, when pika has asked already.
        resetting = subprocess.Popen(
            [sys.executable, "-c", _RESETTING, str(listener.fileno())], pass_fds=[listener.fileno()]
        )
        try:
            url = f"amqp://u:p@127.0.0.1:{listener.getsockname()[1]}/"
            for _ in range(100):
                with (
                    pytest.raises(OutageError, match="out of reach"),
                    short_connection(RabbitSettings(url=url, node_id="a"), "test"),
                ):
                    pass
        finally:
            resetting.kill()
            resetting.wait(30)


# Closed without lingering: the other side sees a reset, not an end.
_RESETTING = """
import socket, struct, sys
listener = socket.socket(fileno=int(sys.argv[1]))
listener.setblocking(False)
while True:
    try:
        here, _ = listener.accept()
    except BlockingIOError:
        continue
    here.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    here.close()
"""
