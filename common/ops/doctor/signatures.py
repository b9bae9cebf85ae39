"""Who signs what: this node, the nodes that it knows, and what a stranger could say in their name."""

from collections.abc import Iterable, Iterator, Sequence

from common.config.model import Config
from common.http.scopes import Scope
from common.ops.tokens import Token
from common.ports.health import Finding, Level

_AREA = "signatures"


def signature_findings(config: Config, peers: Sequence[str]) -> Iterator[Finding]:
    """Compare the keys that are configured with the nodes that are known. Nothing where nobody uses signatures."""
    signer = config.signer()
    if signer is not None:
        yield Finding(_AREA, Level.OK, f"this node signs with key {signer.key_id}")
    elif config.signers or config.node.require_signed:
        text = "this node checks others' signatures, and signs nothing itself"
        yield Finding(_AREA, Level.NOTE, text, "run rowferry key create, then set node.signing_key_file")
    keyed = {name.lower() for name in config.signers}
    strangers = [peer for peer in peers if peer.lower() not in keyed]
    if config.node.require_signed:
        for peer in strangers:
            text = f"{peer} has no key here: everything it sends becomes dead letters (unknown-key, unsigned)"
            yield Finding(_AREA, Level.WARN, text, f"run rowferry key show there, add it to [signers] as {peer} here")
        if peers and not strangers:
            yield Finding(_AREA, Level.OK, "every known node has a key here, and must sign")
    elif config.signers and strangers:
        text = f"not authenticated by a signature: {', '.join(strangers)}"
        yield Finding(_AREA, Level.NOTE, text, "add their keys to [signers], then set node.require_signed = true")
    elif signer is not None and strangers:
        text = "no other node's key is known here: their signatures are not checked"
        yield Finding(_AREA, Level.NOTE, text, "run rowferry key show there, add it to [signers] here")


def token_findings(config: Config, tokens: Iterable[Token], now_us: int) -> Iterator[Finding]:
    """Name the tokens by which somebody can speak for others over HTTP. Nothing where everybody must sign."""
    whom = for_whom(config)
    if whom is None:
        return
    for token in tokens:
        if Scope.FORWARD in token.scopes and token.works_at(now_us):
            held = f"token {token.id} (of {token.node_id}, scope forward)"
            text = f"unauthenticated: whoever has {held} can speak for {whom}"
            remedy = f"use signatures, then set node.require_signed = true; or run rowferry token revoke {token.id}"
            yield Finding("tokens", Level.WARN, text, remedy)


def for_whom(config: Config) -> str | None:
    """Return for whom somebody can speak who has access to a way; None: for nobody, since all must sign."""
    if config.node.require_signed:
        return None
    return "any node except those in [signers]" if config.signers else "any node"
