"""The node's own certificate: what is wrong with its files, when it ends, and renewed under a running server."""

from __future__ import annotations

import logging
import sqlite3
import ssl
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from common.config.model import ServerSection
from common.errors import ConfigError, OutageError
from common.http.certificates import CertificateError, Pair
from common.transports.http.client import PeerClient
from common.transports.http.settings import PeerSettings
from common.web import renewal
from common.web.server import serving
from tests.integration.test_doctor import configured, told
from tests.support.applying import sqlite_url
from tests.support.certificates import certificate
from tests.support.cli import rowferry
from tests.support.waiting import wait_for
from tests.support.web import served_on_sqlite


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    made = Pair("server", tmp_path / "cert.pem", tmp_path / "key.pem")
    renew(made)
    return made


def renew(pair: Pair, **how: float | bytes) -> None:
    assert pair.key_file is not None
    certificate(pair.cert_file, pair.key_file, **how)  # type: ignore[arg-type]


def section(pair: Pair) -> ServerSection:
    return ServerSection(port=0, tls_cert_file=pair.cert_file, tls_key_file=pair.key_file)


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("cert", b"", "cert.pem holds no certificate"),
        ("cert", b"\x00\xff" * 200, "cert.pem holds no certificate"),
        ("cert", None, "cert.pem holds a certificate that is torn"),
        ("key", b"", "key.pem holds no private key"),
        ("key", None, "key.pem holds no private key"),
        (
            "key",
            b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
            "key.pem holds a private key that is",
        ),
    ],
)
def test_what_is_wrong_with_a_file_is_said_of_that_file(
    pair: Pair, file: str, content: bytes | None, words: str
) -> None:
    chosen = pair.cert_file if file == "cert" else pair.key_file
    assert chosen is not None
    chosen.write_bytes(chosen.read_bytes()[:120] if content is None else content)
    with pytest.raises(ConfigError, match=rf"^server\.tls_{file}_file: .*{words}"), serving(None, section(pair)):  # type: ignore[arg-type]
        pass


def test_a_key_of_another_certificate_and_one_with_a_password_are_named(pair: Pair, tmp_path: Path) -> None:
    other = Pair("server", tmp_path / "other.pem", tmp_path / "other.key")
    renew(other)
    with pytest.raises(CertificateError, match=r"tls_key_file: .*other\.key is not the key of .*cert\.pem"):
        Pair("server", pair.cert_file, other.key_file).read()
    with pytest.raises(CertificateError, match=r"tls_cert_file: .*cert\.pem holds no private key: set server"):
        Pair("server", pair.cert_file, None).read()
    renew(pair, password=b"secret")
    with pytest.raises(ConfigError, match=r"tls_key_file: .*key\.pem is encrypted"), serving(None, section(pair)):  # type: ignore[arg-type]
        pass
    with pytest.raises(CertificateError, match="is encrypted"):
        pair.load_into(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))


def test_both_may_be_one_file(pair: Pair, tmp_path: Path) -> None:
    both = tmp_path / "both.pem"
    both.touch(0o600)
    assert pair.key_file is not None
    both.write_bytes(pair.key_file.read_bytes() + pair.cert_file.read_bytes())
    one = Pair("server", both, None)
    one.read()
    one.load_into(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))


def answers(url: str, trusted: Path) -> bool:
    with httpx.Client(verify=ssl.create_default_context(cafile=str(trusted)), trust_env=False) as client:
        try:
            return client.get(f"{url}/healthz").status_code == 200
        except httpx.ConnectError:
            return False


