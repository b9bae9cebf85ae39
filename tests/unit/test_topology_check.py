"""`topology check` where no broker answers as it should."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from tests.support.cli import document, rowferry

URL = "amqp://main:s3cret@127.0.0.1:1/shop"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "rowferry.toml"
    document(file, "init", "--node", "main", "--database", "sqlite:///app.db", "--broker", URL)
    return file


@contextmanager
def answering(status: int, body: bytes) -> Iterator[str]:
    """An HTTP server that gives everybody the same answer."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
            """Nobody reads it."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def nobody() -> Iterator[str]:
    """A port that is taken and where nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


def test_a_broker_that_is_away(config: Path) -> None:
    result = rowferry(config, "topology", "check", "--json")
    assert result.exit_code == 5, result.output
    assert result.stdout == ""
    assert "s3cret" not in result.output
    with nobody() as url:
        away = rowferry(config, "topology", "check", "--management", url)
    assert away.exit_code == 5, away.output
    assert f"the management API at {url} is out of reach" in away.stderr


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (200, b"<html>", "not as a management API"),
        (404, b"", "not as a management API"),
        (401, b"{}", "refuses user 'main'"),
        (503, b"", "answers 503"),
    ],
)
def test_what_is_no_management_api(config: Path, status: int, body: bytes, said: str) -> None:
    with answering(status, body) as url:
        result = rowferry(config, "topology", "check", "--management", url)
    assert result.exit_code == 5, result.output
    assert said in result.stderr
    assert "s3cret" not in result.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--management", "ftp://host"), "http://admin@host:15672"),
        (("--management", "host:15672"), "http://admin@host:15672"),
        (("--password-file", "rowferry.toml"), "give both"),
        (("--management", "http://host", "--password-file", "gone"), "gone"),
    ],
)
def test_usage(config: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], said: str) -> None:
    monkeypatch.chdir(config.parent)
    result = rowferry(config, "topology", "check", *arguments)
    assert result.exit_code == 2, result.output
    assert said in result.stderr


def test_a_password_that_others_can_read_is_refused(config: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x")
    secret.chmod(0o644)
    result = rowferry(config, "topology", "check", "--management", "http://host", "--password-file", str(secret))
    assert result.exit_code == 2
    assert "--password-file: " in result.stderr
    assert "chmod 600" in result.stderr
