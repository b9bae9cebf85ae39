"""Where a command may write what it exports: any file but this node's own, whole and durable or not at all."""

from collections.abc import Callable, Iterable
from pathlib import Path

from common.errors import RowferryError, UsageError
from common.ports.dialect import Database
from common.transports.files import NewFile, remove_abandoned, storage_outage
from common.wire.compress import encoding_of

_UNKNOWN = (".7z", ".br", ".bz2", ".lz", ".lz4", ".lzma", ".lzo", ".rar", ".sz", ".tar", ".tgz", ".xz", ".z", ".zip")


def own_files(database: Database, config_file: Path) -> list[Path]:
    """Return the files that an export must never replace: the configuration and, on SQLite, the database."""
    url = database.engine.url
    found = [config_file]
    if url.get_backend_name() == "sqlite" and url.database:
        found += [Path(url.database + ending) for ending in ("", "-wal", "-shm", "-journal")]
    return found


def refuse_wrapping(out: Path, *, wraps: bool = True) -> None:
    """Refuse a name that says to be wrapped in what is not written there: nobody could read it. Raises UsageError.

    `wraps`: what is written is compressed where the name says so."""
    ending = out.suffix.lower()
    if ending in _UNKNOWN or (not wraps and encoding_of(out.name) is not None):
        known = "known are .gz and .zst" if wraps else "this is never compressed"
        raise UsageError(f"{out}: {ending} is not what would be written there: {known}")


def checked_file(out: Path, kept: Iterable[Path]) -> Path:
    """Return the file that `out` means, links followed.

    Raises UsageError for one of `kept`, no regular file, or a name that says another compression."""
    refuse_wrapping(out)
    path = out.resolve()
    if path.exists() and not path.is_file():
        raise UsageError(f"{out} is not a regular file; name a file or a folder, or - for stdout")
    if any(path == one.resolve() or (path.exists() and one.exists() and path.samefile(one)) for one in kept):
        raise UsageError(f"{out} belongs to this node itself and would be lost: name another file")
    return path


def write_whole(path: Path, work: Callable[[Callable[[bytes], object]], None]) -> None:
    """Give `work` what writes to `path`. The file is there, whole and on disk, once it has ended; an older one of that
    name stays until then, and what one that was killed there left goes. Raises RowferryError."""
    try:
        remove_abandoned(path.parent)
        with NewFile(path.parent) as new:
            work(new.write)
            new.replace(path)
    except OSError as error:
        raise failed(error, path) from error


def failed(error: OSError, path: Path) -> RowferryError:
    """A full disk under an export is no outage of the node: the command has failed, and says why."""
    return RowferryError(str(storage_outage(error, path, "writing")))
