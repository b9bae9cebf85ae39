"""A folder beside a database for a copy of it, for as long as somebody works at it."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common.file_locks import lock

_PREFIX = ".rowferry-copy-"
# Windows can't open a folder: there nothing tells whether somebody still works in it.
_FOLDER = getattr(os, "O_DIRECTORY", None)


@contextmanager
def folder_beside(database: Path) -> Iterator[Path]:
    """Make a new folder beside `database`, and take it away at the end; so with those that a SIGKILL left there.

    Beside the file: that there is as much room in the temporary folder nobody has promised."""
    home = database.resolve().parent
    _remove_abandoned(home)
    with tempfile.TemporaryDirectory(prefix=_PREFIX, dir=home) as made:
        fd = None if _FOLDER is None else os.open(made, os.O_RDONLY | _FOLDER)
        try:
            if fd is not None:
                lock(fd)
            yield Path(made)
        finally:
            if fd is not None:
                os.close(fd)


def _remove_abandoned(home: Path) -> None:
    if _FOLDER is None:
        return
    for folder in home.glob(f"{_PREFIX}*"):
        try:
            fd = os.open(folder, os.O_RDONLY | _FOLDER | os.O_NOFOLLOW)
        except OSError:
            # Its maker has just taken it away, or it is another account's: none that is ours to remove.
            continue
        try:
            if lock(fd):
                shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(fd)
