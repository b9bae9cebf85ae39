"""Log lines: one JSON object each for machines, one readable line each for people, never a password."""

from __future__ import annotations

import io
import json
import logging

import pytest

from common.logs import LogFormat, logging_to, masked

log = logging.getLogger("common.test")
URL = "amqp://shop:s3cret@host:5672/"


def written(style: LogFormat, event: str, level: int = logging.INFO, **fields: object) -> str:
    stream = io.StringIO()
    with logging_to(stream, logging.DEBUG, style):
        log.log(level, event, extra=fields)
    return stream.getvalue()


def test_a_json_line_holds_the_event_and_its_fields() -> None:
    line = json.loads(written(LogFormat.JSON, "tx.applied", tx_id="0192", source_node="store-1", lsn=7, tags=["a"]))
    assert line.pop("at").endswith("Z")
    assert line == {
        "level": "info",
        "event": "tx.applied",
        "logger": "common.test",
        "tx_id": "0192",
        "source_node": "store-1",
        "lsn": 7,
        "tags": ["a"],
    }


def test_a_text_line_is_one_line() -> None:
    line = written(LogFormat.TEXT, "tx.applied", lsn=7, note="two\nlines", empty="", word="plain")
    assert line.count("\n") == 1
    assert line.rstrip().endswith(r'INFO    tx.applied lsn=7 note="two\nlines" empty="" word=plain')


@pytest.mark.parametrize("style", list(LogFormat))
@pytest.mark.parametrize(
    "fields",
    [
        {"url": URL},
        {"error": f"{URL} is away"},
        {"nested": {"urls": [URL]}},
        {"password": "s3cret"},
        {"broker_password": "s3cret"},
        {"token": "s3cret"},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_secrets_are_masked(style: LogFormat, fields: dict[str, object]) -> None:
    assert "s3cret" not in written(style, "broker.away", **fields)


@pytest.mark.parametrize("style", list(LogFormat))
def test_secrets_in_events_and_tracebacks_are_masked(style: LogFormat) -> None:
    stream = io.StringIO()
    with logging_to(stream, logging.DEBUG, style):
        try:
            raise ValueError(URL)
        except ValueError:
            log.error(f"can't reach {URL}", exc_info=True)
    assert "s3cret" not in stream.getvalue()
    assert "ValueError" in stream.getvalue()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("postgresql+psycopg://u:p@h/d", "postgresql+psycopg://u:***@h/d"),
        ("amqp://:p@h", "amqp://:***@h"),
        ("amqp://u@h/", "amqp://u@h/"),
        ("sqlite:///a:b@c.db", "sqlite:///a:b@c.db"),
        ("at 12:30 me@host", "at 12:30 me@host"),
        ("a amqp://u:p@h and amqp://v:q@h", "a amqp://u:***@h and amqp://v:***@h"),
    ],
)
def test_only_passwords_are_masked(text: str, expected: str) -> None:
    assert masked(text) == expected


def test_libraries_speak_only_of_trouble() -> None:
    stream = io.StringIO()
    with logging_to(stream, logging.DEBUG, LogFormat.TEXT):
        logging.getLogger("kombu.connection").info("connected")
        logging.getLogger("kombu.connection").warning("gone")
        logging.getLogger("pika.adapters").error("refused, for the fifth time")
        logging.getLogger("psycopg").warning("error ignored terminating a pipeline")
        logging.getLogger("sqlalchemy.pool.impl.QueuePool").error("Exception during reset or similar")
    assert "connected" not in stream.getvalue()
    assert "gone" in stream.getvalue()
    assert "refused" not in stream.getvalue(), "what pika fails at comes up as an exception and is told once"
    assert "pipeline" not in stream.getvalue(), "so does what ends a pipeline of psycopg"
    assert "during reset" not in stream.getvalue(), "and a connection that is lost"
