"""Housekeeping in the exchange folder: the node's own files go once every known peer has passed them, or by age."""

import logging
import threading
import time

import sqlalchemy as sa

from common.config.model import DirectorySection
from common.retry import in_transaction
from common.runtime.node import Node
from common.schema import tables as rf
from common.transports.directory.cleaning import Cleaner

log = logging.getLogger(__name__)

_EVERY_SECONDS = 60.0


class DirectoryCleaning:
    """Looks through the node's own folder once a minute. A `Service`.

    Known peers are those that this database has heard of; as long as there are none, only `keep_days` counts."""

    name = "directory-cleaning"

    def __init__(self, node: Node, directory: DirectorySection) -> None:
        self._node = node
        self._keep_days = directory.keep_days
        # Until the first file was written there is nothing to clean.
        self._folder = directory.path / node.facts.node_id
        self._cleaner = Cleaner(directory.path, node.facts.node_id)
        self._due_at = 0.0
        self._wake = threading.Event()

    def wake(self) -> None:
        self._wake.set()

    def step(self, idle_seconds: float) -> bool:
        """Clean when it is time. Never counts as work: nothing waits for it."""
        self._wake.clear()
        if time.monotonic() >= self._due_at and self._folder.is_dir():
            self._clean()
            self._due_at = time.monotonic() + _EVERY_SECONDS
        self._wake.wait(idle_seconds)
        return False

    def close(self) -> None:
        """Nothing is held between two steps."""

    def _clean(self) -> None:
        peers = in_transaction(self._node.database, _known_peers)
        report = self._cleaner.clean(peers, self._keep_days, self._node.clock.now_us())
        if report.passed or report.expired:
            fields = {"passed": report.passed, "expired": report.expired, "kept": report.kept}
            log.info("directory.cleaned", extra=fields)


def _known_peers(connection: sa.Connection) -> list[str]:
    return list(connection.execute(sa.select(rf.node.c.node_id).where(rf.node.c.is_self.is_(False))).scalars())
