"""Who a batch is from, shown by its bytes: Ed25519 over the sum of what is said.

A signature stands in the last line of a batch, beside the sum that it is over. It is the same whenever the same key
signs the same bytes, so a signed batch is the same on every way out too. Pure; without a key nothing is computed.
"""

import base64
import binascii
import hashlib
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from common.errors import PoisonError, Reason

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

PRIVATE = "ed25519-private:"
"""What the text of a private key begins with: nobody takes it for the other one."""
PUBLIC = "ed25519:"
_KEY_BYTES = 32
_SIGNATURE_BYTES = 64


class Purpose(StrEnum):
    """What a signature is good for: one for a batch says nothing under a heartbeat."""

    BATCH = "batch"
    SAYING = "saying"
    ACKS = "acks"
    SNAPSHOT = "snapshot"
    DIGESTS = "digests"


class Proof(NamedTuple):
    """What bytes carry to show who made them."""

    key: str | None = None
    """The id of the key that signed."""
    signature: str | None = None
    """Base64."""


NO_PROOF = Proof()


class BadKeyError(ValueError):
    """A text that is no key; the message says what would be one."""


class Signer:
    """A node's private key. Any thread."""

    def __init__(self, text: str) -> None:
        """Raises BadKeyError where `text` is no private key."""
        # Not at the top: it takes a part of a second to import, and most nodes have no key.
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        self._key: Ed25519PrivateKey = Ed25519PrivateKey.from_private_bytes(_raw(text, PRIVATE))
        self.public = PUBLIC + _base64(self._key.public_key().public_bytes_raw())
        """The text that others are given."""
        self.key_id = key_id(self.public)

    def sign(self, purpose: Purpose, sha256: str) -> str:
        """Return the signature, in base64, over what has this sum (hex)."""
        return _base64(self._key.sign(_message(purpose, sha256)))

    def fields(self, purpose: Purpose, sha256: str) -> str:
        """Return the two keys of a JSON object that show who made what has this sum, with a comma before them."""
        return f',"key":"{self.key_id}","signature":"{self.sign(purpose, sha256)}"'


class Trust:
    """Which nodes' signatures are known, and whether everybody must sign. Any thread."""

    def __init__(self, keys: Mapping[str, Iterable[str]], *, required: bool) -> None:
        """`keys`: by node, its public keys; several while a key is being replaced."""
        self._keys = {
            node_id.lower(): {key_id(text): _Public(text) for text in texts} for node_id, texts in keys.items()
        }
        self._required = required

    def asks(self, node_id: str) -> bool:
        """Tell whether what `node_id` says must be signed."""
        return self._required or (bool(self._keys) and node_id.lower() in self._keys)

    def fault(self, node_id: str, purpose: Purpose, sha256: str, proof: Proof) -> PoisonError | None:
        """Return why what has this sum can't be taken for `node_id`'s; None where it is, or nobody has to show it."""
        if not self.asks(node_id):
            return None
        if proof.key is None or proof.signature is None:
            return PoisonError(Reason.UNSIGNED, f"says to be from {node_id!r}, and is not signed")
        known = self._keys.get(node_id.lower(), {}).get(proof.key)
        if known is None:
            return PoisonError(
                Reason.UNKNOWN_KEY, f"signed with {proof.key[:40]!r}, no key of {node_id!r} in [signers]"
            )
        if not known.made(_message(purpose, sha256), proof.signature):
            return PoisonError(
                Reason.BAD_SIGNATURE, f"says to be from {node_id!r}, whose key {proof.key} did not sign it"
            )
        return None

    def proves(self, node_id: str, purpose: Purpose, sha256: str, proof: Proof) -> bool:
        """Tell whether a known key of `node_id` signed what has this sum."""
        return node_id.lower() in self._keys and self.fault(node_id, purpose, sha256, proof) is None


ANYBODY = Trust({}, required=False)
"""Nobody's signature is asked for: to look, never to apply."""


class _Public:
    """One public key; made ready when it is first needed."""

    def __init__(self, text: str) -> None:
        self._raw = _raw(text, PUBLIC)
        self._key: Ed25519PublicKey | None = None

    def made(self, message: bytes, signature: str) -> bool:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        try:
            raw = _unbase64(signature, _SIGNATURE_BYTES)
            if self._key is None:
                self._key = Ed25519PublicKey.from_public_bytes(self._raw)
            self._key.verify(raw, message)
        except (BadKeyError, InvalidSignature):
            return False
        return True


def new_private_key() -> str:
    """Return the text of a new private key."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return PRIVATE + _base64(Ed25519PrivateKey.generate().private_bytes_raw())


def key_id(public: str) -> str:
    """Return the short name of a public key, 16 hex digits. Raises BadKeyError."""
    return hashlib.sha256(_raw(public, PUBLIC)).hexdigest()[:16]


def _message(purpose: Purpose, sha256: str) -> bytes:
    """What is signed: nothing else that a key ever signs begins like it."""
    return f"rowferry/1 {purpose.value} {sha256}".encode()


def _raw(text: str, begins: str) -> bytes:
    if not text.startswith(begins):
        raise BadKeyError(f'must begin with "{begins}": rowferry key create makes one')
    return _unbase64(text.removeprefix(begins), _KEY_BYTES)


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode("ascii")


def _unbase64(text: str, size: int) -> bytes:
    """Return the bytes; their one spelling alone is taken, so that altered text is never the same key or signature."""
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadKeyError(f"is no base64: {error}") from error
    if len(raw) != size or _base64(raw) != text:
        raise BadKeyError(f"holds {len(raw)} bytes, not {size}")
    return raw
