"""A question that may take its time, on a thread of its own: who waits for the answer may leave at any time."""

import threading
from collections.abc import Callable

from common.transports.http.client import PeerClient, PullAnswer


class Asking:
    """One pull under way. Belongs to the thread that began it; the client is the question's until it is answered."""

    def __init__(self, client: PeerClient, ask: Callable[[], PullAnswer]) -> None:
        self._client = client
        self._answer: PullAnswer | None = None
        self._error: BaseException | None = None
        self._done = threading.Event()
        self._lock = threading.Lock()
        self._is_left = False
        # A daemon: what nobody waits for any more must not keep the process from ending.
        self._thread = threading.Thread(target=self._ask, args=(ask,), name="rowferry-pull", daemon=True)
        self._thread.start()

    def answer(self, timeout_seconds: float) -> PullAnswer | None:
        """Return the answer; None while there is none. Raises what asking raised."""
        if not self._done.wait(max(0.0, timeout_seconds)):
            return None
        if self._error is not None:
            raise self._error
        return self._answer

    def leave(self) -> bool:
        """Wait no more. True where the question is still under way: then it closes the client once it is answered."""
        with self._lock:
            self._is_left = not self._done.is_set()
            if not self._is_left and self._answer is not None:
                self._answer.close()
            return self._is_left

    def _ask(self, ask: Callable[[], PullAnswer]) -> None:
        answer: PullAnswer | None = None
        try:
            answer = self._answer = ask()
        except BaseException as error:  # noqa: BLE001 - it is raised again where the answer is waited for
            self._error = error
        with self._lock:
            self._done.set()
            if not self._is_left:
                return
        if answer is not None:
            answer.close()
        self._client.close()
