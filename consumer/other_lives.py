"""Logs under this node's name that are not here: of a life that began after what was put back, or of a copy beside it.

Batches that carry a node's own name are left by it, so `rejoin` alone brings in what others had of such a log."""

from collections.abc import Mapping
from dataclasses import dataclass

import sqlalchemy as sa

from common.ops.purging import OWN_LOST, OWN_SETTLED, note_purged
from common.ops.rewinding import elsewhere, is_here, purged_until, settled_until
from common.runtime.node import Node
from common.transports.directory.own_files import files_of, passed_by_others
from consumer.incoming import Incoming
from consumer.own_again import own_lives_at_peers
from consumer.own_seen import end_of_log
from consumer.statements import reading


@dataclass(frozen=True, slots=True)
class OtherLife:
    """A log of this node of which nothing is here."""

    incarnation: str
    seen_lsn: int
    """Up to where others have it."""
    settled_lsn: int
    """Up to where an earlier `rejoin` has settled it."""

    def missing(self, found: list[Incoming]) -> int:
        """Return how many changes others have had that are not among the txs that were found."""
        headers = [one.header for one in found if one.header is not None]
        mine = [one for one in headers if one.incarnation == self.incarnation and one.to_lsn > self.settled_lsn]
        seen_lsn = max([self.seen_lsn, *(one.to_lsn for one in mine)])
        return max(0, seen_lsn - self.settled_lsn - sum(one.lsns for one in mine))


@dataclass(frozen=True, slots=True)
class OwnLogs:
    """What others have of this node's logs, and `rejoin` has not settled."""

    other_lives: list[OtherLife]
    """Of these nothing is here."""
    short: dict[str, int]
    """Those that are here and end before the LSN up to which others have them, by incarnation."""


def own_logs(node: Node) -> OwnLogs:
    """Return them as heartbeats, the shared folder and HTTP peers tell. Raises OutageError."""
    with reading(node.database) as connection:
        told, settled = elsewhere(connection), settled_until(connection)
        seen: dict[str, int] = {}
        for said in (told, *_in_folder(node), *own_lives_at_peers(node)):
            for incarnation, lsn in said.items():
                seen[incarnation] = max(seen.get(incarnation, 0), lsn)
        found = OwnLogs([], {})
        for incarnation, lsn in sorted(seen.items()):
            if lsn <= settled.get(incarnation, 0):
                continue
            if not is_here(connection, incarnation, node.facts.incarnation):
                found.other_lives.append(OtherLife(incarnation, lsn, settled.get(incarnation, 0)))
            elif lsn > max(end_of_log(node, incarnation), purged_until(connection, incarnation)):
                found.short[incarnation] = lsn
    return found


def settle(connection: sa.Connection, seen: Mapping[str, int], lost: Mapping[str, int], now_us: int) -> None:
    """Keep up to where each log is settled, and how much of it could not be had."""
    for incarnation, lsn in seen.items():
        note_purged(connection, OWN_SETTLED, now_us, 0, name=incarnation, until_lsn=lsn)
        if changes := lost.get(incarnation):
            note_purged(connection, OWN_LOST, now_us, changes, name=incarnation, until_lsn=lsn)


def passed_in_folder(node: Node) -> dict[str, dict[str, int]]:
    """Return up to where others say that they have passed each of this node's logs, in the shared folder; nothing
    without one. Raises OutageError."""
    directory = node.config.directory
    if directory is None or not directory.path.is_dir():
        return {}
    return passed_by_others(directory.path, node.facts.node_id, node.config.trust())


def _in_folder(node: Node) -> list[dict[str, int]]:
    directory = node.config.directory
    if directory is None or not directory.path.is_dir():
        return []
    # In the order of each log, so that of one the last file counts.
    files = {file.incarnation: file.to_lsn for file in files_of(directory.path, node.facts.node_id)}
    return [files, *passed_in_folder(node).values()]
