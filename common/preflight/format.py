"""Format and checksums: one reader verifies both while the file streams by, so that they are one check."""

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from common.errors import PoisonError, Reason, RowferryError, UsageError
from common.preflight.findings import Check, Finding
from common.wire.compress import encoding_of, open_decompressed
from common.wire.decode import Broken, read_parts
from common.wire.limits import DEFAULT_LIMITS, Limits
from common.wire.records import Part

ENDINGS = (".jsonl", ".jsonl.gz", ".jsonl.zst")


def files_of(paths: list[Path]) -> list[Path]:
    """Return the files that are meant; of a folder all of a known ending, by name. Raises UsageError."""
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            found += sorted(file for file in path.iterdir() if file.name.lower().endswith(ENDINGS) and file.is_file())
        elif path.is_file():
            found.append(path)
        elif path.exists():
            raise UsageError(f"{path} is not a regular file: it is read twice, so save it as a file first")
        else:
            raise UsageError(f"{path}: there is no such file")
    return found


def read_file(path: Path, limits: Limits = DEFAULT_LIMITS) -> Iterator[Part | Broken]:
    """Yield the batches of a file, verified, and what is broken in it; holds one part in memory."""
    try:
        with path.open("rb") as raw:
            size = path.stat().st_size
            yield from _read(open_decompressed(raw, encoding_of(path.name), size, limits), limits)
    except OSError as error:
        raise RowferryError(f"{path}: can't be read: {error.strerror}") from error


def format_finding(path: Path, broken: Broken) -> Finding:
    """Return the finding for a stretch of a file that is no batch."""
    check = Check.CHECKSUM if broken.error.reason is Reason.CHECKSUM else Check.FORMAT
    tx_id = broken.header.tx_id if broken.header else None
    return Finding(check, True, str(broken.error), str(path), broken.line, tx_id)


def _read(stream: BinaryIO, limits: Limits) -> Iterator[Part | Broken]:
    line = 1
    try:
        for item in read_parts(stream, limits):
            line = item.line
            yield item
    except PoisonError as error:
        yield Broken(error, b"", line)
