"""Who sent a message, as far as the broker proves it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pika
import pytest

from common.ports.source import Delivery
from common.transports.rabbitmq.messages import IDENTITY_ERROR, delivery, retry_properties
from common.transports.rabbitmq.settings import RabbitSettings

SETTINGS = RabbitSettings(url="amqp://", node_id="store-2", verify_user=True)


def receive(
    source: str | None = "store-1",
    user: str | None = "store-1",
    key: str = "default.store-1",
    *,
    exchange: str = "rowferry.changes",
    redelivered: bool = False,
    settings: RabbitSettings = SETTINGS,
    **headers: Any,
) -> Delivery:
    method = SimpleNamespace(routing_key=key, exchange=exchange, redelivered=redelivered)
    sent = headers if source is None else {"source_node": source, **headers}
    properties = pika.BasicProperties(user_id=user, headers=sent, message_id="tx-1")
    return delivery(method, properties, b"x", token=None, settings=settings, user="store-2")


@pytest.mark.parametrize("key", ["default.store-1", "default.ctl.store-2"])
def test_user_header_and_key_that_agree_are_proof(key: str) -> None:
    got = receive(key=key)
    assert got.verified
    assert IDENTITY_ERROR not in got.headers


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"source": None}, "no source_node"),
        ({"user": None}, "no user_id"),
        ({"user": "store-3"}, "user_id is 'store-3'"),
        ({"key": "default.store-3"}, "routing key is 'default.store-3'"),
        ({"key": "default.ctl.store-3"}, "routing key"),
        ({"key": "default.ctl.store-2", "user": "store-3"}, "user_id"),
    ],
)
def test_anything_else_is_flagged_with_what_is_wrong(changes: dict[str, Any], said: str) -> None:
    got = receive(**changes)
    assert not got.verified
    assert said in str(got.headers[IDENTITY_ERROR])


def test_without_verify_user_nothing_is_proof_and_nothing_is_flagged() -> None:
    got = receive(user=None, settings=RabbitSettings(url="amqp://", node_id="store-2"))
    assert not got.verified
    assert IDENTITY_ERROR not in got.headers


def test_the_encoding_s_name_has_no_case() -> None:
    method = SimpleNamespace(routing_key="default.a", exchange="rowferry.changes", redelivered=False)
    properties = pika.BasicProperties(content_encoding="GZIP")
    got = delivery(method, properties, b"x", token=None, settings=SETTINGS, user="store-2")
    assert got.content_encoding == "gzip"


def _retried(verified: bool = True, **changes: Any) -> Delivery:
    """A message as it comes out of the retry queue."""
    first = receive(user="store-1" if verified else None)
    properties = retry_properties(first, user_id="store-2", encoding=None, delay_seconds=1)
    fields: dict[str, Any] = {"user": "store-2", "key": "rowferry.node.store-2", "exchange": "", **properties.headers}
    return receive(**{**fields, "source": fields.pop("source_node"), **changes})


def test_a_retry_is_as_proven_as_its_message_was() -> None:
    assert _retried().verified
    assert _retried().attempts == 1
    assert "not proven" in str(_retried(verified=False).headers[IDENTITY_ERROR])


@pytest.mark.parametrize("changes", [{"user": "store-3"}, {"user": None}, {"exchange": "rowferry.changes"}])
def test_a_forged_retry_proves_nothing(changes: dict[str, Any]) -> None:
    got = _retried(**changes)
    assert not got.verified
    assert got.attempts == 0
    assert not [name for name in got.headers if name.startswith("rowferry_retry")]


def test_attempts_count_what_the_broker_says_and_not_the_sender() -> None:
    sent = {"x-delivery-count": 7}
    assert receive(**sent).attempts == 0
    assert receive(**sent, redelivered=True).attempts == 7
    assert receive(redelivered=True).attempts == 1
