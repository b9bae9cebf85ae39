"""Texts and names as TOML has them, for what is written into a configuration or said to be."""

import re

_ESCAPES = {'"': '\\"', "\\": "\\\\"}
_BARE = re.compile(r"[A-Za-z0-9_-]+")


def toml_text(value: str) -> str:
    """Return `value` as a TOML basic string."""
    escaped = "".join(
        _ESCAPES.get(char) or (char if ord(char) >= 32 and ord(char) != 127 else f"\\u{ord(char):04x}")
        for char in value
    )
    return f'"{escaped}"'


def toml_key(name: str) -> str:
    """Return `name` as a TOML key: quoted unless it can stand by itself."""
    return name if _BARE.fullmatch(name) else toml_text(name)
