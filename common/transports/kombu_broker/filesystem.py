"""kombu's filesystem transport, with the steps replaced at which it loses messages.

kombu's own channel writes a message in place without a sync, so that a reader or a crash may find half of it; deletes
it when it is read, before anybody acknowledged it; names files by a clock that starts anew with the machine; and two
processes that bind at once may overwrite each other's binding.
"""

import logging
import os
import time
import uuid
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Empty
from typing import TYPE_CHECKING, Any

from common.transports.files import make_folder, write_file_durably
from common.transports.kombu_broker.untyped import BrokerState, dumps, kombu_filesystem, loads

if TYPE_CHECKING:
    # kombu has no types: this is the part of it that we rely on.
    class _KombuChannel:
        connection: Any
        control_folder: Path
        transport_options: dict[str, Any]

        def __init__(self, connection: Any, **options: Any) -> None: ...
        def get_table(self, exchange: str) -> list[Any]: ...
        def _queue_bind(self, exchange: str, routing_key: str, pattern: str, queue: str) -> None: ...

    class _KombuTransport:
        state: Any

        def __init__(self, client: Any, **options: Any) -> None: ...
else:
    _KombuChannel = kombu_filesystem.Channel
    _KombuTransport = kombu_filesystem.Transport

log = logging.getLogger(__name__)
MESSAGES = "messages"
CONTROL = "control"
HELD = "held"


def transport_options(root: Path) -> dict[str, Any]:
    """Return kombu's options for messages below `root`."""
    messages = str(root / MESSAGES)
    return {
        "data_folder_in": messages,
        "data_folder_out": messages,
        "control_folder": str(root / CONTROL),
        "held_folder": str(root / HELD),
    }


def make_folders(root: Path) -> None:
    """Make what is needed below `root`, not `root` itself: it may be a share that is not mounted. Raises OSError."""
    for name in (MESSAGES, CONTROL, HELD):
        make_folder(root / name, create_root=False)


class Channel(_KombuChannel):
    """Messages are whole or not there, in their sender's order, and kept in `held/<queue>/` until they are let go."""

    def __init__(self, connection: Any, **options: Any) -> None:
        super().__init__(connection, **options)
        self._messages = Path(self.transport_options["data_folder_in"])
        self._listed: dict[str, deque[str]] = {}
        self._last_ns = 0

    def recover_held(self, queue: str) -> int:
        """Put back what a reader of `queue` held when it ended; returns how many. Raises OSError."""
        names = [name for name in os.listdir(self._held(queue)) if name.endswith(".msg")]
        for name in names:
            os.rename(self._held(queue) / name, self._messages / name)
        return len(names)

    def forget_held(self, queue: str) -> None:
        """Delete what readers of `queue` have taken: all of it is acknowledged. Raises OSError."""
        for name in os.listdir(self._held(queue)):
            if name.endswith(".msg"):
                (self._held(queue) / name).unlink(missing_ok=True)

    def get_table(self, exchange: str) -> list[Any]:
        with self._bindings_locked():
            return super().get_table(exchange)

    def _queue_bind(self, exchange: str, routing_key: str, pattern: str, queue: str) -> None:
        with self._bindings_locked():
            super()._queue_bind(exchange, routing_key, pattern, queue)

    def _put(self, queue: str, payload: Any, **_options: Any) -> None:
        # Also two messages of one nanosecond, or after the clock went back, keep their order.
        self._last_ns = max(self._last_ns + 1, time.time_ns())
        name = f"{self._last_ns:020d}-{uuid.uuid4().hex}.{queue}.msg"
        write_file_durably(self._messages / name, [dumps(payload).encode()])

    def _get(self, queue: str) -> Any:
        while True:
            name = self._next_name(queue)
            taken = self._held(queue) / name
            try:
                os.rename(self._messages / name, taken)
            except FileNotFoundError:
                # Another reader of this node was faster.
                continue
            try:
                return loads(taken.read_bytes())
            except ValueError as error:
                aside = taken.with_suffix(".broken")
                os.rename(taken, aside)
                log.error("kombu.message-broken", extra={"path": str(aside), "error": str(error)})

    def _next_name(self, queue: str) -> str:
        """Names are listed once and then used up: to list at each message would cost the square of their number."""
        listed = self._listed.get(queue)
        if not listed:
            ending = f".{queue}.msg"
            names = (name for name in os.listdir(self._messages) if name.partition(".")[2] == ending[1:])
            listed = self._listed[queue] = deque(sorted(names))
        if not listed:
            raise Empty
        return listed.popleft()

    def _held(self, queue: str) -> Path:
        folder = Path(self.transport_options["held_folder"]) / queue
        folder.mkdir(exist_ok=True)
        return folder

    @contextmanager
    def _bindings_locked(self) -> Iterator[None]:
        with (self.control_folder / ".lock").open("ab") as lock_file:
            kombu_filesystem.lock(lock_file, kombu_filesystem.LOCK_EX)
            try:
                yield
            finally:
                kombu_filesystem.unlock(lock_file)


class Transport(_KombuTransport):
    """kombu's transport with our channel."""

    Channel = Channel

    def __init__(self, client: Any, **options: Any) -> None:
        super().__init__(client, **options)
        # kombu shares this between all connections of a process, also to other folders, and then binds nothing there.
        self.state = BrokerState()
