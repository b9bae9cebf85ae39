"""`rowferry token`: make, list and take back what nodes and people show over HTTP."""

import re
from typing import Any

import click

from common.console import Console
from common.errors import UsageError
from common.http.scopes import Scope, scope_text
from common.ops.tokens import Token, Tokens
from common.runtime.host import current_host

_DEFAULT = (Scope.PUSH, Scope.PULL)
_SPAN = re.compile(r"(\d+)([smhd])\Z")
_LONGEST_DAYS = 36_500
_UNITS_US = {"s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000, "d": 86_400_000_000}


@click.group("token", short_help="Tokens for HTTP, each bound to a node and scopes.")
def token() -> None:
    """Tokens for HTTP, each bound to a node and to scopes: create, list, revoke."""


@token.command()
@click.option("--node", "node_id", required=True, metavar="ID", help="The node or person that the token is for.")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    metavar="A,B",
    help="Any of push, pull, forward, ops; repeatable. [default: push,pull]",
)
@click.option("--expires", metavar="AGE", help="How long it is valid, such as 12h or 90d. Default: until revoked.")
def create(node_id: str, scopes: tuple[str, ...], expires: str | None) -> None:
    """Create a token and show it. It is shown only once, because only its hash is stored. It is printed alone on
    stdout, so that (umask 077; rowferry token create --node ID > FILE) makes a token_file.

    To renew a token, create another for the same node, put it in place, and revoke the first."""
    host = current_host()
    chosen, lives_us = _scopes(scopes), None if expires is None else _span_us(expires)
    with host.node() as node:
        text, made = Tokens(node.database, node.clock).create(node_id, chosen, host.actor, lives_us)
    document = {"token": text, "id": made.id, "node_id": made.node_id, "scopes": scope_text(made.scopes).split(",")}
    host.emit(document, lambda console: _tell_made(console, text, made))


@token.command("list", short_help="List all tokens; their secrets are never shown.")
def list_() -> None:
    """List all tokens, including revoked and expired ones; their secrets can't be read."""
    host = current_host()
    with host.node() as node:
        now_us = node.clock.now_us()
        documents = [one.document(now_us) for one in Tokens(node.database, node.clock).all()]
    host.emit(documents, lambda console: _tell_all(console, documents))


@token.command()
@click.argument("token_id", metavar="ID")
def revoke(token_id: str) -> None:
    """Revoke a token: it is refused from the next request on."""
    host = current_host()
    with host.node() as node:
        revoked = Tokens(node.database, node.clock).revoke(token_id, host.actor)
        document = revoked.document(node.clock.now_us())
    host.emit(document, lambda console: console.say(f"Token {revoked.id} of {revoked.node_id} is revoked."))


def _scopes(given: tuple[str, ...]) -> frozenset[Scope]:
    names = [name.strip() for one in given for name in one.split(",") if name.strip()]
    unknown = [name for name in names if name not in set(Scope)]
    if unknown:
        raise UsageError(f"--scope {unknown[0]!r}: scopes are {', '.join(scope.value for scope in Scope)}")
    return frozenset(Scope(name) for name in names) or frozenset(_DEFAULT)


def _span_us(text: str) -> int:
    found = _SPAN.match(text)
    if found is None:
        raise UsageError(f"--expires {text!r}: write a number and s, m, h or d, like 90d")
    # Longer numbers are no numbers that Python reads.
    lives_us = int(found.group(1)[:20]) * _UNITS_US[found.group(2)]
    if lives_us > _LONGEST_DAYS * _UNITS_US["d"]:
        raise UsageError(
            f"--expires {text[:20]}: at most {_LONGEST_DAYS}d; without it a token works until it is revoked"
        )
    if lives_us == 0:
        raise UsageError(f"--expires {text[:20]}: such a token would never work; give at least 1s")
    return lives_us


def _tell_made(console: Console, text: str, made: Token) -> None:
    # Alone on stdout, so that what is redirected is the file that token_file names.
    console.say(text)
    use = (
        "keep it in a file that only its node can read, and name that as token_file in the node's [peers.NAME]."
        if made.scopes - {Scope.OPS}
        else "keep it like a password; with it one signs in to the page of `rowferry serve`, and programs send it as "
        "Authorization: Bearer."
    )
    console.warn(f"Token {made.id} for {made.node_id} ({scope_text(made.scopes)}). It is not shown again:")
    console.warn(use)


def _tell_all(console: Console, documents: list[dict[str, Any]]) -> None:
    if not documents:
        console.say("no tokens; `rowferry token create --node ID` makes one")
        return
    names = ("id", "node_id", "scopes", "state", "created_at", "expires_at", "last_used_at")
    rows = [[",".join(one[name]) if name == "scopes" else one[name] or "" for name in names] for one in documents]
    console.table("", names, rows)
