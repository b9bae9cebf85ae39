"""What counts as this machine: there alone tokens and rows may travel without TLS."""

from __future__ import annotations

import pytest

from common.transports.http.settings import is_loopback_url


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.0.1", "localhost", "LOCALHOST", "[::1]"])
def test_this_machine(host: str) -> None:
    assert is_loopback_url(f"http://{host}:8765/")


@pytest.mark.parametrize(
    "host", ["127.example.org", "127.0.0.1.example.org", "localhost.example.org", "192.0.2.1", "[::2]"]
)
def test_a_name_that_begins_like_it_is_anybody(host: str) -> None:
    assert not is_loopback_url(f"http://{host}:8765/")
