"""Log output of the hosts: constant event names with their fields, as JSON lines or as one readable line each.

Modules log `log.info("tx.applied", extra={"tx_id": …})`; only the program that hosts them calls `logging_to`.
"""

import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Any, TextIO

from common.clock import to_iso
from common.visible import visible

_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
# Up to the last @: an unescaped one in a password is no end of it.
_PASSWORD_IN_URL = re.compile(r"(?P<head>\b[a-zA-Z][a-zA-Z0-9+.-]*://[^\s:/@]*):\S*@")
_PASSWORD_IN_QUERY = re.compile(r"(?P<head>[?&](?:ssl)?password=)[^&\s]*", re.IGNORECASE)
_TOKEN = re.compile(r"(?P<head>\brf_[a-z2-7]{12})_[A-Za-z0-9_-]+")
_SECRET_FIELD = re.compile(r"password|secret|token$", re.IGNORECASE)
_MASK = "***"
_LIBRARIES = ("alembic", "amqp", "asyncio", "httpcore", "httpx", "kombu", "sqlalchemy", "urllib3", "uvicorn")
_SILENT = ("pika", "psycopg", "sqlalchemy.pool")
"""The first tells of a broker that is away in five errors and a traceback, the second of each pipeline that a bad row
ended, the third of each connection that a server cut, with a traceback. Each comes up as an exception too, told
once."""


class LogFormat(StrEnum):
    """How a log line is written."""

    JSON = "json"
    TEXT = "text"


def masked(text: str) -> str:
    """Return `text` with the password of every URL, and the secret of every token, in it replaced."""
    text = _PASSWORD_IN_QUERY.sub(rf"\g<head>{_MASK}", _PASSWORD_IN_URL.sub(rf"\g<head>:{_MASK}@", text))
    return _TOKEN.sub(rf"\g<head>_{_MASK}", text)


class JsonLines(logging.Formatter):
    """One JSON object a line: `at`, `level`, `event`, `logger`, and the event's own fields."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "at": _instant(record),
            "level": record.levelname.lower(),
            "event": masked(record.getMessage()),
            "logger": record.name,
            **_fields(record),
        }
        if record.exc_info:
            line["traceback"] = masked(self.formatException(record.exc_info))
        return visible(json.dumps(line, ensure_ascii=False))


class TextLines(logging.Formatter):
    """One line for a person: time, level, event, then `key=value`; a traceback follows on lines of its own."""

    def format(self, record: logging.LogRecord) -> str:
        fields = " ".join(f"{name}={_plain(value)}" for name, value in _fields(record).items())
        line = f"{_instant(record)} {record.levelname:<7} {masked(record.getMessage())} {fields}".rstrip()
        if record.exc_info:
            line += "\n" + masked(self.formatException(record.exc_info))
        # A request's path, a row's key or an error's words are anybody's text.
        return visible(line)


@contextmanager
def logging_to(stream: TextIO, level: int, style: LogFormat) -> Iterator[None]:
    """Send the log of this process to `stream` until the context ends. The libraries' own lines only from WARNING."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines() if style is LogFormat.JSON else TextLines())
    handler.addFilter(_library_noise)
    root = logging.getLogger()
    before = root.level
    root.addHandler(handler)
    root.setLevel(level)
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(before)


def _library_noise(record: logging.LogRecord) -> bool:
    if record.name.startswith(_SILENT):
        return record.levelno >= logging.CRITICAL
    return record.levelno >= logging.WARNING or not record.name.startswith(_LIBRARIES)


def _instant(record: logging.LogRecord) -> str:
    return to_iso(int(record.created * 1_000_000))


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    """Return what `extra` carried, safe to print."""
    return {name: _safe(name, value) for name, value in record.__dict__.items() if name not in _STANDARD}


def _safe(name: str, value: object) -> Any:
    if _SECRET_FIELD.search(name):
        return _MASK
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, list | tuple | set | frozenset):
        return [_safe(name, one) for one in value]
    if isinstance(value, dict):
        return {str(key): _safe(str(key), one) for key, one in value.items()}
    return masked(str(value))


def _plain(value: object) -> str:
    """Return a value as it stands behind `key=`: quoted where it would not be one word."""
    if isinstance(value, str) and value and not re.search(r"[\s\"=]", value):
        return value
    return json.dumps(value, ensure_ascii=False)
