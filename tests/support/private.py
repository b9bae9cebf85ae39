"""Files for their owner alone, as a configuration with a password in it has to be."""

from __future__ import annotations

from pathlib import Path


def write_private(file: Path, text: str) -> Path:
    """Write a file that nobody else may read; line ends stay as they are. Returns it."""
    file.touch(0o600)
    # One that stood there keeps its mode.
    file.chmod(0o600)
    file.write_bytes(text.encode())
    return file