def test_a_renewed_certificate_is_shown_without_a_restart(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(renewal, "LOOK_SECONDS", 0)
    first = tmp_path / "first.pem"
    first.write_bytes(pair.cert_file.read_bytes())

    def messages() -> list[str]:
        return [record.message for record in caplog.records]

    with caplog.at_level(logging.INFO), served_on_sqlite(tmp_path, section(pair)) as node:
        assert answers(node.url, first)
        # The certificate comes first, and its key a moment later.
        renewed = Pair("server", tmp_path / "new.pem", tmp_path / "new.key")
        renew(renewed, days=365)
        assert pair.key_file is not None
        assert renewed.key_file is not None
        renewed.cert_file.rename(pair.cert_file)
        wait_for(lambda: "serve.certificate_not_taken" in messages(), 60, "the look at the torn pair")
        assert answers(node.url, first)
        renewed.key_file.rename(pair.key_file)
        wait_for(lambda: "serve.certificate_renewed" in messages(), 60, "the renewed certificate")
        for url in (node.url, node.url.replace("127.0.0.1", "localhost")):
            assert answers(url, pair.cert_file)
            assert not answers(url, first)
    assert messages().count("serve.certificate_not_taken") == 1


@pytest.mark.parametrize(
    ("days", "begins_in", "event"),
    [
        (-1, -30, "serve.certificate_refused"),
        (30, 1, "serve.certificate_refused"),
        (13, -30, "serve.certificate_ends_soon"),
        (15, -30, None),
    ],
)
def test_serve_warns_of_a_certificate_that_others_refuse(
    pair: Pair, days: float, begins_in: float, event: str | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    renew(pair, days=days, begins_in=begins_in)
    with served_on_sqlite(tmp_path, section(pair)):
        found = [record.message for record in caplog.records if "certificate" in record.message]
    assert found == ([] if event is None else [event])


def test_doctor_tells_of_the_certificate(pair: Pair, tmp_path: Path) -> None:
    text = f'[server]\ntls_cert_file = "{pair.cert_file}"\ntls_key_file = "{pair.key_file}"\n'
    config = configured(tmp_path, sqlite_url(tmp_path), text)
    with closing(sqlite3.connect(tmp_path / "app.db")) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE sale (id TEXT PRIMARY KEY, note TEXT)")
    assert rowferry(config, "migrate").exit_code == 0

    def of_server(level: str, code: int = 0) -> str:
        ((_, message, remedy),) = [one for one in told(config, code)[level] if one[0] == "server"]
        return f"{message} {remedy}"

    assert "valid until" in of_server("ok")
    renew(pair, days=10)
    assert "expires on" in of_server("warn")
    renew(pair, days=-1)
    assert "expired on" in of_server("fail", 1)
    pair.cert_file.write_text("nothing")
    assert "holds no certificate" in of_server("fail", 1)


def test_a_peer_with_tls_that_is_asked_without_is_told_so(pair: Pair, tmp_path: Path) -> None:
    with (
        served_on_sqlite(tmp_path, section(pair)) as node,
        closing(PeerClient(PeerSettings(node.url.replace("https://", "http://")))) as client,
        pytest.raises(OutageError, match="begins with https://"),
    ):
        client.state()


def test_doctor_tells_what_is_wrong_with_the_trust_in_a_peer(pair: Pair, tmp_path: Path) -> None:
    other, token = Pair("server", tmp_path / "other.pem", tmp_path / "other.key"), tmp_path / "token"
    renew(other)
    token.touch(0o600)
    token.write_text("rf_x_y")
    shop = tmp_path / "shop"
    shop.mkdir()
    with closing(sqlite3.connect(shop / "app.db")) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
    assert rowferry(configured(shop, sqlite_url(shop)), "migrate").exit_code == 0
    with served_on_sqlite(tmp_path, section(pair)) as node:
        for trusted, code in ((tmp_path / "nowhere.pem", 1), (token, 1), (other.cert_file, 5)):
            peer = f'[peers.here]\nurl = "{node.url}"\ntoken_file = "{token}"\ntls_ca_file = "{trusted}"\n'
            config = configured(shop, sqlite_url(shop), peer)
            found = [one for one in told(config, code)["fail"] if one[0] == "peers"]
            assert len(found) == 1
            assert (code == 5) == ("its certificate is not trusted" in found[0][1])
            assert "into peers.here.tls_ca_file here" in found[0][2]
            assert "token" not in found[0][2]
