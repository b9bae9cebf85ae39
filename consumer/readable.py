"""Stored JSON for people and programs: keys, versions, images."""

from typing import Any

import msgspec


def readable(text: str | None) -> Any:
    """Return a key or an image as JSON; what can't be read, which may be why it was set aside, as its text."""
    if text is None:
        return None
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return text
