"""Compares what stands on the broker with what should, through the management API: also bindings, policies, rights."""

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from common.transports.rabbitmq.connection import remedy_for, vhost_of
from common.transports.rabbitmq.findings import NOT_THERE, Finding, State
from common.transports.rabbitmq.management import Management, RefusedError
from common.transports.rabbitmq.settings import RabbitSettings
from common.transports.rabbitmq.topology import (
    EXCHANGES,
    Binding,
    Permissions,
    QueueSpec,
    binding_name,
    permissions,
    queues,
)

_LOSING = {"delivery-limit", "expires", "max-length", "max-length-bytes", "message-ttl"}
"""What a policy can set that makes a queue drop messages."""
_EXCHANGE = {"type": "topic", "durable": True, "auto_delete": False, "internal": False}


def compare(management: Management, settings: RabbitSettings, user: str | None) -> list[Finding]:
    """Return how each thing of one node stands. `user`: whose rights matter. Raises OutageError."""
    vhost = vhost_of(settings)
    found = [_exchange(management, vhost, name) for name in EXCHANGES]
    for spec in queues(settings):
        found += _queue(management, vhost, spec)
    return found + (_rights(management, vhost, permissions(settings.node_id, settings.channel), user) if user else [])


def _exchange(management: Management, vhost: str, name: str) -> Finding:
    stands = management.get("exchanges", vhost, name)
    if stands is None:
        return Finding("exchange", name, State.MISSING, "it doesn't exist", NOT_THERE)
    return _judged("exchange", name, vhost, _EXCHANGE, {key: stands.get(key) for key in _EXCHANGE})


def _queue(management: Management, vhost: str, spec: QueueSpec) -> Iterator[Finding]:
    stands = management.get("queues", vhost, spec.name)
    if stands is None:
        yield Finding("queue", spec.name, State.MISSING, "it doesn't exist", NOT_THERE)
    else:
        known = {"durable": True, "auto_delete": False}
        is_so = {key: stands.get(key) for key in known}
        yield _judged("queue", spec.name, vhost, known | dict(spec.arguments), is_so | stands["arguments"])
        yield from _policy(spec, stands)
    yield from _bindings(spec, management.get("queues", vhost, spec.name, "bindings") or [])


def _judged(kind: str, name: str, vhost: str, wanted: Mapping[str, Any], found: Mapping[str, Any]) -> Finding:
    wrong = sorted(key for key in wanted.keys() | found.keys() if wanted.get(key) != found.get(key))
    if not wrong:
        return Finding(kind, name, State.OK)
    detail = "; ".join(f"{key} is {_value(found, key)}, should be {_value(wanted, key)}" for key in wrong)
    setting = wrong[0] if len(wrong) == 1 and wrong[0] in found else None
    return Finding(kind, name, State.DIFFERS, detail, remedy_for(kind, name, vhost, setting))


def _value(values: Mapping[str, Any], key: str) -> str:
    return repr(values[key]) if key in values else "not set"


def _policy(spec: QueueSpec, stands: Mapping[str, Any]) -> Iterator[Finding]:
    """A user's policy yields to the queue's arguments; an operator's does not."""
    name, operator = stands.get("policy"), stands.get("operator_policy")
    set_here = {argument.removeprefix("x-") for argument in spec.arguments}
    losing = _LOSING & (stands.get("effective_policy_definition") or {}).keys()
    wrong = sorted(losing if operator else losing - set_here)
    if wrong:
        policies = ", ".join(repr(one) for one in (name, operator) if one)
        yield Finding(
            "policy",
            spec.name,
            State.DIFFERS,
            f"{policies} sets {', '.join(wrong)}, so messages may be dropped",
            "narrow the policy's pattern so that it leaves out rowferry's queues",
        )


def _bindings(spec: QueueSpec, stand: list[Mapping[str, Any]]) -> Iterator[Finding]:
    # Each queue is bound to the default exchange by the broker itself.
    found = {Binding(one["source"], one["routing_key"]) for one in stand if one["source"]}
    for binding in spec.bindings:
        name = binding_name(spec.name, binding)
        if binding in found:
            yield Finding("binding", name, State.OK)
        else:
            yield Finding("binding", name, State.MISSING, "nothing arrives this way", NOT_THERE)
    for binding in sorted(found - set(spec.bindings), key=lambda one: (one.exchange, one.routing_key)):
        yield Finding(
            "binding",
            binding_name(spec.name, binding),
            State.EXTRA,
            "this node doesn't ask for it",
            "remove it on the queue's management page",
        )


def _rights(management: Management, vhost: str, wanted: Permissions, user: str) -> list[Finding]:
    try:
        return [*_user(management, user), *_permissions(management, vhost, wanted, user)]
    except RefusedError as error:
        return [Finding("permissions", user, State.UNCHECKED, str(error), "use an administrator's account")]


def _user(management: Management, user: str) -> Iterator[Finding]:
    stands = management.get("users", user)
    if stands is None:
        yield Finding("user", user, State.MISSING, "there is no such user", "import `rowferry topology export`")
        return
    # RabbitMQ 3.10 gives a text, 4 a list.
    tags = stands["tags"].split(",") if isinstance(stands["tags"], str) else stands["tags"]
    named = ", ".join(tag for tag in tags if tag)
    if named:
        remedy = f"rabbitmqctl set_user_tags {shlex.quote(user)}; use another account for the management page"
        yield Finding("user", user, State.DIFFERS, f"it has the tags {named}", remedy)
    else:
        yield Finding("user", user, State.OK)


def _permissions(management: Management, vhost: str, wanted: Permissions, user: str) -> Iterator[Finding]:
    yield _permission(wanted, management.get("permissions", vhost, user), vhost, user)
    stand = {one["exchange"]: one for one in management.get("topic-permissions", vhost, user) or []}
    for exchange, write, read in wanted.topics:
        name = f"{user} on {exchange}"
        remedy = _command("set_topic_permissions", vhost, user, exchange, write, read)
        found = stand.get(exchange)
        if found is None:
            yield Finding("topic-permissions", name, State.MISSING, "any routing key is allowed", remedy)
        else:
            yield _right("topic-permissions", name, {"write": write, "read": read}, found, remedy)


def _permission(wanted: Permissions, found: Mapping[str, Any] | None, vhost: str, user: str) -> Finding:
    remedy = _command("set_permissions", vhost, user, wanted.configure, wanted.write, wanted.read)
    if found is None:
        return Finding("permissions", user, State.MISSING, "the user may not enter this vhost", remedy)
    rights = {"configure": wanted.configure, "write": wanted.write, "read": wanted.read}
    return _right("permissions", user, rights, found, remedy)


def _right(kind: str, name: str, wanted: Mapping[str, str], found: Mapping[str, Any], remedy: str) -> Finding:
    wrong = [f"{key} is {found[key]!r}, should be {value!r}" for key, value in wanted.items() if found[key] != value]
    return Finding(kind, name, State.DIFFERS, "; ".join(wrong), remedy) if wrong else Finding(kind, name, State.OK)


def _command(command: str, vhost: str, *arguments: str) -> str:
    return f"rabbitmqctl {command} -p {' '.join(shlex.quote(one) for one in (vhost, *arguments))}"
