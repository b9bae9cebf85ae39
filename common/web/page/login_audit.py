"""Logins in the audit: who came and who went; never a secret. Who was refused stands there by its `RefusalAudit`."""

import json
from collections.abc import Mapping, Sequence

import sqlalchemy as sa

from common.clock import Clock
from common.http.callers import Caller
from common.ports.dialect import Database
from common.retry import in_transaction
from common.schema import tables as rf
from common.web.refusal_audit import RefusalAudit

LOGIN, REFUSED, LOGOUT = "page-login", "page-login-refused", "page-logout"


class LoginAudit:
    """Writes the lines. Any thread. Raises OutageError from any method that writes: then nothing stands."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self.refusals = RefusalAudit(database, clock, REFUSED)
        """Those who did not get in."""

    def came(self, caller: Caller, address: str, before: Caller | None) -> None:
        """Note a login. `before`: whose session of the same browser ends by it."""
        ended = [] if before is None else [_line(before.actor, LOGOUT, _of(before, address))]
        self._write([*ended, _line(caller.actor, LOGIN, _of(caller, address))])

    def went(self, caller: Caller, address: str) -> None:
        """Note a logout."""
        self._write([_line(caller.actor, LOGOUT, _of(caller, address))])

    def _write(self, lines: Sequence[Mapping[str, object]]) -> None:
        rows = [{"at_us": self._clock.now_us(), **line} for line in lines]
        in_transaction(self._database, lambda connection: connection.execute(sa.insert(rf.audit), rows))


def _of(caller: Caller, address: str) -> Mapping[str, object]:
    return {"token_id": caller.token_id, "node_id": caller.node_id, "address": address}


def _line(actor: str, action: str, detail: Mapping[str, object]) -> Mapping[str, object]:
    return {"actor": actor, "action": action, "detail": json.dumps(detail)}
