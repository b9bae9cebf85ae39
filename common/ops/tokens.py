"""Tokens: made once, shown once, kept as a scrypt sum, taken back at once.

`rf_ID_SECRET`: the id finds the row, the secret proves it. Losing the table tells nobody a secret."""

import hashlib
import hmac
import json
import re
import secrets
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from common.clock import Clock, to_iso
from common.errors import UsageError
from common.http.scopes import Scope, read_scopes, scope_text
from common.ids import NODE_ID
from common.ports.dialect import Database
from common.retry import in_transaction
from common.schema import tables as rf

_FORM = re.compile(r"rf_([a-z2-7]{12})_([A-Za-z0-9_-]{43})\Z")
_ID_LETTERS = "abcdefghijklmnopqrstuvwxyz234567"
_COST, _BLOCK, _LANES = 2**14, 8, 1
"""16 MiB and some tens of milliseconds for each guess. The secret has 256 bits as it is."""
_MEMORY = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Token:
    """A row of `rf_token`. Instants are microseconds since the epoch."""

    id: str
    node_id: str
    scopes: frozenset[Scope]
    hash: str
    created_us: int
    created_by: str
    expires_us: int | None
    last_used_us: int | None
    revoked_us: int | None
    revoked_by: str | None

    def works_at(self, now_us: int) -> bool:
        """Tell whether it is neither revoked nor too old."""
        return self.revoked_us is None and (self.expires_us is None or now_us < self.expires_us)

    def document(self, now_us: int) -> dict[str, Any]:
        """Return it as `token list --json` gives it: all but the secret, which is nowhere."""
        state = "revoked" if self.revoked_us is not None else "active" if self.works_at(now_us) else "expired"
        return {
            "id": self.id,
            "node_id": self.node_id,
            "scopes": [scope.value for scope in Scope if scope in self.scopes],
            "state": state,
            "created_at": to_iso(self.created_us),
            "created_by": self.created_by,
            "expires_at": _iso(self.expires_us),
            "last_used_at": _iso(self.last_used_us),
            "revoked_at": _iso(self.revoked_us),
            "revoked_by": self.revoked_by,
        }


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tokens of one node's database."""

    database: Database
    clock: Clock

    def create(
        self, node_id: str, scopes: frozenset[Scope], actor: str, lives_us: int | None = None
    ) -> tuple[str, Token]:
        """Make a token for `node_id`; return its text, which is told once, and its row. Raises UsageError."""
        if not NODE_ID.match(node_id):
            raise UsageError(f"--node {node_id!r}: a node's id has 1 to 64 letters, digits, '-' or '_'")
        if not scopes:
            raise UsageError("a token needs at least one scope")
        token_id = "".join(secrets.choice(_ID_LETTERS) for _ in range(12))
        secret = secrets.token_urlsafe(32)
        now_us = self.clock.now_us()
        expires_us = None if lives_us is None else now_us + lives_us
        token = Token(token_id, node_id, scopes, hash_of(secret), now_us, actor, expires_us, None, None, None)
        values = {name: getattr(token, name) for name in Token.__slots__} | {"scopes": scope_text(scopes)}

        def make(connection: sa.Connection) -> None:
            connection.execute(sa.insert(rf.token).values(values))
            _note(connection, now_us, actor, "token-created", token)

        in_transaction(self.database, make)
        return f"rf_{token_id}_{secret}", token

    def all(self) -> list[Token]:
        """Return every token that was ever made, oldest first."""
        return stored_tokens(self.database)

    def find(self, token_id: str) -> Token | None:
        """Return one token."""
        query = sa.select(rf.token).where(rf.token.c.id == token_id)
        row = in_transaction(self.database, lambda connection: connection.execute(query).one_or_none())
        return None if row is None else _token(row)

    def revoke(self, token_id: str, actor: str) -> Token:
        """Take a token back: from this commit on nobody comes in by it. Raises UsageError for one that there is not."""
        now_us = self.clock.now_us()

        def take_back(connection: sa.Connection) -> Token:
            is_it = rf.token.c.id == token_id
            revoked = sa.update(rf.token).where(is_it, rf.token.c.revoked_us.is_(None))
            changed = connection.execute(revoked.values(revoked_us=now_us, revoked_by=actor)).rowcount
            row = connection.execute(sa.select(rf.token).where(is_it)).one_or_none()
            if row is None:
                raise UsageError(f"{token_id}: no such token; see `rowferry token list`")
            if changed:
                _note(connection, now_us, actor, "token-revoked", _token(row))
            return _token(row)

        return in_transaction(self.database, take_back)

    def ended(self) -> int:
        """Return how many tokens work no more: they were taken back, or have expired."""
        is_over = rf.token.c.expires_us <= self.clock.now_us()
        query = sa.select(sa.func.count()).where(rf.token.c.revoked_us.is_not(None) | is_over)
        return in_transaction(self.database, lambda connection: int(connection.execute(query).scalar_one()))

    def used(self, token_id: str, now_us: int) -> None:
        """Note that a token was used."""
        values = sa.update(rf.token).where(rf.token.c.id == token_id).values(last_used_us=now_us)
        in_transaction(self.database, lambda connection: connection.execute(values))


