"""Asks a peer over HTTP once more for what is missing here of its log, and of those that it hands on."""

import logging
import threading
import time
from collections.abc import Callable
from functools import partial

from common.config.model import PeerSection
from common.errors import RowferryError
from common.http.encodings import in_chunks
from common.ports.sink import TransportFeatures
from common.ports.source import Delivery
from common.runtime.node import Node
from common.transports.http.client import PeerClient
from common.transports.http.features import FEATURES
from common.transports.http.peer import checked_state, is_trusted
from common.transports.http.settings import PeerSettings, settings_of
from common.wire.control import Gone
from common.wire.decode import read_parts
from consumer.gap_watch import GapWatch, Watched
from consumer.gaps import find_gaps
from consumer.intake import Intake
from consumer.requests import forget_asked, note_asked, request_for, take_gone
from consumer.statements import reading, writing

log = logging.getLogger(__name__)

_LOOK_SECONDS = 2.0
_DELIVERY_BYTES = 4 * 1024 * 1024
AskFor = Callable[[], PeerSettings]


class AgainSource:
    """What a peer gives once more. A `Source` beside that of its pulls; belongs to one thread.

    Nothing has to be kept of it: what was not committed is still missing, and asked for again."""

    def __init__(
        self,
        node: Node,
        peer: str,
        settings: AskFor,
        patience_seconds: float,
        monotonic: Callable[[], float] = time.monotonic,
        hurry: threading.Event | None = None,
    ) -> None:
        """`hurry`: once it is set nothing is waited for, and each gap asked for once."""
        self._node = node
        self._peer = peer
        self._settings = settings
        self._monotonic = monotonic
        self._watch = GapWatch(patience_seconds)
        self._look_seconds = min(_LOOK_SECONDS, patience_seconds / 2)
        self._look_at = 0.0
        self._wake = threading.Event()
        self._hurry = hurry or threading.Event()
        self._hurries = False

    @property
    def features(self) -> TransportFeatures:
        return FEATURES

    @property
    def took_what_stood(self) -> bool:
        """What is missing comes to an end by itself."""
        return False

    def receive(self, max_deliveries: int, timeout_seconds: float) -> list[Delivery]:
        """Look for what is missing, and ask for what is due; at most about 16 MiB. Raises OutageError (database)."""
        del max_deliveries
        now = self._monotonic()
        if self._hurry.is_set() and not self._hurries:
            self._hurries, self._watch = True, GapWatch(0.0)
            self._look_seconds = self._look_at = 0.0
        if now < self._look_at:
            self._wake.wait(min(max(0.0, timeout_seconds), self._look_at - now))
            return []
        self._look_at = now + self._look_seconds
        with reading(self._node.database) as connection:
            gaps = find_gaps(connection)
        for was in self._watch.look(gaps, now):
            gap = was.gap
            writing(self._node.database, partial(forget_asked, peer=gap.peer, incarnation=gap.incarnation))
        due = [one for one in self._watch.due(now) if not (self._hurries and one.asks)]
        return self._ask(due, now) if due else []

    def ack(self, deliveries: list[Delivery]) -> None:
        """What is committed is missing no more."""

    def give_back(self, deliveries: list[Delivery], *, failed: bool) -> None:
        """What is not is still missing."""

    def close(self) -> None:
        self._wake.set()

    def _ask(self, due: list[Watched], now: float) -> list[Delivery]:
        try:
            settings = self._settings()
            client = PeerClient(settings)
        except RowferryError as error:
            log.info("gap_not_asked", extra={"peer": self._peer, "error": str(error)})
            return []
        try:
            state = checked_state(client, self._node.facts.node_id)
            may_forward = is_trusted(settings, state, self._node.config, self._node.main())
            found: list[Delivery] = []
            for one in due:
                if one.gap.peer == state.node or may_forward:
                    one.note_asked(now)
                    found += self._asked(client, one, state.node, may_forward=may_forward)
            return found
        except RowferryError as error:
            # A peer that is away, or of a release of before: its intake tells of it.
            log.info("gap_not_asked", extra={"peer": self._peer, "error": str(error)})
            return []
        finally:
            client.close()

    def _asked(self, client: PeerClient, one: Watched, peer: str, *, may_forward: bool) -> list[Delivery]:
        gap, node = one.gap, self._node
        request = request_for(node, gap)
        asked = writing(node.database, lambda connection: note_asked(connection, request, node.clock.now_us()))
        fields = {"peer": peer, "source_node": gap.peer, "incarnation": gap.incarnation}
        lsns = {"after_lsn": gap.after_lsn, "until_lsn": gap.until_lsn}
        log.warning("gap_asked", extra=fields | lsns | {"asked": asked})
        answer = client.again(gap.peer, gap.incarnation, gap.after_lsn, gap.until_lsn)
        try:
            bodies = list(in_chunks((item.raw for item in read_parts(answer.body)), _DELIVERY_BYTES))
        finally:
            answer.close()
        if answer.gone_until_lsn is not None:
            gone = Gone(
                from_node=gap.peer,
                to_node=node.facts.node_id,
                incarnation=gap.incarnation,
                after_lsn=gap.after_lsn,
                until_lsn=answer.gone_until_lsn,
            )
            take_gone(node, gone)
        return [
            Delivery(body, f"http:{peer}", None, source_node=peer, verified=True, may_forward=may_forward)
            for body in bodies
        ]


class AgainIntake(Intake):
    """Asks one peer for what is missing, and applies it. A service of `run`."""

    def __init__(self, node: Node, name: str, peer: PeerSection, stop: threading.Event) -> None:
        self._hurry = threading.Event()
        patience = node.config.limits.gap_seconds
        source = partial(AgainSource, node, name, partial(settings_of, name, peer), patience, hurry=self._hurry)
        super().__init__(node, f"again-{name}", source, None, stop)

    def last_look(self) -> None:
        """Let the next steps ask at once: nobody would in a later process, which begins to wait anew."""
        self._hurry.set()
