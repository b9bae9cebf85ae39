"""Durable export files: one file of any name, or one with the exchange folder's name pattern in a folder."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from common.errors import RowferryError, UsageError
from common.transports.directory.names import file_name
from common.transports.files import NewFile, storage_outage, write_file_durably
from common.wire.compress import Encoding, Wrapping, encoding_of


def checked_file(out: Path, kept: Iterable[Path]) -> Path:
    """Return the file that `out` means, links followed. Raises UsageError for one of `kept` or no regular file."""
    path = out.resolve()
    if path.exists() and not path.is_file():
        raise UsageError(f"{out} is no regular file; name a file or a folder, or - for stdout")
    if any(path == one.resolve() or (path.exists() and one.exists() and path.samefile(one)) for one in kept):
        raise UsageError(f"{out} belongs to this node itself and would be lost: name another file")
    return path


def write_export(path: Path, bodies: Iterable[bytes]) -> None:
    """Write `path` whole and durable; an older file of that name stays as it was until then. Compressed by ending."""
    try:
        with NewFile(path.parent) as new:
            for block in _compressed(bodies, encoding_of(path.name)):
                new.write(block)
            new.replace(path)
    except OSError as error:
        raise _failed(error, path) from error


def write_into_folder(
    folder: Path, node_id: str, incarnation: str, lsns: tuple[int, int], bodies: Iterable[bytes]
) -> Path:
    """Write a file that is called by its first and last LSN, and return it. The same export again is fine."""
    path = folder / file_name(node_id, incarnation, *lsns, None)
    try:
        write_file_durably(path, bodies)
    except FileExistsError as error:
        raise RowferryError(
            f"{path} holds something else than this node's log has under these LSNs, and such files are never "
            "replaced; move it away, or export to a file of another name"
        ) from error
    except OSError as error:
        raise _failed(error, path) from error
    return path


def make_folder(folder: Path) -> None:
    """Make the folder where it is missing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _failed(error, folder) from error


def _compressed(bodies: Iterable[bytes], encoding: Encoding | None) -> Iterator[bytes]:
    if encoding is None:
        yield from bodies
        return
    wrapping = Wrapping(encoding)
    for body in bodies:
        yield wrapping.add(body)
    yield wrapping.end()


def _failed(error: OSError, path: Path) -> RowferryError:
    """A full disk under an export is no outage of the node: the command has failed, and says why."""
    return RowferryError(str(storage_outage(error, path, "writing")))
