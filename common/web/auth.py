"""Who may come in: tokens looked up at each request, their dear sums taken only now and then."""

import hashlib
import hmac
import ipaddress
import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from common.clock import Clock
from common.errors import RowferryError
from common.http.callers import Caller
from common.http.problems import ProblemError
from common.ops import tokens
from common.ops.tokens import Token, Tokens
from common.ports.dialect import Database

log = logging.getLogger(__name__)

_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="rowferry"'}
_MOST_KNOWN = 10_000
_USED_EVERY_US = 60_000_000
_FAILURES = 10
_WINDOW_SECONDS = 60.0
_MOST_ADDRESSES = 10_000
_NONE_OF_OURS = "the token is not one of this node's"
_NOBODY = tokens.hash_of("nobody has this secret")


class RefusedTokenError(ProblemError):
    """A token that opens nothing. What else is known of it is for the audit: whoever showed it is not told."""

    def __init__(self, detail: str, reason: str, known: Token | None = None, why: str | None = None) -> None:
        challenge = {"WWW-Authenticate": 'Bearer realm="rowferry", error="invalid_token"'}
        super().__init__(401, detail, reason=reason, headers=challenge)
        self.known = known
        """The one that has the id which was shown, if there is one."""
        self.why = why
        """None: it has not even the form of a token."""


class FailedLogins:
    """Counts wrong tokens by the network they come from. Any thread."""

    def __init__(self, most: int = _FAILURES, window_seconds: float = _WINDOW_SECONDS) -> None:
        self._most = most
        self._window_seconds = window_seconds
        self._failures: OrderedDict[str, deque[float]] = OrderedDict()
        self._lock = threading.Lock()

    def wait_seconds(self, address: str) -> float:
        """Return how long `address` has to wait until its next try; 0: it may try."""
        network = network_of(address)
        with self._lock:
            if network not in self._failures:
                # Who only asks is not remembered.
                return 0.0
            failures = self._fresh(network)
            if len(failures) < self._most:
                return 0.0
            return max(0.0, failures[0] + self._window_seconds - time.monotonic())

    def failed(self, address: str) -> None:
        """Count one more."""
        network = network_of(address)
        with self._lock:
            self._fresh(network).append(time.monotonic())
            self._failures.move_to_end(network)
            while len(self._failures) > _MOST_ADDRESSES:
                self._failures.popitem(last=False)

    def _fresh(self, network: str) -> deque[float]:
        failures = self._failures.setdefault(network, deque(maxlen=self._most))
        while failures and failures[0] < time.monotonic() - self._window_seconds:
            failures.popleft()
        return failures


