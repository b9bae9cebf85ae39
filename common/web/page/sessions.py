"""Who is logged in to the page: random ids in memory, each bound to the token that it was opened with."""

import hashlib
import hmac
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from common.http.callers import Caller

IDLE_SECONDS = 30 * 60.0
LONGEST_SECONDS = 12 * 3600.0
_MOST = 1_000
_MOST_MESSAGES = 20


@dataclass(frozen=True, slots=True)
class Message:
    """What an action came to, for the next page that its author sees."""

    text: str
    look: Literal["good", "warn", "bad"] = "good"
    links: tuple[tuple[str, str], ...] = ()
    """Where to look at what it tells of: address and words."""


@dataclass(slots=True)
class Session:
    """One login. Instants by a clock that never goes back, in seconds."""

    caller: Caller
    csrf: str
    """What each form of this session carries."""
    began: float
    used: float
    """When a person did something last; a page that looks again by itself does not count."""
    _messages: list[Message] = field(default_factory=list)

    def say(self, text: str, *, is_good: bool = True, links: Sequence[tuple[str, str]] = ()) -> None:
        """Keep a message for the next page. Any thread."""
        self._keep(Message(text, "good" if is_good else "bad", tuple(links)))

    def warn(self, text: str) -> None:
        """Keep what somebody should know of something that was done well."""
        self._keep(Message(text, "warn"))

    def _keep(self, message: Message) -> None:
        self._messages = [*self._messages, message][-_MOST_MESSAGES:]

    def take_messages(self) -> list[Message]:
        """Return what was said since the last page."""
        taken, self._messages = self._messages, []
        return taken

    def fits(self, csrf: str) -> bool:
        """Tell whether a form is one of this session's; takes as long whatever the answer is."""
        return hmac.compare_digest(self.csrf.encode(), csrf.encode())


class Sessions:
    """All logins of one process; a restart ends them. Any thread.

    Of each id only its sum is kept, so that looking one up tells nothing by its time."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._sessions: OrderedDict[bytes, Session] = OrderedDict()
        self._lock = threading.Lock()

    def open(self, caller: Caller) -> tuple[str, Session]:
        """Begin a session under a new id; return both. Of too many the one unused longest ends."""
        session_id, now = secrets.token_urlsafe(32), self._monotonic()
        session = Session(caller, secrets.token_urlsafe(32), now, now)
        with self._lock:
            self._sessions[_sum(session_id)] = session
            while len(self._sessions) > _MOST:
                self._sessions.popitem(last=False)
        return session_id, session

    def find(self, session_id: str, *, by_person: bool) -> Session | None:
        """Return a session that has not ended. `by_person`: that it is used keeps it for another while."""
        key, now = _sum(session_id), self._monotonic()
        with self._lock:
            session = self._sessions.get(key)
            if session is None:
                return None
            if now - session.used > IDLE_SECONDS or now - session.began > LONGEST_SECONDS:
                del self._sessions[key]
                return None
            if by_person:
                session.used = now
                self._sessions.move_to_end(key)
            return session

    def end(self, session_id: str) -> None:
        """End a session, if there is one of this id."""
        with self._lock:
            self._sessions.pop(_sum(session_id), None)


def _sum(session_id: str) -> bytes:
    return hashlib.sha256(session_id.encode()).digest()
