"""What a token may be good for."""

from enum import StrEnum


class Scope(StrEnum):
    """One right. A token has at least one."""

    PUSH = "push"
    """Send the batches of its own node."""
    PULL = "pull"
    """Take batches."""
    FORWARD = "forward"
    """Send batches of other nodes too."""
    OPS = "ops"
    """Look at everything, replay, resolve: for people and their tools."""


def scope_text(scopes: frozenset[Scope]) -> str:
    """Return scopes as `rf_token` keeps them."""
    return ",".join(scope.value for scope in Scope if scope in scopes)


def read_scopes(text: str) -> frozenset[Scope]:
    """Return what `scope_text` wrote; what this release does not know gives no right."""
    return frozenset(scope for scope in Scope if scope.value in text.split(","))
