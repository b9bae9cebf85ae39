"""Housekeeping in the exchange folder: the node's own files go once every known peer has passed them, or by age."""

import logging
from collections.abc import Mapping
from functools import partial
from typing import Any

import sqlalchemy as sa

from common.clock import to_iso
from common.config.model import DirectorySection
from common.ops.ages import look_at_clock
from common.ops.directories import FOLDER
from common.ops.passed import acks_in_folder, live_peers
from common.ops.purging import FILES_MISSED, drop_noted, note_purged, read_purged
from common.ops.stalls import Seen, read_seen, write_seen
from common.periodic import Periodic
from common.retry import in_transaction
from common.runtime.node import Node
from common.transports.directory.acks import Acks
from common.transports.directory.cleaning import Cleaner, CleanReport
from producer.refilling import Refilling

log = logging.getLogger(__name__)

_EVERY_SECONDS = 60.0
_UNTIL_THERE_SECONDS = 1.0


class DirectoryCleaning(Periodic):
    """Looks through the node's own folder once a minute. A `Service`.

    Known peers are those that this database has heard of, that the configuration names, or that have a folder there:
    who only reads never sends a batch to be heard of by. As long as nobody was heard of or named, only `keep_days`
    counts."""

    name = "directory-cleaning"

    def __init__(self, node: Node, directory: DirectorySection, refilling: Refilling | None = None) -> None:
        """`refilling`: where the folder is a sink; where it takes a broker's place peers ask over that."""
        super().__init__()
        self._node = node
        self._refilling = refilling
        self._keep_days = directory.keep_days
        self._max_bytes = directory.max_bytes
        self._is_over = False
        self._is_alone = False
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
        peers, listed = in_transaction(self._node.database, lambda connection: self._known(connection, folders))
        ages = look_at_clock(self._node.database, self._node.clock)
        # The share's clock tells when a file was written, and this node's how long ago that is.
        keep_days = self._keep_days if ages.before(self._keep_days) else None
        report = self._cleaner.clean(peers, keep_days, ages.now_us, self._max_bytes)
        if report.passed or report.expired or report.crowded:
            fields = {"passed": report.passed, "expired": report.expired, "crowded": report.crowded}
            log.info("directory.cleaned", extra=fields | {"kept": report.kept, "kept_bytes": report.kept_bytes})
        # Before the files are looked at again: what they say they lack lies there, or has gone.
        acks = acks_in_folder(self._folder.parent, listed, self._node.config.trust())
        missed = self._missed(report, dict.fromkeys(peers) | acks)
        note = partial(self._note_missed, missed=missed, acks=acks, now_us=ages.now_us)
        given_up = in_transaction(self._node.database, note)
        is_over = report.kept_bytes > self._max_bytes
        if is_over and not self._is_over:
            fields = {"kept": report.kept, "kept_bytes": report.kept_bytes, "max_bytes": self._max_bytes}
            log.warning("directory.over_bound", extra=fields | {"why": "known peers have not passed these files"})
        self._is_over = is_over
        note_seen = partial(_note_seen, report=report, has_others=bool(folders), now_us=ages.now_us)
        self._tell_alone(in_transaction(self._node.database, note_seen), has_others=bool(folders))
        if self._refilling is not None:
            self._refilling.look(acks, given_up)

    def _tell_alone(self, met_us: int | None, *, has_others: bool) -> None:
        is_alone = met_us is not None and not has_others
        if is_alone and not self._is_alone:
            fields = {"folder": str(self._folder.parent), "last_met": to_iso(met_us or 0)}
            log.warning("directory.alone", extra=fields | {"why": "no other node has a folder there; is it mounted?"})
        self._is_alone = is_alone

    def _missed(self, report: CleanReport, readers: Mapping[str, Acks | None]) -> Mapping[str, int]:
        """Return who had not passed what of this node's log was too old, and up to which LSN that goes."""
        facts, lacked = self._node.facts, {}
        for file in sorted(report.too_old, key=lambda file: file.order):
            if (file.origin, file.incarnation) == (facts.node_id, facts.incarnation):
                for peer, acks in readers.items():
                    if acks is None or not acks.has_passed(file.origin, file.incarnation, file.to_lsn):
                        lacked[peer] = file.to_lsn
        return lacked

    def _note_missed(
        self, connection: sa.Connection, missed: Mapping[str, int], acks: Mapping[str, Acks], now_us: int
    ) -> Mapping[str, sa.Row[Any]]:
        """Keep who lacks what of this node's log is in the folder no more, until it has passed it: up to which LSN,
        and as `until_us` when the peer had last spoken, by its own clock. Return that, as it was before where it was:
        who has spoken since then did so, whatever else is too old now."""
        facts, before = self._node.facts, read_purged(connection, FILES_MISSED)
        for peer, lsn in missed.items():
            spoken_us = acks[peer].updated_us if peer in acks else 0
            note_purged(connection, FILES_MISSED, now_us, 1, name=peer, until_lsn=lsn, until_us=spoken_us)
        noted = read_purged(connection, FILES_MISSED)
        for peer, row in list(noted.items()):
            if peer in acks and acks[peer].has_passed(facts.node_id, facts.incarnation, row.until_lsn):
                drop_noted(connection, FILES_MISSED, peer)
                del noted[peer]
        return {peer: before.get(peer, row) for peer, row in noted.items()}

    def _known(self, connection: sa.Connection, folders: list[str]) -> tuple[list[str], list[str]]:
        """Return who has to pass a file, and who may be there beside. Folders alone say nothing of who is still to
        come."""
        facts, config = self._node.facts, self._node.config
        heard, listed = live_peers(connection, config, facts), live_peers(connection, config, facts, folders)
        return listed if heard else [], listed


def _note_seen(connection: sa.Connection, report: CleanReport, *, has_others: bool, now_us: int) -> int | None:
    """Keep what the folder looks like; return when another node's folder was seen there last, None where none was."""
    before = read_seen(connection).get(FOLDER)
    met_us = now_us if has_others else before.still_us if before is not None else None
    write_seen(connection, FOLDER, Seen(report.kept_bytes, str(report.kept), report.oldest_us, met_us, now_us))
    return met_us
