"""amqps: a trusted certificate works, any other is refused with the reason."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from common.errors import OutageError
from common.transports.rabbitmq import RabbitSettings, open_sink
from tests.support.cli import document, rowferry
from tests.support.rabbitmq import drain, publish, settings, source


class TlsFront:
    """Takes TLS connections and hands them on to a broker without."""

    def __init__(self, host: str, port: int, certificate: Path, key: Path) -> None:
        self._target = (host, port)
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._context.load_cert_chain(certificate, key)
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=[self._serve()])
        self.port = 0

    def __enter__(self) -> TlsFront:
        self._thread.start()
        assert self._ready.wait(60)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._loop.close()

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0, ssl=self._context)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.gather(*others, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        broker_reader, broker_writer = await asyncio.open_connection(*self._target)
        await asyncio.gather(self._copy(reader, broker_writer), self._copy(broker_reader, writer))

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1 and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("needs the openssl command")
    folder = tmp_path_factory.mktemp("tls")
    made = folder / "cert.pem", folder / "key.pem"
    command = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1"
    )
    subprocess.run([*command.split(), "-out", made[0], "-keyout", made[1]], check=True, capture_output=True)
    return made


@pytest.fixture
def behind_tls(rabbitmq_url: str, certificate: tuple[Path, Path]) -> Iterator[RabbitSettings]:
    """Settings that reach the broker through TLS, trusting nobody in particular."""
    parts = urlsplit(rabbitmq_url)
    assert parts.hostname
    assert parts.port
    with TlsFront(parts.hostname, parts.port, *certificate) as front:
        netloc = f"{parts.username}:{parts.password}@127.0.0.1:{front.port}"
        yield settings(parts._replace(scheme="amqps", netloc=netloc).geturl(), "store-2")


def test_batches_travel_through_tls(behind_tls: RabbitSettings, certificate: tuple[Path, Path]) -> None:
    trusting = replace(behind_tls, tls_ca_file=str(certificate[0]))
    with source(trusting) as consumer:
        publish(replace(trusting, node_id="store-1"), 1, 2)
        assert drain(consumer, 2) == ["body 1", "body 2"]


def test_status_uses_the_configured_files(
    behind_tls: RabbitSettings, certificate: tuple[Path, Path], tmp_path: Path
) -> None:
    config = tmp_path / "rowferry.toml"
    document(config, "init", "--node", "store-2", "--database", "sqlite:///a.db", "--broker", behind_tls.url)
    config.write_text(config.read_text().replace("[broker]", f'[broker]\ntls_ca_file = "{certificate[0]}"'))
    document(config, "migrate")
    queues = document(config, "status")["queues"]
    assert queues["error"] is None
    assert queues["depths"]["rowferry.node.store-2"] == 0


def test_an_unknown_certificate_is_refused(behind_tls: RabbitSettings) -> None:
    with pytest.raises(OutageError, match="certificate is not trusted"):
        open_sink(behind_tls)


def test_a_certificate_for_another_name_is_refused(behind_tls: RabbitSettings, certificate: tuple[Path, Path]) -> None:
    other_name = replace(
        behind_tls, url=behind_tls.url.replace("@127.0.0.1", "@localhost"), tls_ca_file=str(certificate[0])
    )
    with pytest.raises(OutageError, match=r"certificate is not trusted.*localhost"):
        open_sink(other_name)


def test_doctor_says_how_to_trust_the_broker(behind_tls: RabbitSettings, tmp_path: Path) -> None:
    config = tmp_path / "rowferry.toml"
    document(config, "init", "--node", "store-2", "--database", "sqlite:///a.db", "--broker", behind_tls.url)
    assert rowferry(config, "migrate").exit_code == 5
    (found,) = [one for one in document(config, "doctor", code=5)["findings"] if one["level"] == "fail"]
    assert "certificate is not trusted" in found["message"]
    assert "broker.tls_ca_file" in found["remedy"]
