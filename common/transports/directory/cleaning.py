"""Deleting the files that this node wrote, once nobody needs them."""

import logging
import os
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from common.transports.directory.acks import Acks, BrokenAcksError, read_acks
from common.transports.directory.names import BatchFile, parse_name, same_node
from common.transports.directory.scan import members
from common.wire.signing import Trust

log = logging.getLogger(__name__)
_DAY_US = 86_400 * 1_000_000


@dataclass(frozen=True, slots=True)
class CleanReport:
    """What one look did."""

    passed: int
    """Files deleted because every known peer has passed them."""
    expired: int
    """Files deleted because they were older than `keep_days`, though some peer had not passed them."""
    kept: int
    crowded: int = 0
    """Files deleted because all together were larger than `max_bytes`, and no known peer lacked them."""
    kept_bytes: int = 0
    oldest_us: int | None = None
    """When the oldest file that is kept was written: microseconds since the epoch."""
    too_old: tuple[BatchFile, ...] = field(default=(), compare=False)
    """Those that are `expired`."""


@dataclass(frozen=True, slots=True)
class _Kept:
    path: Path
    size: int
    written_us: int
    is_lacked: bool
    """Some known peer has not passed it."""


class Cleaner:
    """Deletes own files that every known peer has passed, or past `keep_days`.

    A peer without a readable acks.json has passed nothing. A fault is logged, once until it is mended, and never
    raised: cleaning must not stop the writing.
    """

    def __init__(self, root: Path, node_id: str, trust: Trust | None = None) -> None:
        self._root = root
        self._trust = trust
        self._node_id = node_id
        self._warned: set[str] = set()

    def members(self) -> list[str] | None:
        """Return who else has a folder there; None where that can't be seen: then nothing may go."""
        try:
            found = members(self._root, self._node_id)
        except OSError as error:
            self._warn("directory.clean-failed", str(self._root), error)
            return None
        self._warned.discard(str(self._root))
        return found

    def clean(
        self, known_peers: Collection[str], keep_days: float | None, now_us: int, max_bytes: int | None = None
    ) -> CleanReport:
        """Look through the own folder once. Without known peers only age and size count: readers may still come.

        What a known peer lacks is kept until it is too old, however much it is. `keep_days` None: nothing is known to
        be that."""
        peers = {peer: self._acks(peer) for peer in known_peers if not same_node(peer, self._node_id)}
        counts = {"passed": 0, "expired": 0, "crowded": 0}
        expired_before_us = 0 if keep_days is None else now_us - int(keep_days * _DAY_US)
        kept: list[_Kept] = []
        too_old: list[BatchFile] = []
        for file, path in self._own_files():
            size, written_us = self._measured(path, now_us)
            if _passed_by_all(file, peers):
                verdict = "passed"
            else:
                verdict = "expired" if written_us < expired_before_us else "kept"
            if verdict == "kept" or not self._delete(path, verdict):
                kept.append(_Kept(path, size, written_us, _is_lacked(file, peers)))
            else:
                counts[verdict] += 1
                too_old += [file] if verdict == "expired" else []
        if max_bytes is not None:
            counts["crowded"] = self._make_room(kept, max_bytes)
        size = sum(one.size for one in kept)
        return CleanReport(
            **counts,
            kept=len(kept),
            kept_bytes=size,
            oldest_us=min((one.written_us for one in kept), default=None),
            too_old=tuple(too_old),
        )

    def _make_room(self, kept: "list[_Kept]", max_bytes: int) -> int:
        """Delete the oldest files that nobody lacks until the rest fits; return how many, and take them off `kept`."""
        size = sum(one.size for one in kept)
        gone = 0
        for one in sorted(kept, key=lambda one: one.written_us):
            if size <= max_bytes:
                break
            if not one.is_lacked and self._delete(one.path, "crowded"):
                kept.remove(one)
                size, gone = size - one.size, gone + 1
        return gone

    def _own_files(self) -> list[tuple[BatchFile, Path]]:
        folder = self._root / self._node_id
        try:
            names = sorted(os.listdir(folder))
        except OSError as error:
            self._warn("directory.clean-failed", str(folder), error)
            return []
        self._warned.discard(str(folder))
        parsed = ((parse_name(self._node_id, name), folder / name) for name in names)
        return [(file, path) for file, path in parsed if file is not None]

    def _acks(self, peer: str) -> Acks | None:
        try:
            acks = read_acks(self._root, peer, self._trust)
        except (BrokenAcksError, OSError) as error:
            self._warn("directory.acks-broken", peer, error)
            return None
        self._warned.discard(peer)
        return acks

    def _measured(self, path: Path, otherwise_us: int) -> tuple[int, int]:
        """Return size and time of writing."""
        try:
            found = path.lstat()
        except OSError as error:
            self._warn("directory.clean-failed", str(path), error)
            return 0, otherwise_us
        return found.st_size, found.st_mtime_ns // 1000

    def _delete(self, path: Path, why: str) -> bool:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            self._warn("directory.clean-failed", str(path), error)
            return False
        # Deleting what a peer has not passed may cost it a snapshot: that is to be seen.
        level = logging.DEBUG if why == "passed" else logging.WARNING
        log.log(level, "directory.file-deleted", extra={"path": str(path), "why": why})
        return True

    def _warn(self, event: str, subject: str, error: Exception) -> None:
        if subject not in self._warned:
            self._warned.add(subject)
            log.warning(event, extra={"subject": subject, "error": str(error)})


def _passed_by_all(file: BatchFile, peers: dict[str, Acks | None]) -> bool:
    """A node never reads its own batches back, so an origin needs not pass its own."""
    readers = [acks for peer, acks in peers.items() if not same_node(peer, file.origin)]
    return bool(readers) and all(
        acks is not None and acks.has_passed(file.origin, file.incarnation, file.to_lsn) for acks in readers
    )


def _is_lacked(file: BatchFile, peers: dict[str, Acks | None]) -> bool:
    return any(
        acks is None or not acks.has_passed(file.origin, file.incarnation, file.to_lsn)
        for peer, acks in peers.items()
        if not same_node(peer, file.origin)
    )
