"""What a reader has behind it: in memory, in the consumer's watermarks, and for the writers in acks.json."""

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from common.clock import Clock
from common.errors import OutageError
from common.ports.dialect import LogHead
from common.transports.directory.acks import Acks, BrokenAcksError, read_acks, write_acks
from common.transports.directory.names import BatchFile
from common.transports.directory.settling import Stamp
from common.wire.signing import Signer

log = logging.getLogger(__name__)
Passed = Callable[[Collection[tuple[str, str]]], Mapping[tuple[str, str], LogHead]]
"""Of some logs (origin, incarnation) the durable watermark: the highest LSN up to which everything is seen, and the tx
that ends there. All at once: a look costs the same however many nodes share the folder."""
_WRITE_EVERY_SECONDS = 1.0


class Progress:
    """Knows which files need not be read.

    A file that was finished in this process is not read again, unless it was broken then and has changed. Of an
    earlier process the watermark tells, but only for files that were there when that process had read everything:
    what was put there later, at or below the watermark, may come from a node that was rewound, and must be read.
    """

    def __init__(
        self,
        root: Path,
        node_id: str,
        passed: Passed | None,
        clock: Clock,
        incarnation: str | None = None,
        signer: Signer | None = None,
    ) -> None:
        """`incarnation`: of the node itself, whose own log `passed` knows too: the writers are told where it ends."""
        self._signer = signer
        self._root = root
        self._node_id = node_id
        self._passed = passed
        self._clock = clock
        self._acks = self._own_acks(node_id)
        self._earlier_ns = self._acks.read_until_ns
        self._newest_ns = self._earlier_ns
        self._finished: dict[BatchFile, Stamp | None] = {}
        self._files: Sequence[BatchFile] = ()
        self._listed: set[BatchFile] = set()
        self._open: list[BatchFile] = []
        """Those of them that are not finished for good: thousands may be."""
        self._origins: set[tuple[str, str]] = {*self._acks.passed, *self._acks.had}
        if incarnation is not None:
            self._origins.add((node_id, incarnation))
        self._watermarks: dict[tuple[str, str], int] = {}
        self._tx_ids: dict[tuple[str, str], str] = {}
        self._written_at = 0.0
        self._write_failed = False

    def to_read(self, files: Sequence[BatchFile]) -> list[BatchFile]:
        """Return which of the files that a scan found have to be read, in their order.

        Raises OutageError when the watermarks can't be had."""
        if files is not self._files:
            self._files, self._listed, self._open = files, set(files), list(files)
            self._finished = {file: stamp for file, stamp in self._finished.items() if file in self._listed}
            self._origins.update((file.origin, file.incarnation) for file in files)
        self._read_watermarks()
        found = [file for file in self._open if self._needs_reading(file)]
        self._open = [file for file in self._open if not self._is_done(file)]
        return found

    def _is_done(self, file: BatchFile) -> bool:
        return file in self._finished and self._finished[file] is None

    def _needs_reading(self, file: BatchFile) -> bool:
        if file in self._finished:
            stamp = self._finished[file]
            return stamp is not None and self._stamp(file) not in (stamp, None)
        if file.to_lsn > self._watermarks.get((file.origin, file.incarnation), 0):
            return True
        if self._changed_ns(file) > self._earlier_ns:
            return True
        self._finished[file] = None
        return False

    def finish(self, file: BatchFile, changed_ns: int, broken: Stamp | None) -> None:
        """Note that all of a file was acknowledged. `broken`: its stamp, when it was delivered broken."""
        # One that went meanwhile is another one when it comes again.
        if file in self._listed:
            self._finished[file] = broken
        self._newest_ns = max(self._newest_ns, changed_ns)

    def tell_writers(self, *, complete: bool, closing: bool = False) -> None:
        """Write acks.json when there is news, at most every second. `complete`: every file found is finished.

        A folder that can't be written stops no reading: that is logged, once until it can."""
        if not closing and time.monotonic() - self._written_at < _WRITE_EVERY_SECONDS:
            return
        read_until_ns = self._newest_ns if complete else self._acks.read_until_ns
        try:
            self._read_watermarks()
            passed = {key: lsn for key, lsn in self._watermarks.items() if lsn > 0}
            acks = Acks(self._acks.node, passed, read_until_ns, self._had(), self._tx_ids)
            if acks == self._acks:
                return
            write_acks(self._root, acks, self._clock.now_us(), self._signer)
        except (OSError, OutageError) as error:
            if not self._write_failed:
                log.warning("directory.acks-not-written", extra={"root": str(self._root), "error": str(error)})
            self._write_failed = True
            return
        self._acks, self._written_at, self._write_failed = acks, time.monotonic(), False

    def _had(self) -> dict[tuple[str, str], int]:
        """What was passed before the database was put back, perhaps for the second time: nothing else would tell it."""
        once = {key: lsn for key, lsn in self._acks.once_passed().items() if key[0] != self._node_id}
        return {key: lsn for key, lsn in once.items() if lsn > self._watermarks.get(key, 0)}

    def _own_acks(self, node_id: str) -> Acks:
        try:
            return read_acks(self._root, node_id) or Acks(node_id)
        except (BrokenAcksError, OSError) as error:
            # Then every file is read once more, and dedup makes that harmless.
            log.warning("directory.own-acks-broken", extra={"root": str(self._root), "error": str(error)})
            return Acks(node_id)

    def _read_watermarks(self) -> None:
        heads = self._passed(self._origins) if self._passed else {}
        self._watermarks = {key: head.lsn for key, head in heads.items()}
        self._tx_ids = {key: head.tx_id for key, head in heads.items() if head.tx_id is not None and head.lsn > 0}

    def _changed_ns(self, file: BatchFile) -> int:
        try:
            found = (self._root / file.writer / file.name).lstat()
        except FileNotFoundError:
            return 0
        return max(found.st_mtime_ns, found.st_ctime_ns)

    def _stamp(self, file: BatchFile) -> Stamp | None:
        try:
            found = (self._root / file.writer / file.name).lstat()
        except FileNotFoundError:
            return None
        return found.st_size, found.st_mtime_ns
