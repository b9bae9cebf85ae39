"""The sink that writes batches as files into a shared folder."""

from collections.abc import Collection
from pathlib import Path

from common.errors import OutageError
from common.ports.sink import Envelope, TransportFeatures
from common.transports.directory.cleaning import Cleaner, CleanReport
from common.transports.directory.content import same_batches
from common.transports.directory.names import FEATURES, file_name
from common.transports.files import NewFile, make_folder, remove_abandoned, storage_outage
from common.wire.compress import Encoding, Wrapping


class DirectorySink:
    """Writes `<path>/<node_id>/<origin>.<incarnation>.<from>-<to>.jsonl`; what `send` returned from is durable.

    The parts of a large tx go into one file, which gets its name with the last part. Belongs to one thread. After an
    OutageError only `close` works. `create_root` makes `path` itself: leave it off where `path` is a mounted share,
    since the folder below an unmounted one would fill in silence.
    """

    def __init__(
        self, path: Path, node_id: str, *, compression: Encoding | None = None, create_root: bool = False
    ) -> None:
        self._folder = path / node_id
        self._compression = compression
        self._confirmed = 0
        self._closed = False
        self._writing: _Writing | None = None
        self._cleaner = Cleaner(path, node_id)
        try:
            make_folder(self._folder, create_root=create_root)
            remove_abandoned(self._folder)
        except OSError as error:
            raise storage_outage(error, self._folder, "opening the shared folder") from error

    @property
    def features(self) -> TransportFeatures:
        return FEATURES

    def send(self, envelope: Envelope) -> None:
        """Write the envelope; returns when it is durable, or, for one part of several, when it is written.

        A file of that name that holds the same batches is fine. One with others is never replaced: OutageError."""
        if self._closed:
            raise OutageError(f"the sink for {self._folder} is closed or has failed: open a new one")
        try:
            self._write(envelope)
        except FileExistsError as error:
            self.close()
            raise OutageError(_occupied(self._folder, error)) from error
        except OSError as error:
            self.close()
            raise storage_outage(error, self._folder, "writing batches into") from error

    def confirmed(self) -> int:
        return self._confirmed

    def flush(self, timeout_seconds: float) -> int:
        # Nothing to wait for: what `send` returned from is durable.
        del timeout_seconds
        return self._confirmed

    def clean(self, known_peers: Collection[str], keep_days: float, now_us: int) -> CleanReport:
        """Delete own files that every known peer has passed, or that are too old. Faults are logged, not raised."""
        return self._cleaner.clean(known_peers, keep_days, now_us)

    def close(self) -> None:
        self._closed = True
        if self._writing is not None:
            self._writing.file.discard()
            self._writing = None

    def _write(self, envelope: Envelope) -> None:
        name = file_name(
            envelope.source_node, envelope.incarnation, envelope.from_lsn, envelope.to_lsn, self._compression
        )
        writing = self._continued(name)
        writing.add(envelope.body)
        if envelope.closes_lsn is None:
            return
        writing.finish(self._folder / name)
        self._writing = None
        self._confirmed = max(self._confirmed, envelope.closes_lsn)

    def _continued(self, name: str) -> "_Writing":
        if self._writing is None:
            self._writing = _Writing(name, NewFile(self._folder), self._compression)
        elif self._writing.name != name:
            unfinished = self._writing.name
            self.close()
            raise OutageError(f"{unfinished} still lacks parts, and {name} was sent: start again after the last tx")
        return self._writing


class _Writing:
    """A file whose last part has not come yet."""

    def __init__(self, name: str, file: NewFile, compression: Encoding | None) -> None:
        self.name = name
        self.file = file
        self._compression = compression
        self._wrapping = None if compression is None else Wrapping(compression)

    def add(self, body: bytes) -> None:
        self.file.write(self._wrapping.add(body) if self._wrapping else body)

    def finish(self, path: Path) -> None:
        if self._wrapping:
            self.file.write(self._wrapping.end())
        self.file.commit(path, same=lambda one, other: same_batches(one, other, self._compression))


def _occupied(folder: Path, error: FileExistsError) -> str:
    return (
        f"{error.filename} holds other batches than this node has under the same LSNs, and files are never replaced; "
        f"if this node was restored to an earlier state or runs twice, run `rowferry rejoin`; if the file is damaged, "
        f"move it out of {folder}"
    )
