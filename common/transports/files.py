"""Files that are whole or not there: temporary name, fsync, a name that replaces nothing, fsync of the folder."""

import errno
import os
import stat
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from common.crash_points import CrashPoint, reach
from common.errors import OutageError
from common.file_locks import lock

TEMPORARY_PREFIX = ".rowferry-"
TEMPORARY_SUFFIX = ".tmp"
_BLOCK = 1024 * 1024
# Windows has none of these flags; there, links need a privilege, and a file that is open can't be removed.
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
_NO_WAIT = getattr(os, "O_NONBLOCK", 0)
_FOLDER = getattr(os, "O_DIRECTORY", 0)
_BINARY = getattr(os, "O_BINARY", 0)
_NO_HARD_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
_NO_FOLDER_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP}
THIS_ALONE = frozenset({errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENOTDIR, errno.ENXIO})
"""These concern the one file or folder of a share; anything else is the share's trouble, and so an outage."""
_REMEDIES = {
    errno.ENOSPC: "free space there",
    errno.EDQUOT: "free space there, or raise the quota",
    errno.EFBIG: "raise the limit for the size of a file (ulimit -f)",
    errno.EROFS: "mount it for writing",
    errno.ENOENT: "mount the share, or create the folder",
    errno.ENOTDIR: "a part of the path is no folder: set another path",
    errno.EACCES: "let the account that runs Rowferry read and write there",
    errno.EPERM: "let the account that runs Rowferry read and write there",
    errno.ELOOP: "links are not followed there: put the real folder or file in its place",
}

Same = Callable[[BinaryIO, BinaryIO], bool]


def storage_outage(error: OSError, path: Path, doing: str) -> OutageError:
    """Return the OutageError for a file operation that failed; names the path and the remedy."""
    return OutageError(f"{doing} {path}: {error.strerror or error}; {remedy(error)}")


def remedy(error: OSError) -> str:
    """Return what helps where a file operation failed."""
    return _REMEDIES.get(error.errno or 0, "check the path, and the disk or share behind it")


def same_bytes(one: BinaryIO, other: BinaryIO) -> bool:
    """Tell whether two streams hold the same from where they stand."""
    while True:
        block = one.read(_BLOCK)
        if block != other.read(_BLOCK):
            return False
        if not block:
            return True


class NewFile:
    """A file under a temporary name until `commit` gives it its own; without `commit` nothing is left.

    Errors are OSError as they come: the caller knows what it was about.
    """

    def __init__(self, folder: Path, mode: int = 0o644) -> None:
        self._folder = folder
        self._temporary = folder / f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}{TEMPORARY_SUFFIX}"
        self._fd = os.open(self._temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | _NO_FOLLOW | _BINARY, mode)
        self._open = True
        # Tells `remove_abandoned` of another process that this file is still being written.
        lock(self._fd)

    def write(self, data: bytes) -> int:
        """Write all of `data`: an unbuffered descriptor may take less at a time."""
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]
        return len(data)

    def commit(self, path: Path, same: Same = same_bytes) -> bool:
        """Give the file its name, durably; False when a file with the same content has it already.

        Raises FileExistsError, and leaves the other file alone, when its content differs by `same`."""
        reach(CrashPoint.FILE_WRITTEN)
        os.fsync(self._fd)
        reach(CrashPoint.FILE_SYNCED)
        fresh = _name_without_replacing(self._temporary, path)
        if not fresh and not self._is_same(path, same):
            raise FileExistsError(errno.EEXIST, "a file of this name holds something else", str(path))
        reach(CrashPoint.FILE_NAMED)
        self.discard()
        # Also when the name stood there: whoever gave it may have died before this.
        sync_folder(self._folder)
        return fresh

    def replace(self, path: Path) -> None:
        """Give the file its name durably, in place of one that may stand there."""
        reach(CrashPoint.FILE_WRITTEN)
        os.fsync(self._fd)
        reach(CrashPoint.FILE_SYNCED)
        os.replace(self._temporary, path)
        reach(CrashPoint.FILE_NAMED)
        self.discard()
        sync_folder(self._folder)

    def discard(self) -> None:
        """Leave nothing of the temporary file. Safe to call twice, and after `commit`."""
        if self._open:
            self._open = False
            os.close(self._fd)
            self._temporary.unlink(missing_ok=True)

    def _is_same(self, path: Path, same: Same) -> bool:
        os.lseek(self._fd, 0, os.SEEK_SET)
        with os.fdopen(os.dup(self._fd), "rb") as own, open_regular(path.parent, path.name) as other:
            return same(own, other)

    def __enter__(self) -> "NewFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.discard()


def write_file_durably(path: Path, chunks: Iterable[bytes]) -> bool:
    """Write a file that is there whole and on disk, or not at all; False when the same file was there already.

    Raises FileExistsError when another file has the name (it stays as it is), else OSError."""
    with NewFile(path.parent) as new:
        for chunk in chunks:
            new.write(chunk)
        return new.commit(path)


def replace_file_durably(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Write a file whole, in place of an older one of that name. `mode`: 0600 for secrets. Raises OSError."""
    with NewFile(path.parent, mode) as new:
        new.write(data)
        new.replace(path)


def open_regular(folder: Path, name: str) -> BinaryIO:
    """Open a regular file for reading; neither it nor its folder may be a link.

    Raises OSError: FileNotFoundError also when something else than a file stands there, a pipe for example."""
    if os.open in os.supports_dir_fd:
        folder_fd = os.open(folder, os.O_RDONLY | _FOLDER | _NO_FOLLOW)
        try:
            # Without waiting: a pipe would block until somebody writes.
            fd = os.open(name, os.O_RDONLY | _NO_FOLLOW | _NO_WAIT, dir_fd=folder_fd)
        finally:
            os.close(folder_fd)
    else:
        fd = os.open(folder / name, os.O_RDONLY | _BINARY)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise FileNotFoundError(errno.ENOENT, "not a regular file", str(folder / name))
    return os.fdopen(fd, "rb")


def make_folder(folder: Path, *, create_root: bool) -> None:
    """Make `folder` durably where it is missing; the folders above it only with `create_root`. Raises OSError.

    A link in its place is refused: whoever can write to the share could lead the files elsewhere."""
    if not folder.exists():
        folder.mkdir(exist_ok=True, parents=create_root)
        sync_folder(folder.parent)
        if create_root:
            sync_folder(folder.parent.parent)
    if folder.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(folder))


def sync_folder(folder: Path) -> None:
    """Make names given or taken in `folder` durable, where the system can (Windows and some shares can't)."""
    if not _FOLDER:
        return
    fd = os.open(folder, os.O_RDONLY | _FOLDER)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise
    finally:
        os.close(fd)


def remove_abandoned(folder: Path) -> int:
    """Remove temporary files of writers that died in `folder`; those still being written stay, and those that this
    account may not remove. Returns how many."""
    removed = 0
    for path in folder.glob(f"{TEMPORARY_PREFIX}*{TEMPORARY_SUFFIX}"):
        try:
            with open_regular(folder, path.name) as stream:
                if not lock(stream.fileno()):
                    continue
            path.unlink()
        except (FileNotFoundError, PermissionError):
            # Its writer has just finished, or it is another account's.
            continue
        removed += 1
    return removed


def _name_without_replacing(temporary: Path, path: Path) -> bool:
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        # FAT and some shares have no hard links. The folder has one writer, so looking first is enough there.
        if os.path.lexists(path):
            return False
        os.rename(temporary, path)
    return True
