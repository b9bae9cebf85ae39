"""What we take from kombu. Its hints are too few for a strict check (most functions have none), so here it is Any."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    Connection: Any
    Exchange: Any
    Producer: Any
    Queue: Any
    binding: Any
    kombu_filesystem: Any
    kombu_sqlalchemy: Any
    BrokerState: Any
    dumps: Any
    loads: Any
    KOMBU_ERRORS: tuple[type[Exception], ...]
else:
    from kombu import Connection, Exchange, Producer, Queue, binding
    from kombu import exceptions as _exceptions
    from kombu.transport import filesystem as kombu_filesystem
    from kombu.transport import sqlalchemy as kombu_sqlalchemy
    from kombu.transport.virtual.base import BrokerState
    from kombu.utils.json import dumps, loads

    # The last two are amqp's: the bases of what transports raise when a connection or a channel breaks.
    KOMBU_ERRORS = (_exceptions.KombuError, _exceptions.ConnectionError, _exceptions.ChannelError)

__all__ = [
    "KOMBU_ERRORS",
    "BrokerState",
    "Connection",
    "Exchange",
    "Producer",
    "Queue",
    "binding",
    "dumps",
    "kombu_filesystem",
    "kombu_sqlalchemy",
    "loads",
]
