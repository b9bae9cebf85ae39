"""Keeps one message whose headers pika can't decode from stopping a queue for good."""

import logging
import struct
from typing import Any

import pika
import pika.exceptions
import pika.frame
import pika.spec

from common.seldom import Seldom

_logger = logging.getLogger(__name__)

UNREADABLE = "rowferry_unreadable"
"""The one header of a message whose own could not be read: why."""

_FRAME_START = struct.Struct(">BHL")
_CONTENT_HEADER = struct.Struct(">HHQ")
_FAULTS = (pika.exceptions.AMQPError, ArithmeticError, ValueError, RecursionError, OSError)
"""A date outside of what Python knows, tables nested too deep, …: RabbitMQ hands them on."""


def tolerate_unreadable_headers(connection: Any) -> None:
    """Have a new `connection` hand over a message with unreadable headers as one with none of its own.

    Else the exception ends the connection, the broker delivers the message again, and so on without end: any account
    that may publish could stop every consumer. pika has no public place for this, so its own step from bytes to a frame
    is wrapped."""
    read_frame, seldom = connection._read_frame, Seldom(_logger)

    def read_or_replace() -> Any:
        try:
            return read_frame()
        except _FAULTS as error:
            found = _without_headers(connection._frame_buffer, error)
            if found is None:
                raise
            what = type(error).__name__
            seldom.warn("message_headers_unreadable", what, error=f"{what}: {error}")
            return found

    connection._read_frame = read_or_replace


def _without_headers(buffer: bytes, error: Exception) -> tuple[int, Any] | None:
    """Return the length of the content header frame at the start of `buffer` and what stands for it.

    None for any other frame: those are the broker's own, and a fault in them is a fault of the connection."""
    kind, channel, size = _FRAME_START.unpack_from(buffer)
    if kind != pika.spec.FRAME_HEADER:
        return None
    _class, _weight, body_size = _CONTENT_HEADER.unpack_from(buffer, pika.spec.FRAME_HEADER_SIZE)
    properties = pika.BasicProperties(headers={UNREADABLE: f"{type(error).__name__}: {error}"[:200]})
    length = pika.spec.FRAME_HEADER_SIZE + size + pika.spec.FRAME_END_SIZE
    return length, pika.frame.Header(channel, body_size, properties)
