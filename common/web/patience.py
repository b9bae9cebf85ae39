"""HTTP/1.1 with clients that dawdle: over what they send, over what they take; and with those that left."""

import asyncio
import logging
import uuid
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from common.http.problems import ProblemError, problem_response
from common.seldom import Seldom

log = logging.getLogger(__name__)
_seldom = Seldom(log)

TASK = "task"
"""In the state of a request: what works on it."""
HANG_UP = "hang_up"
"""In the state of a request: drops its connection, with what is still to be sent."""
LEFT = "has_left"
"""In the state of a request: its client did, and nobody is there to be answered."""
_LEAST_BYTES_A_SECOND = 1024


class Taking:
    """How fast a client takes what is answered: looked at now and then."""

    def __init__(self, least_bytes: float) -> None:
        """`least_bytes`: what it has to take between two looks."""
        self._least_bytes = least_bytes
        self._waited_bytes = 0
        self._drained = False

    def drained(self) -> None:
        """It took all but a little."""
        self._drained = True

    def is_stuck(self, waiting_bytes: int) -> bool:
        """Tell whether it took next to nothing of what it had to take at the last look."""
        is_slow = self._waited_bytes > 0 < waiting_bytes and waiting_bytes > self._waited_bytes - self._least_bytes
        is_stuck = is_slow and not self._drained
        self._waited_bytes, self._drained = waiting_bytes, False
        return is_stuck


class PatientProtocol(H11Protocol):
    """HTTP/1.1 as uvicorn speaks it; a client that dawdles is hung up on, and what it asked for is given up with it."""

    head_seconds = 20.0
    """For the lines of a header, and for the rest of a body that nobody reads any more."""
    slow_seconds = 30.0
    """The longest wait for a client to take some of what was answered."""
    _head: asyncio.TimerHandle | None = None
    _look: asyncio.TimerHandle | None = None
    _taking: Taking

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._arm()
        self._taking = Taking(self.slow_seconds * _LEAST_BYTES_A_SECOND)
        self._look_again()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        if self._look is not None:
            self._look.cancel()
        super().connection_lost(exc)
        self._give_up_request()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._awaits_head() or self._owes_body():
            self._arm()
        else:
            self._disarm()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP with a problem document, like everything that is refused."""
        document = problem_response(ProblemError(400, msg, reason="request"), uuid.uuid4().hex)
        headers = [*document.raw_headers, (b"cache-control", b"no-store"), (b"connection", b"close")]
        response = h11.Response(status_code=400, headers=headers, reason=b"Bad Request")
        for event in (response, h11.Data(data=bytes(document.body)), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def handle_events(self) -> None:
        super().handle_events()
        if self.scope is not None:
            # What works on a request just read begins with the loop's next round.
            self.scope["state"].setdefault(HANG_UP, self._drop)

    def on_response_complete(self) -> None:
        if self._owes_body():
            # It was refused before it was read. A client may be told so while it sends, but not send for ever.
            self._arm()
        super().on_response_complete()

    def resume_writing(self) -> None:
        self._taking.drained()
        super().resume_writing()

    def _awaits_head(self) -> bool:
        return self.conn.their_state is h11.IDLE

    def _owes_body(self) -> bool:
        return self.conn.their_state is h11.SEND_BODY and self.cycle is not None and self.cycle.response_complete

    def _arm(self) -> None:
        if self._head is None:
            self._head = self.loop.call_later(self.head_seconds, self._hang_up, "http.head_too_slow")

    def _disarm(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None

    def _look_again(self) -> None:
        self._look = self.loop.call_later(self.slow_seconds, self._look_at_taking)

    def _look_at_taking(self) -> None:
        """Hang up on who takes next to nothing, whatever became of the request: the library waits for ever, also for
        the rest of an answer that is complete, or that was given up."""
        if self._taking.is_stuck(self.transport.get_write_buffer_size()):
            self._hang_up("http.answer_not_taken")
        else:
            self._look_again()

    def _hang_up(self, event: str) -> None:
        self._head = None
        self._drop()
        _seldom.tell(logging.INFO, event, address=self.client[0] if self.client else None)

    def _drop(self) -> None:
        self.transport.abort()
        if self.cycle is not None:
            # The library learns of it a moment later, and would tell meanwhile that an answer is not complete.
            self.cycle.disconnected = True

    def _give_up_request(self) -> None:
        """Work no more for who left: it counts as a request as long as it goes on, and there may be only so many.

        What a thread has begun it ends."""
        if self.cycle is None or self.cycle.response_complete:
            return
        state: dict[str, Any] = self.scope["state"]
        task: asyncio.Task[None] | None = state.get(TASK)
        if task is not None:
            state[LEFT] = True
            task.cancel()
