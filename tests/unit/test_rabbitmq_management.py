"""The way to the management API: an administrator's password goes there and nowhere else."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from common.errors import OutageError
from common.transports.rabbitmq.management import Management


@contextmanager
def answering(location: str | None) -> Iterator[tuple[str, list[str | None]]]:
    """Answer everything, by sending it elsewhere where there is a `location`; give the URL and who came."""
    shown: list[str | None] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            shown.append(self.headers.get("Authorization"))
            self.send_response(200 if location is None else 302)
            if location is not None:
                self.send_header("Location", location)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", shown
        finally:
            server.shutdown()
            thread.join()


def test_the_password_does_not_follow_to_elsewhere() -> None:
    with answering(None) as (elsewhere, shown), answering(f"{elsewhere}/api/whoami") as (url, asked):
        there = Management(url, "admin", "secret", ssl.create_default_context())
        with pytest.raises(OutageError, match="answers 302"):
            there.get("whoami")
    assert (len(asked), shown) == (1, [])
