"""The topology as RabbitMQ's own definitions document, which `rabbitmqctl import_definitions` takes. Pure."""

import base64
import hashlib
import secrets
from collections.abc import Iterable, Mapping
from typing import Any

from common.transports.rabbitmq.settings import RabbitSettings
from common.transports.rabbitmq.topology import EXCHANGES, Permissions, permissions, queues

Document = dict[str, list[dict[str, Any]]]

_SALT_BYTES = 4


def definitions(nodes: Iterable[RabbitSettings], vhost: str, passwords: Mapping[str, str]) -> Document:
    """Return exchanges, and each node's queues, bindings and rights; users only for nodes with a password.

    `nodes`: one for each node, alike but for `node_id` and `listen`."""
    every = list(nodes)
    specs = [spec for settings in every for spec in queues(settings)]
    ids = [settings.node_id for settings in every]
    rights = {settings.node_id: permissions(settings.node_id, settings.channel) for settings in every}
    return {
        "users": [_user(node_id, passwords[node_id]) for node_id in ids if node_id in passwords],
        "vhosts": [{"name": vhost}],
        "permissions": [_permission(vhost, node_id, rights[node_id]) for node_id in ids],
        "topic_permissions": [one for node_id in ids for one in _topic_permissions(vhost, node_id, rights[node_id])],
        "exchanges": [_exchange(vhost, name) for name in EXCHANGES],
        "queues": [
            {
                "name": spec.name,
                "vhost": vhost,
                "durable": True,
                "auto_delete": False,
                "arguments": dict(spec.arguments),
            }
            for spec in specs
        ],
        "bindings": [
            {
                "source": binding.exchange,
                "vhost": vhost,
                "destination": spec.name,
                "destination_type": "queue",
                "routing_key": binding.routing_key,
                "arguments": {},
            }
            for spec in specs
            for binding in spec.bindings
        ],
    }


def password_hash(password: str, salt: bytes | None = None) -> str:
    """Return a password as the broker keeps it (`rabbit_password_hashing_sha256`)."""
    salted = secrets.token_bytes(_SALT_BYTES) if salt is None else salt
    return base64.b64encode(salted + hashlib.sha256(salted + password.encode()).digest()).decode("ascii")


def _user(name: str, password: str) -> dict[str, Any]:
    return {
        "name": name,
        "password_hash": password_hash(password),
        "hashing_algorithm": "rabbit_password_hashing_sha256",
        "tags": [],
    }


def _permission(vhost: str, node_id: str, rights: Permissions) -> dict[str, Any]:
    return {
        "user": node_id,
        "vhost": vhost,
        "configure": rights.configure,
        "write": rights.write,
        "read": rights.read,
    }


def _topic_permissions(vhost: str, node_id: str, rights: Permissions) -> list[dict[str, Any]]:
    return [
        {"user": node_id, "vhost": vhost, "exchange": exchange, "write": write, "read": read}
        for exchange, write, read in rights.topics
    ]


def _exchange(vhost: str, name: str) -> dict[str, Any]:
    return {
        "name": name,
        "vhost": vhost,
        "type": "topic",
        "durable": True,
        "auto_delete": False,
        "internal": False,
        "arguments": {},
    }
