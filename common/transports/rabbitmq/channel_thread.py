"""A pika connection with one channel on an I/O thread of its own."""

import logging
import threading
from collections.abc import Callable
from typing import Any

import pika
import pika.exceptions
from pika.adapters.select_connection import IOLoop

from common.errors import OutageError, RowferryError
from common.transports.rabbitmq.connection import parameters, place, translate
from common.transports.rabbitmq.settings import RabbitSettings
from common.transports.rabbitmq.unreadable import tolerate_unreadable_headers

_logger = logging.getLogger(__name__)
_GRACE_SECONDS = 2.0
_CLOSE_SECONDS = 1.0
_JOIN_SECONDS = 3.0

Prepare = Callable[[Any, Callable[[], None]], None]


class ChannelThread:
    """Keeps heartbeats alive and hands over what comes, however long the owner is busy.

    pika's objects belong to the I/O thread: `prepare` and `on_lost` are called there, and everything else gets there
    through `post`. A lost connection stays lost: the owner closes this and makes a new one."""

    def __init__(
        self, settings: RabbitSettings, role: str, *, prepare: Prepare, on_lost: Callable[[RowferryError], None]
    ) -> None:
        """`prepare` gets the open channel and a function to call once it is ready for work."""
        self._settings = settings
        self._parameters = parameters(settings, role)
        self._prepare = prepare
        self._on_lost = on_lost
        self._loop = IOLoop()
        self._connection: Any = None
        self._blocked = False
        self._closing = False
        self._error: RowferryError | None = None
        self._settled = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"rowferry-rabbitmq-{role}", daemon=True)

    def start(self) -> None:
        """Connect and prepare the channel. Raises what `translate` makes of a failure, and leaves nothing open."""
        self._thread.start()
        in_time = self._settled.wait(self._parameters.stack_timeout + _GRACE_SECONDS)
        if in_time and self._error is None:
            return
        self.close()
        raise self._error or OutageError(f"{place(self._settings)} did not open a channel in time")

    def post(self, action: Callable[[], None]) -> None:
        """Have `action` run on the I/O thread, in the order of the calls; not at all once the connection is lost."""
        self._loop.add_callback_threadsafe(action)

    @property
    def blocked(self) -> bool:
        """Whether the broker asked this connection to stop publishing (memory or disk alarm)."""
        return self._blocked

    def close(self) -> None:
        """Run what was posted, then close, by force after a second. Safe to call twice."""
        if self._thread.ident is None or not self._thread.is_alive():
            return
        self.post(self._shut)
        self._thread.join(_JOIN_SECONDS)

    def _run(self) -> None:
        self._connection = pika.SelectConnection(
            self._parameters,
            on_open_callback=self._opened,
            on_open_error_callback=self._gone,
            on_close_callback=self._gone,
            custom_ioloop=self._loop,
        )
        tolerate_unreadable_headers(self._connection)
        try:
            self._loop.start()
        except Exception:
            _logger.exception("rabbitmq_io_thread_failed")
            self._fail(OutageError(f"{place(self._settings)}: the I/O thread failed, see the log"))
            self._drop()
        finally:
            self._loop.close()

    def _drop(self) -> None:
        """After a failure on this thread: drop the connection, if it is still there, so that its socket is closed."""
        if not self._connection.is_closed:
            self._abort()
            self._loop.start()

    def _opened(self, connection: Any) -> None:
        connection.add_on_connection_blocked_callback(lambda *_: self._set_blocked(True))
        connection.add_on_connection_unblocked_callback(lambda *_: self._set_blocked(False))
        connection.channel(on_open_callback=self._channel_opened)

    def _set_blocked(self, blocked: bool) -> None:
        self._blocked = blocked
        _logger.warning("broker_blocks_publishers" if blocked else "broker_unblocked_publishers")

    def _channel_opened(self, channel: Any) -> None:
        channel.add_on_close_callback(self._channel_closed)
        self._prepare(channel, self._settled.set)

    def _channel_closed(self, _channel: Any, reason: Exception) -> None:
        if not self._closing:
            self._fail(translate(reason, self._settings))
        if self._connection.is_open:
            self._connection.close()

    def _gone(self, _connection: Any, reason: Exception) -> None:
        """The connection was lost, closed, or never opened: the end of this thread."""
        if not self._closing:
            self._fail(translate(reason, self._settings))
        self._loop.stop()

    def _fail(self, error: RowferryError) -> None:
        if self._error is not None:
            return
        self._error = error
        self._settled.set()
        self._on_lost(error)

    def _shut(self) -> None:
        self._closing = True
        # A broker with an alarm reads nothing from this socket, so it would never answer a polite close.
        self._loop.call_later(_CLOSE_SECONDS, self._abort)
        if not (self._connection.is_closing or self._connection.is_closed):
            self._connection.close()

    def _abort(self) -> None:
        if not self._connection.is_closed:
            # pika offers no public way to drop a connection whose other side doesn't answer; this is what it does
            # itself when heartbeats stay away.
            self._connection._terminate_stream(pika.exceptions.ConnectionClosedByClient(200, "given up"))
