"""Durable export files: one file of any name, or one with the exchange folder's name pattern in a folder."""

from collections.abc import Callable, Iterable
from pathlib import Path

from common.errors import PoisonError, RowferryError
from common.ops.export_files import failed, write_whole
from common.transports.directory.names import file_name
from common.transports.files import write_file_durably
from common.wire.compress import encoding_of, open_decompressed, wrapped
from common.wire.limits import DEFAULT_LIMITS


def write_export(path: Path, bodies: Iterable[bytes]) -> None:
    """Write `path` whole and durable; an older file of that name stays as it was until then. Compressed by ending."""

    def write_to(write: Callable[[bytes], object]) -> None:
        for block in wrapped(bodies, encoding_of(path.name)):
            write(block)

    write_whole(path, write_to)


def holds_something(path: Path) -> bool:
    """Tell whether a file is there that is not the export of nothing. Raises RowferryError."""
    try:
        if not path.exists():
            return False
        with path.open("rb") as raw:
            return bool(open_decompressed(raw, encoding_of(path.name), path.stat().st_size, DEFAULT_LIMITS).read(1))
    except PoisonError:
        return True
    except OSError as error:
        raise failed(error, path) from error


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
        raise failed(error, path) from error
    return path


def make_folder(folder: Path) -> None:
    """Make the folder where it is missing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise failed(error, folder) from error
