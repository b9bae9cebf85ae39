"""Logins in the audit: who came, who went, and who was refused as which token; never a secret."""

import json
import threading
from collections.abc import Mapping, Sequence

import sqlalchemy as sa

from common.clock import Clock
from common.http.callers import Caller
from common.ports.dialect import Database
from common.retry import in_transaction
from common.schema import tables as rf
from common.web.auth import FailedLogins

LOGIN, REFUSED, LOGOUT = "page-login", "page-login-refused", "page-logout"
_ANYWHERE = "anywhere"
_MOST_AN_HOUR = 100
"""Refused ones, whatever addresses they come from: who has many must not fill the table either."""


class LoginAudit:
    """Writes the lines. Any thread. Raises OutageError from any method that writes: then nothing stands."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._by_network = FailedLogins()
        self._by_hour = FailedLogins(_MOST_AN_HOUR, 3600.0)
        self._left_out = 0
        self._lock = threading.Lock()

    def came(self, caller: Caller, address: str, before: Caller | None) -> None:
        """Note a login. `before`: whose session of the same browser ends by it."""
        ended = [] if before is None else [_line(before.actor, LOGOUT, _of(before, address))]
        self._write([*ended, _line(caller.actor, LOGIN, _of(caller, address))])

    def went(self, caller: Caller, address: str) -> None:
        """Note a logout."""
        self._write([_line(caller.actor, LOGOUT, _of(caller, address))])

    def refused(self, address: str, why: str, known: tuple[str, str] | None) -> None:
        """Note a login that was refused, unless there were many. `known`: the token's id and its node's, where there
        is one; not who did it, for that is unproven."""
        if self._by_network.wait_seconds(address) or self._by_hour.wait_seconds(_ANYWHERE):
            self.left_out()
            return
        self._by_network.failed(address)
        self._by_hour.failed(_ANYWHERE)
        named = {} if known is None else {"token_id": known[0], "node_id": known[1]}
        with self._lock:
            left_out, self._left_out = self._left_out, 0
        detail = {**named, "address": address, "reason": why, **({"left_out_before": left_out} if left_out else {})}
        self._write([_line("rowferry", REFUSED, detail)])

    def left_out(self) -> None:
        """Count one that is not written; the next line tells how many they were."""
        with self._lock:
            self._left_out += 1

    def _write(self, lines: Sequence[Mapping[str, object]]) -> None:
        rows = [{"at_us": self._clock.now_us(), **line} for line in lines]
        in_transaction(self._database, lambda connection: connection.execute(sa.insert(rf.audit), rows))


def _of(caller: Caller, address: str) -> Mapping[str, object]:
    return {"token_id": caller.token_id, "node_id": caller.node_id, "address": address}


def _line(actor: str, action: str, detail: Mapping[str, object]) -> Mapping[str, object]:
    return {"actor": actor, "action": action, "detail": json.dumps(detail)}
