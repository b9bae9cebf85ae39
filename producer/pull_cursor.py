"""The mark in answers to a pull: up to where a peer has this node's own logs, and what is handed on."""

import base64
import binascii
from dataclasses import dataclass

import msgspec

_PREFIX = "r1."
_LONGEST = 1_000


class BadCursorError(ValueError):
    """What a client gave is no mark of this kind."""


class _Fields(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    incarnation: str
    lsn: int
    era: str
    seq: int


@dataclass(frozen=True, slots=True)
class PullCursor:
    """One place in everything that a node may give."""

    incarnation: str = ""
    """Whose LSN it is: all before it in the row of incarnations is done. Empty: the beginning."""
    lsn: int = 0
    era: str = ""
    """The incarnation in which `seq` was given."""
    seq: int = 0

    def __str__(self) -> str:
        packed = msgspec.json.encode([self.incarnation, self.lsn, self.era, self.seq])
        return _PREFIX + base64.urlsafe_b64encode(packed).decode().rstrip("=")

    @classmethod
    def parse(cls, text: str) -> "PullCursor":
        """Read what `str` wrote; empty and 0 are the beginning. Raises BadCursorError."""
        if text in ("", "0"):
            return cls()
        if not text.startswith(_PREFIX) or len(text) > _LONGEST or not text.isascii():
            raise BadCursorError("the mark is none that this node gave")
        packed = text.removeprefix(_PREFIX)
        try:
            raw = base64.urlsafe_b64decode(packed + "=" * (-len(packed) % 4))
            fields = msgspec.json.decode(raw, type=_Fields)
        except (binascii.Error, ValueError, msgspec.DecodeError) as error:
            raise BadCursorError("the mark is none that this node gave") from error
        if fields.lsn < 0 or fields.seq < 0 or max(fields.lsn, fields.seq) >= 2**63:
            raise BadCursorError("the mark is none that this node gave")
        return cls(fields.incarnation, fields.lsn, fields.era, fields.seq)
