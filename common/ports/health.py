"""What `doctor` finds: one line a thing, and how to mend it."""

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"
    NOTE = "note"
    """As it is meant to be, and worth knowing."""
    WARN = "warn"
    """It works, and something is at risk."""
    FAIL = "fail"
    """The node does not work, or loses what it promises."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    area: str
    """configuration, database, schema, tables, broker, directory, peers, server, signatures, tokens, standing"""
    level: Level
    message: str
    remedy: str | None = None
    unreachable: bool = False
    """A database or broker does not answer: `doctor` ends with exit code 5."""
