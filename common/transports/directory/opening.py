"""Opening batch files: only whole ones, or those that won't become whole any more."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from common.clock import Clock
from common.errors import PoisonError
from common.transports.directory.content import Piece, Sizes, broken_pieces, fault_in, pieces
from common.transports.directory.names import BatchFile
from common.transports.directory.settling import Settling, Stamp
from common.transports.files import THIS_ALONE, open_regular, storage_outage
from common.wire.limits import Limits

log = logging.getLogger(__name__)


class Reading:
    """A file that is being delivered piece by piece."""

    def __init__(
        self,
        file: BatchFile,
        stream: BinaryIO,
        changed_ns: int,
        bodies: Iterator[Piece],
        broken: Stamp | None = None,
        fault: str | None = None,
    ) -> None:
        """`broken`, `fault`: the stamp of a file that is not whole, and why it is not."""
        self.file = file
        self.changed_ns = changed_ns
        self.broken = broken
        self.fault = fault
        self.delivered = 0
        self._stream = stream
        self._bodies = bodies
        self._acknowledged = 0
        self._spoiled = False
        # One ahead, so that the last piece is known to be the last when it is acknowledged.
        self._ahead = self._pull()

    def next_piece(self) -> Piece | None:
        """Return the next piece, None after the last. Raises OutageError."""
        piece = self._ahead
        if piece is not None:
            self._ahead = self._pull()
            self.delivered += 1
        return piece

    def acknowledge(self) -> bool:
        """Count one acknowledgement; True when the whole file is done."""
        self._acknowledged += 1
        return self._ahead is None and self._acknowledged == self.delivered and not self._spoiled

    def close(self) -> None:
        self._ahead = None
        self._stream.close()

    def _pull(self) -> Piece | None:
        try:
            piece = next(self._bodies, None)
        except PoisonError as error:
            # It was whole a moment ago. It is not finished, so the next look reads it anew.
            log.warning("directory.file-changed", extra={"file": str(self.file), "error": str(error)})
            self._spoiled = True
            piece = None
        except OSError as error:
            self._stream.close()
            raise storage_outage(error, Path(str(self.file)), "reading") from error
        if piece is None:
            self._stream.close()
        return piece


class Opener:
    """Opens files for delivery; what can't be read now is left for a later look."""

    def __init__(self, root: Path, settling: Settling, clock: Clock, sizes: Sizes, limits: Limits) -> None:
        self._root = root
        self._settling = settling
        self._clock = clock
        self._sizes = sizes
        self._limits = limits
        self._warned: set[BatchFile] = set()

    def open(self, file: BatchFile) -> Reading | None:
        """Return the file ready to be delivered; None when it is gone, out of reach, or not whole yet."""
        try:
            stream = open_regular(self._root / file.writer, file.name)
        except FileNotFoundError:
            # Its writer has deleted it: every known peer has passed it, or it was too old.
            log.info("directory.file-gone", extra={"file": str(file)})
            return None
        except OSError as error:
            if error.errno not in THIS_ALONE:
                raise storage_outage(error, self._root / file.writer / file.name, "reading") from error
            self._warn_once(file, error)
            return None
        try:
            reading = self._checked(file, stream)
        except OSError as error:
            stream.close()
            raise storage_outage(error, self._root / file.writer / file.name, "reading") from error
        if reading is None:
            stream.close()
        return reading

    def _checked(self, file: BatchFile, stream: BinaryIO) -> Reading | None:
        found = os.fstat(stream.fileno())
        stamp = (found.st_size, found.st_mtime_ns)
        now_us = self._clock.now_us()
        if not self._settling.worth_reading(file, stamp, now_us):
            return None
        changed_ns = max(found.st_mtime_ns, found.st_ctime_ns)
        fault = fault_in(stream, found.st_size, file, self._limits)
        if fault is None:
            self._settling.forget(file)
            stream.seek(0)
            bodies = pieces(stream, found.st_size, file, self._sizes, self._limits)
            return Reading(file, stream, changed_ns, bodies)
        if not self._settling.torn(file, stamp, now_us):
            log.info("directory.file-not-whole", extra={"file": str(file), "fault": fault})
            return None
        log.warning("directory.file-broken", extra={"file": str(file), "fault": fault})
        stream.seek(0)
        bodies = broken_pieces(stream, found.st_size, file, self._sizes, self._limits)
        return Reading(file, stream, changed_ns, bodies, stamp, fault)

    def _warn_once(self, file: BatchFile, error: OSError) -> None:
        if file not in self._warned:
            self._warned.add(file)
            log.warning("directory.file-unreadable", extra={"file": str(file), "error": str(error)})
