"""Housekeeping in the exchange folder: the node's own files go once every known peer has passed them, or by age."""

import logging

import sqlalchemy as sa

from common.config.model import DirectorySection
from common.ops.ages import look_at_clock
from common.ops.passed import live_peers, passed_in_folder
from common.ops.purging import FILES_MISSED, drop_noted, note_purged, read_purged
from common.ops.stalls import Seen, write_seen
from common.periodic import Periodic
from common.retry import in_transaction
from common.runtime.node import Node
from common.transports.directory.cleaning import Cleaner, CleanReport

log = logging.getLogger(__name__)

_EVERY_SECONDS = 60.0
_UNTIL_THERE_SECONDS = 1.0
FOLDER = "folder"
"""What `rf_watch` calls the node's own folder: its bytes, its files, and when the oldest was written."""


class DirectoryCleaning(Periodic):
    """Looks through the node's own folder once a minute. A `Service`.

    Known peers are those that this database has heard of, that the configuration names, or that have a folder there:
    who only reads never sends a batch to be heard of by. As long as nobody was heard of or named, only `keep_days`
    counts."""

    name = "directory-cleaning"

    def __init__(self, node: Node, directory: DirectorySection) -> None:
        super().__init__()
        self._node = node
        self._keep_days = directory.keep_days
        self._max_bytes = directory.max_bytes
        self._is_over = False
        # Until the first file was written there is nothing to clean.
        self._folder = directory.path / node.facts.node_id
        self._cleaner = Cleaner(directory.path, node.facts.node_id, node.config.trust())

    def look(self) -> bool:
        """Clean. Never counts as work: nothing waits for it."""
        if not self._folder.is_dir():
            self.look_again_in(_UNTIL_THERE_SECONDS)
            return False
        self._clean()
        self.look_again_in(_EVERY_SECONDS)
        return False

    def _clean(self) -> None:
        folders = self._cleaner.members()
        if folders is None:
            return
        peers = in_transaction(self._node.database, lambda connection: self._known(connection, folders))
        ages = look_at_clock(self._node.database, self._node.clock)
        # The share's clock tells when a file was written, and this node's how long ago that is.
        keep_days = self._keep_days if ages.before(self._keep_days) else None
        report = self._cleaner.clean(peers, keep_days, ages.now_us, self._max_bytes)
        if report.passed or report.expired or report.crowded:
            fields = {"passed": report.passed, "expired": report.expired, "crowded": report.crowded}
            log.info("directory.cleaned", extra=fields | {"kept": report.kept, "kept_bytes": report.kept_bytes})
        in_transaction(self._node.database, lambda connection: self._note_missed(connection, report, ages.now_us))
        is_over = report.kept_bytes > self._max_bytes
        if is_over and not self._is_over:
            fields = {"kept": report.kept, "kept_bytes": report.kept_bytes, "max_bytes": self._max_bytes}
            log.warning("directory.over_bound", extra=fields | {"why": "known peers have not passed these files"})
        self._is_over = is_over
        seen = Seen(report.kept_bytes, str(report.kept), report.oldest_us, None, ages.now_us)
        in_transaction(self._node.database, lambda connection: write_seen(connection, FOLDER, seen))

    def _note_missed(self, connection: sa.Connection, report: CleanReport, now_us: int) -> None:
        """Keep who lacks what of this node's log is in the folder no more, until it has passed it by another way."""
        facts = self._node.facts
        for peer, file in report.missed:
            if (file.origin, file.incarnation) == (facts.node_id, facts.incarnation):
                note_purged(connection, FILES_MISSED, now_us, 1, name=peer, until_lsn=file.to_lsn)
        noted = read_purged(connection, FILES_MISSED)
        passed = passed_in_folder(self._folder.parent, noted, self._node.config.trust()) if noted else {}
        for peer, row in noted.items():
            if passed.get(peer, {}).get((facts.node_id, facts.incarnation), 0) >= row.until_lsn:
                drop_noted(connection, FILES_MISSED, peer)

    def _known(self, connection: sa.Connection, folders: list[str]) -> list[str]:
        """Return who has to pass a file. Folders alone say nothing of who is still to come."""
        facts, config = self._node.facts, self._node.config
        heard = live_peers(connection, config, facts)
        return live_peers(connection, config, facts, folders) if heard else []
