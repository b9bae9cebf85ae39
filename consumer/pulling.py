"""`pull --url`: everything that a peer has and this node has not, in one go."""

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from common.enough import Enough
from common.errors import OutageError
from common.ports.source import Source
from common.runtime.node import Node
from common.runtime.transports import peer_road
from common.transports.http.client import RefusedError
from common.transports.http.peer import asked_state, open_peer_source
from common.transports.http.settings import PeerSettings
from consumer.again import AgainSource
from consumer.conflict.reading import still_waiting
from consumer.control import Controls
from consumer.dead_letters.documents import result_document
from consumer.dedup import TxKey
from consumer.gaps import Gap, find_gaps
from consumer.hearing import hear
from consumer.incoming import Outcome, Result
from consumer.intake import Ended, Intake
from consumer.peers import PeerIds
from consumer.pulls import PullPlace
from consumer.standing.refresh import Refresh
from consumer.statements import reading

log = logging.getLogger(__name__)


@dataclass(slots=True)
class PullReport:
    """What came, and what it came to here."""

    url: str
    peer: str
    applied: int = 0
    duplicates: int = 0
    conflicts: int = 0
    waiting_conflicts: int = 0
    waiting: dict[TxKey, Result] = field(default_factory=dict)
    """What was set aside or left as early."""
    met: set[TxKey] = field(default_factory=set)
    """Whose conflicts waited when they came."""

    def count(self, ended: Sequence[Ended]) -> None:
        """Take in what became of txs; a later result of the same tx takes the place of its first."""
        for _, incoming, result in ended:
            if result.outcome.set_aside:
                self.waiting[incoming.key] = result
                continue
            self.waiting.pop(incoming.key, None)
            self.applied += result.outcome is Outcome.APPLIED
            self.duplicates += result.outcome is Outcome.DUPLICATE
            self.conflicts += result.counts.conflicts
            if result.counts.waiting:
                self.met.add(incoming.key)

    def document(self) -> dict[str, Any]:
        """Return the report as `--json` prints it."""
        return {
            "url": self.url,
            "peer": self.peer,
            "applied": self.applied,
            "duplicates": self.duplicates,
            "conflicts": self.conflicts,
            "waiting_conflicts": self.waiting_conflicts,
            "set_aside": [result_document(result) for result in self.waiting.values()],
        }


def pull_from(node: Node, settings: PeerSettings) -> PullReport:
    """Take and apply all that the peer has now. Raises OutageError, RefusedError, ConfigError.

    What came until then is committed and noted also where it ends early."""
    state = asked_state(settings, node.facts.node_id)
    report = PullReport(settings.url, state.node)

    def open_source() -> Source:
        return open_peer_source(settings, node.config, PullPlace(node, state.node), node.main())

    intake = Intake(node, peer_road(state.node), open_source, None, threading.Event(), report.count)
    try:
        enough = Enough()
        while intake.step(0) and not enough.is_reached(took_what_stood=intake.took_what_stood):
            pass
    finally:
        intake.close()
    _hear(node, settings, state.node)
    _ask_again(node, settings, state.node, report)
    Refresh(node).catch_up()
    report.waiting_conflicts = sum(still_waiting(node.database, report.met).values())
    return report


def _hear(node: Node, settings: PeerSettings, peer: str) -> None:
    """Hear what the peer, and those that it hands on, say of themselves."""
    try:
        hear(node, settings, Controls(node, PeerIds(node)))
    except (OutageError, RefusedError) as error:
        # What was pulled is here; a release of before has no heartbeats.
        log.info("heartbeat.not_heard", extra={"peer": peer, "error": str(error)})


def _ask_again(node: Node, settings: PeerSettings, peer: str, report: PullReport) -> None:
    """Ask for what is missing as long as some of it comes."""
    intake = Intake(
        node,
        f"again-{peer}",
        lambda: AgainSource(node, peer, lambda: settings, 0.0),
        None,
        threading.Event(),
        report.count,
    )
    try:
        missing = _missing(node)
        while missing:
            intake.step(0)
            before, missing = missing, _missing(node)
            if missing == before:
                break
    finally:
        intake.close()


def _missing(node: Node) -> list[Gap]:
    with reading(node.database) as connection:
        return find_gaps(connection)
