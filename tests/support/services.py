"""What `make services` found out, for pytest and for programs beside it."""

from __future__ import annotations

import os
from pathlib import Path

_SERVICES_FILE = Path(__file__).resolve().parents[2] / ".cache" / "test-services.env"


def read_services_file() -> None:
    """Take over what `make services` found out, so that a bare `pytest` works too.  The environment wins."""
    if _SERVICES_FILE.exists():
        for line in _SERVICES_FILE.read_text().splitlines():
            key, separator, value = line.partition("=")
            if separator and not key.startswith("#"):
                os.environ.setdefault(key, value)
    # Shared containers outlive the session that made them, and with several workers the first to end is not the last
    # to need them: testcontainers' reaper must stay off.  `make clean` removes what is left.  Set before its import.
    os.environ["TESTCONTAINERS_RYUK_DISABLED"] = "true"