def stored_tokens(database: Database) -> list[Token]:
    """Return every token that was ever made, oldest first."""
    query = sa.select(rf.token).order_by(rf.token.c.created_us, rf.token.c.id)
    return in_transaction(database, lambda connection: [_token(row) for row in connection.execute(query)])


def revoke_all_of(connection: sa.Connection, node_id: str, actor: str, now_us: int) -> list[str]:
    """Take back every token that speaks for a node and was not yet; return their ids. Audited one by one."""
    table = rf.token
    theirs = sa.and_(table.c.node_id == node_id, table.c.revoked_us.is_(None))
    found = [_token(row) for row in connection.execute(sa.select(table).where(theirs).order_by(table.c.id))]
    connection.execute(sa.update(table).where(theirs).values(revoked_us=now_us, revoked_by=actor))
    for token in found:
        _note(connection, now_us, actor, "token-revoked", token)
    return [token.id for token in found]


def split(text: str) -> tuple[str, str] | None:
    """Return id and secret of a token's text; None where it is none."""
    found = _FORM.match(text)
    return None if found is None else (found.group(1), found.group(2))


def hash_of(secret: str) -> str:
    """Return what is kept of a secret."""
    salt = secrets.token_bytes(16)
    return f"scrypt${_COST}${_BLOCK}${_LANES}${salt.hex()}${_sum(secret, salt, _COST, _BLOCK, _LANES).hex()}"


def matches(secret: str, kept: str) -> bool:
    """Tell whether `kept` is the sum of `secret`; takes as long whatever the answer is."""
    _, cost, block, lanes, salt, expected = kept.split("$")
    found = _sum(secret, bytes.fromhex(salt), int(cost), int(block), int(lanes))
    return hmac.compare_digest(found, bytes.fromhex(expected))


def _sum(secret: str, salt: bytes, cost: int, block: int, lanes: int) -> bytes:
    return hashlib.scrypt(secret.encode(), salt=salt, n=cost, r=block, p=lanes, maxmem=_MEMORY, dklen=32)


def _token(row: sa.Row[Any]) -> Token:
    fields = dict(row._mapping)
    return Token(**fields | {"scopes": read_scopes(fields["scopes"])})


def _iso(us: int | None) -> str | None:
    return None if us is None else to_iso(us)


def _note(connection: sa.Connection, now_us: int, actor: str, action: str, token: Token) -> None:
    detail = json.dumps({"token_id": token.id, "node_id": token.node_id, "scopes": scope_text(token.scopes)})
    line = {"at_us": now_us, "actor": actor, "action": action, "detail": detail}
    connection.execute(sa.insert(rf.audit).values(line))
