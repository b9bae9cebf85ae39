"""The source that reads the other nodes' files from a shared folder."""

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from common.clock import Clock, SystemClock
from common.errors import OutageError
from common.ports.sink import TransportFeatures
from common.ports.source import Delivery
from common.transports.backlog import Backlog
from common.transports.directory.content import Sizes
from common.transports.directory.names import FEATURES, BatchFile
from common.transports.directory.opening import Opener, Reading
from common.transports.directory.progress import Passed, Progress
from common.transports.directory.scan import Scanner
from common.transports.directory.settling import Settling
from common.transports.files import make_folder, storage_outage
from common.wire.limits import DEFAULT_LIMITS, Limits
from common.wire.signing import Signer

log = logging.getLogger(__name__)
_FIRST_PAUSE_SECONDS = 0.2
_RECEIVE_BYTES = 32 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class _Token:
    """Which piece of which file a delivery is."""

    file: BatchFile
    number: int


class DirectorySource:
    """Reads `<path>/<other node>/*.jsonl[.gz|.zst]`, each incarnation from its oldest LSN on. Belongs to one thread.

    Files stay where they are, for the other readers. `passed` gives the consumer's durable watermark for an origin
    and incarnation: it spares a new process the reading of old files, and goes into `<path>/<node_id>/acks.json` for
    the writers; without it a new process reads everything again, and writers keep files for `keep_days`. A file is
    done when all of its deliveries are acknowledged; a large one has several. One that is not whole waits until it
    has not changed for `settle_seconds`, then it is delivered as it is.
    """

    def __init__(
        self,
        path: Path,
        node_id: str,
        *,
        passed: Passed | None = None,
        incarnation: str | None = None,
        settle_seconds: float = 600.0,
        poll_seconds: float = 1.0,
        clock: Clock | None = None,
        create_root: bool = False,
        sizes: Sizes | None = None,
        limits: Limits = DEFAULT_LIMITS,
        signer: Signer | None = None,
    ) -> None:
        clock = clock or SystemClock()
        _make_own_folder(path, node_id, create_root=create_root)
        self._scanner = Scanner(path, node_id)
        self._progress = Progress(path, node_id, passed, clock, incarnation, signer)
        self._settling = Settling(settle_seconds)
        self._poll_seconds = poll_seconds
        self._opener = Opener(path, self._settling, clock, sizes or Sizes(), limits)
        self._files: Sequence[BatchFile] = ()
        """Of the last scan."""
        self._pending: deque[BatchFile] = deque()
        self._current: Reading | None = None
        self._again: deque[Delivery] = deque()
        self._held: dict[_Token, Reading] = {}
        self._backlog: Backlog[_Token] = Backlog()
        self._has_scanned = False
        self._woken = threading.Event()
        self._closed = False

    @property
    def features(self) -> TransportFeatures:
        return FEATURES

    @property
    def took_what_stood(self) -> bool:
        """So it is once all files of the first look are done; one that is not whole yet waits beside."""
        return self._backlog.is_taken

    def receive(self, max_deliveries: int, timeout_seconds: float) -> list[Delivery]:
        """Return what the files hold, about 32 MiB at a time. Looks at once, then at growing intervals."""
        if self._closed:
            raise OutageError("the source of the shared folder is closed: open a new one")
        deadline = time.monotonic() + timeout_seconds
        pause = min(_FIRST_PAUSE_SECONDS, self._poll_seconds)
        while True:
            found = self._collect(max_deliveries)
            remaining = deadline - time.monotonic()
            if found or remaining <= 0 or self._woken.is_set():
                self._woken.clear()
                return found
            self._woken.wait(min(pause, remaining))
            pause = min(pause * 2, self._poll_seconds)

    def wake(self) -> None:
        """End the wait of a running `receive` early. Any thread."""
        self._woken.set()

    def ack(self, deliveries: list[Delivery]) -> None:
        for delivery in deliveries:
            token = _token(delivery)
            reading = self._held.pop(token, None)
            self._backlog.acknowledged(token)
            if reading is not None and reading.acknowledge():
                self._progress.finish(reading.file, reading.changed_ns, reading.broken)
                self._settling.forget(reading.file)
        self._progress.tell_writers(complete=self._is_complete())

    def give_back(self, deliveries: list[Delivery], *, failed: bool) -> None:
        for delivery in deliveries:
            if _token(delivery) in self._held:
                self._again.append(replace(delivery, redelivered=True, attempts=delivery.attempts + failed))

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._progress.tell_writers(complete=self._is_complete(), closing=True)
        if self._current is not None:
            self._current.close()
        self._again.clear()
        self._held.clear()

    def _collect(self, max_deliveries: int) -> list[Delivery]:
        found: list[Delivery] = []
        size = 0
        scanned = False
        while len(found) < max_deliveries and size < _RECEIVE_BYTES:
            delivery = self._next()
            if delivery is not None:
                found.append(delivery)
                size += len(delivery.body)
            elif self._pending:
                self._current = self._opener.open(self._pending.popleft())
            elif found or scanned:
                break
            else:
                self._scan()
                scanned = True
        return found

    def _next(self) -> Delivery | None:
        if self._again:
            return self._again.popleft()
        reading = self._current
        if reading is None:
            return None
        piece = reading.next_piece()
        if piece is None:
            self._current = None
            return None
        token = _Token(reading.file, reading.delivered)
        self._held[token] = reading
        return Delivery(
            body=piece.body,
            origin=str(reading.file),
            token=token,
            content_encoding=piece.encoding,
            source_node=reading.file.origin,
            fault=reading.fault,
        )

    def _scan(self) -> None:
        if self._has_scanned:
            self._backlog.ran_out(self._held)
        self._has_scanned = True
        files = self._scanner.files()
        if files is not self._files:
            self._settling.keep_only(set(files))
            self._files = files
        held = {token.file for token in self._held}
        self._pending.extend(file for file in self._progress.to_read(files) if file not in held)
        self._progress.tell_writers(complete=self._is_complete())

    def _is_complete(self) -> bool:
        """Whether every file of the last scan is finished."""
        return not (self._pending or self._current or self._held or len(self._settling))


def _token(delivery: Delivery) -> _Token:
    if not isinstance(delivery.token, _Token):
        raise TypeError(f"the delivery from {delivery.origin} is not from a shared folder")
    return delivery.token


def _make_own_folder(path: Path, node_id: str, *, create_root: bool) -> None:
    """Make the folder for acks.json. A share that is mounted read-only can still be read."""
    folder = path / node_id
    try:
        make_folder(folder, create_root=create_root)
    except OSError as error:
        if not path.is_dir():
            raise storage_outage(error, path, "opening the shared folder") from error
        log.warning("directory.own-folder-missing", extra={"path": str(folder), "error": str(error)})