def network_of(address: str) -> str:
    """Return what one client can have of addresses: of IPv6 the first 64 bits, for the rest is its own to choose."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    if not isinstance(found, ipaddress.IPv6Address):
        return str(found)
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.ip_network((int(found), 64), strict=False))


class _Turns:
    """One at a time, few who wait, and nobody else: a sum takes 16 MiB and its time, and whoever waits for one takes a
    thread from those who are known already. Any thread."""

    def __init__(self, places: int) -> None:
        self._places = threading.Semaphore(places)
        self._turn = threading.Lock()

    @contextmanager
    def one(self) -> Iterator[None]:
        """Wait for a turn. Raises ProblemError where too many do."""
        if not self._places.acquire(blocking=False):
            raise ProblemError(
                429, "many tokens are looked at just now: try again", reason="busy", headers={"Retry-After": "1"}
            )
        try:
            with self._turn:
                yield
        finally:
            self._places.release()


@dataclass(frozen=True, slots=True)
class _Verified:
    """That a secret fits a row: the sums alone, no secret."""

    digest: bytes
    hash: str


class TokenGate:
    """Checks tokens. A `Gate`.

    The row is read at each request, so that a token which is revoked or expired is refused at the very next one; only
    that its secret fits is remembered, as long as the process lives: so what is known goes on working while somebody of
    its address guesses."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._tokens = Tokens(database, clock)
        self._clock = clock
        self._verified: OrderedDict[str, _Verified] = OrderedDict()
        self._noted: OrderedDict[str, int] = OrderedDict()
        """When it was tried last to note that a token was used."""
        self._lock = threading.Lock()
        self._failures = FailedLogins()
        self._wrong_of = FailedLogins()
        # Many who are right may come together: after a restart everybody's is looked at once. Of guesses few may wait.
        self._turns, self._turns_of_guesses = _Turns(1_000), _Turns(3)

    def admit(self, address: str, token: str | None) -> Caller:
        """Return whom `token` speaks for. Raises ProblemError, OutageError."""
        if token is None:
            raise ProblemError(401, "this needs a token: Authorization: Bearer TOKEN", headers=_CHALLENGE)
        return self._admitted(self._find(address, token))

    def still(self, caller: Caller) -> Caller:
        """Return what the token of `caller`, which was admitted before, is good for now. Raises ProblemError where it
        was revoked or is expired, OutageError."""
        found = self._tokens.find(caller.token_id)
        if found is None:
            raise RefusedTokenError(_NONE_OF_OURS, "token")
        return self._admitted(found)

    def _admitted(self, found: Token) -> Caller:
        now_us = self._clock.now_us()
        if not found.works_at(now_us):
            word = "revoked" if found.revoked_us is not None else "expired"
            raise RefusedTokenError(f"the token is {word}", word, found, f"the token is {word}")
        self._note_used(found, now_us)
        return Caller(found.node_id, found.id, found.scopes)

    def _note_used(self, token: Token, now_us: int) -> None:
        """Note it once a minute. Where nothing can be written its owner may look all the same: it is no reason for a
        no, and just then somebody has to."""
        last_us = max(token.last_used_us or 0, self._noted.get(token.id, 0))
        if now_us - last_us < _USED_EVERY_US:
            return
        with self._lock:
            # Before the try: whoever asks meanwhile does not wait for it too.
            self._noted[token.id] = now_us
            self._noted.move_to_end(token.id)
            while len(self._noted) > _MOST_KNOWN:
                self._noted.popitem(last=False)
        try:
            self._tokens.used(token.id, now_us)
        except RowferryError as error:
            log.info("token.use_not_noted", extra={"token": token.id, "error": str(error)})

    def _find(self, address: str, token: str) -> Token:
        parts = tokens.split(token)
        if parts is None:
            # No guess: it could not be right, and finding that out costs nothing.
            raise RefusedTokenError(_NONE_OF_OURS, "token")
        found, secret = self._tokens.find(parts[0]), parts[1]
        if found is not None and self._is_known(found, secret):
            return found
        self._check_may_try(address)
        # Ids are no secret, but nobody finds one by trying: who knows one is no guesser until many were wrong.
        is_guess = found is None or self._wrong_of.wait_seconds(found.id) > 0
        with (self._turns_of_guesses if is_guess else self._turns).one():
            # Once more: several may have waited for their turn together, from one address or with one token.
            if found is not None and self._is_known(found, secret):
                return found
            self._check_may_try(address)
            # For an id that there is not a sum is taken too: an answer's time tells nothing.
            fits = tokens.matches(secret, found.hash if found else _NOBODY)
            if found is not None and fits:
                self._remember(found, secret)
                return found
            self._failures.failed(address)
            if found is not None:
                self._wrong_of.failed(found.id)
        raise RefusedTokenError(_NONE_OF_OURS, "token", found, "a wrong secret" if found else "no such token")

    def _check_may_try(self, address: str) -> None:
        wait = self._failures.wait_seconds(address)
        if wait > 0:
            seconds = int(wait) + 1
            raise ProblemError(429, f"too many wrong tokens: try in {seconds} s", headers={"Retry-After": str(seconds)})

    def _is_known(self, token: Token, secret: str) -> bool:
        with self._lock:
            known = self._verified.get(token.id)
        if known is None or known.hash != token.hash:
            return False
        return hmac.compare_digest(known.digest, _digest(secret))

    def _remember(self, token: Token, secret: str) -> None:
        with self._lock:
            self._verified[token.id] = _Verified(_digest(secret), token.hash)
            self._verified.move_to_end(token.id)
            while len(self._verified) > _MOST_KNOWN:
                self._verified.popitem(last=False)


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()
