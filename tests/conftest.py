"""Settings of the whole test suite: plugins, hypothesis profiles, and the checks that hold for every test."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

pytest_plugins = ["tests.fixtures.containers"]

_SERVICES_FILE = Path(__file__).resolve().parents[1] / ".cache" / "test-services.env"
_THREAD_GRACE_SECONDS = 5.0


def _read_services_file() -> None:
    """Take over what `make services` found out, so that a bare `pytest` works too.  The environment wins."""
    if not _SERVICES_FILE.exists():
        return
    for line in _SERVICES_FILE.read_text().splitlines():
        key, separator, value = line.partition("=")
        if separator and not key.startswith("#"):
            os.environ.setdefault(key, value)


_read_services_file()
# Shared containers outlive the session that made them, and with several workers the first to end is not the last to
# need them: testcontainers' reaper must stay off.  `make clean` removes what is left.  Set before its first import.
os.environ["TESTCONTAINERS_RYUK_DISABLED"] = "true"

# The same examples at each run and no limit on one example's time: a busy CI machine must not decide over a commit.
settings.register_profile(
    "ci", derandomize=True, deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("dev", deadline=None, max_examples=60)
# Looks for new examples each night.
settings.register_profile(
    "nightly", deadline=None, max_examples=1000, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "dev"))


@pytest.fixture(autouse=True)
def no_leaked_threads() -> Iterator[None]:
    """Fail a test that leaves a non-daemon thread behind: it would keep a real process from ending."""
    before = set(threading.enumerate())
    yield
    deadline = time.monotonic() + _THREAD_GRACE_SECONDS
    left = []
    for thread in threading.enumerate():
        if thread in before or thread.daemon:
            continue
        thread.join(max(0.0, deadline - time.monotonic()))
        if thread.is_alive():
            left.append(thread.name)
    if left:
        pytest.fail(f"left non-daemon threads running: {', '.join(sorted(left))}", pytrace=False)
