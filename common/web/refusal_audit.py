"""Refused tokens in the audit: which, from where, why; never a secret, and never so many that they fill it."""

import json
import threading
import time
from collections import OrderedDict

import sqlalchemy as sa

from common.clock import Clock
from common.http.callers import Caller
from common.http.problems import ProblemError
from common.ports.dialect import Database
from common.retry import in_transaction
from common.schema import tables as rf
from common.web.auth import FailedLogins, RefusedTokenError, TokenGate, network_of

TOKEN_REFUSED = "token-refused"
_ANYWHERE = "anywhere"
_MOST_AN_HOUR = 100
"""Whatever addresses they come from: who has many must not fill the table either."""
_PROGRAMS_AGAIN_SECONDS = 3600.0
"""A program whose token was revoked tries it again and again."""
_MOST_TOLD = 10_000

_Told = tuple[str | None, str, str]
"""The token, why, and from which network."""


class RefusalAudit:
    """Writes one kind of line, within bounds. Any thread."""

    def __init__(self, database: Database, clock: Clock, action: str, again_seconds: float = 0.0) -> None:
        """`again_seconds`: the same of the same token is written once in that time."""
        self._database = database
        self._clock = clock
        self._action = action
        self._again_seconds = again_seconds
        self._by_network = FailedLogins()
        self._by_hour = FailedLogins(_MOST_AN_HOUR, 3600.0)
        self._told: OrderedDict[_Told, float] = OrderedDict()
        self._left_out = 0
        self._lock = threading.Lock()

    def refused(self, address: str, why: str, known: tuple[str, str] | None) -> None:
        """Note one that was refused, unless there were many. `known`: the token's id and its node's, where there is
        one; not who did it, for that is unproven. Raises OutageError: then nothing stands."""
        if self._is_told(address, why, known):
            self.left_out()
            return
        if self._by_network.wait_seconds(address) or self._by_hour.wait_seconds(_ANYWHERE):
            self.left_out()
            return
        self._by_network.failed(address)
        self._by_hour.failed(_ANYWHERE)
        named = {} if known is None else {"token_id": known[0], "node_id": known[1]}
        with self._lock:
            left_out, self._left_out = self._left_out, 0
        detail = {**named, "address": address, "reason": why, **({"left_out_before": left_out} if left_out else {})}
        line = {"actor": "rowferry", "action": self._action, "detail": json.dumps(detail)}
        values = {"at_us": self._clock.now_us(), **line}
        in_transaction(self._database, lambda connection: connection.execute(sa.insert(rf.audit).values(values)))

    def left_out(self) -> None:
        """Count one that is not written; the next line tells how many they were."""
        with self._lock:
            self._left_out += 1

    def _is_told(self, address: str, why: str, known: tuple[str, str] | None) -> bool:
        if not self._again_seconds:
            return False
        what, now = (None if known is None else known[0], why, network_of(address)), time.monotonic()
        with self._lock:
            if now < self._told.get(what, -self._again_seconds) + self._again_seconds:
                return True
            self._told[what] = now
            self._told.move_to_end(what)
            while len(self._told) > _MOST_TOLD:
                self._told.popitem(last=False)
        return False


class AuditedGate:
    """The gate for programs: what it refuses stands in the audit. A `Gate`."""

    def __init__(self, gate: TokenGate, database: Database, clock: Clock) -> None:
        self._gate = gate
        self._audit = RefusalAudit(database, clock, TOKEN_REFUSED, _PROGRAMS_AGAIN_SECONDS)

    def admit(self, address: str, token: str | None) -> Caller:
        """Return whom `token` speaks for. Raises ProblemError, OutageError."""
        try:
            return self._gate.admit(address, token)
        except RefusedTokenError as error:
            note_refused(self._audit, address, error)
            raise
        except ProblemError as error:
            if error.status_code == 429:
                self._audit.left_out()
            raise


def note_refused(audit: RefusalAudit, address: str, error: RefusedTokenError) -> None:
    """Note a token that opens nothing; what has not even the form of one is none. Raises OutageError."""
    if error.why is not None:
        known = error.known
        audit.refused(address, error.why, None if known is None else (known.id, known.node_id))
