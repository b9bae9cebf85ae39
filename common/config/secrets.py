"""Which texts are secrets, and who else may read the file that holds one. Never tells what it found."""

import os
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from common.errors import ConfigError

Setting = tuple[str, ...]
"""Where a setting stands: section, names inside it, key."""
SECRETS: tuple[Setting, ...] = (("node", "database"), ("node", "signing_key"), ("broker", "url"))
"""The settings that may stand in a file of their own instead, named by `KEY_file`."""
IS_POSIX = os.name == "posix"

_ALWAYS = frozenset({("node", "signing_key")})
# A user, a colon, a password up to the @, also one with an unescaped / in it; one URL of several in a text.
_IN_ADDRESS = re.compile(r"://[^/@:]*:(?:(?!://)[^@])+@")
# The one scheme of kombu's whose key stands without a user; the two names are no keys.
_KEY_ALONE = re.compile(r"azurestoragequeues://(?!DefaultAzureCredential@|ManagedIdentityCredential@)[^@]+@")
_NAMED_SO = re.compile(r"passw|passphrase|pwd|secret|token|(?:access|account|api)_?key", re.IGNORECASE)
# As in `ssl_options={'password': …}`.
_INSIDE_VALUE = re.compile(r"passw(?:or)?d['\"]?\s*[:=]", re.IGNORECASE)
_KEY_OR_TOKEN = re.compile(r"ed25519-private:|PRIVATE KEY-----|\brf_[a-z2-7]{12}_[A-Za-z0-9_-]{43}")


def holds_secret(text: str) -> bool:
    """Tell whether a URL has a password, as user or in its query, or `text` a private key or a token. Pure."""
    if _IN_ADDRESS.search(text) or _KEY_ALONE.search(text) or _KEY_OR_TOKEN.search(text):
        return True
    query = parse_qsl(text.partition("?")[2]) if "://" in text else []
    return any(_NAMED_SO.search(name) or _INSIDE_VALUE.search(value) for name, value in query)


def can_others_read(mode: int) -> bool:
    """Tell whether a file of this mode is open to group or others; on Windows its mode doesn't say."""
    return IS_POSIX and bool(mode & (stat.S_IRWXG | stat.S_IRWXO))


def refuse_readable_by_others(file: Path, where: str) -> None:
    """See that a secret file is its owner's alone. Raises ConfigError that begins with `where`."""
    if file.is_dir():
        raise ConfigError(f"{where}: {file} is a folder; name the file in it")
    if can_others_read(file.stat().st_mode):
        raise ConfigError(f"{where}: {file} can be read by others; chmod 600 it")


def secrets_in_sight(mode: int, tree: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the settings of a configuration that hold a secret which others can read, each with the remedy.

    `mode`: of the file that `tree` was read from."""
    if not can_others_read(mode):
        return []
    return [(".".join(setting), _remedy(setting)) for setting in _secrets_in(tree)]


def _remedy(setting: Setting) -> str:
    if setting not in SECRETS:
        return "chmod 600 the file"
    name = ".".join(setting)
    return (
        f"chmod 600 the file, or keep it in a private one ({name}_file) or in the variable ROWFERRY_{_upper(setting)}"
    )


def _upper(setting: Setting) -> str:
    return "_".join(setting).upper()


def _secrets_in(value: Any, at: Setting = ()) -> Iterator[Setting]:
    """Yield where secrets stand; of a list, its own place."""
    match value:
        case str():
            if value and (at in _ALWAYS or holds_secret(value)):
                yield at
        case dict():
            for name, inner in value.items():
                yield from _secrets_in(inner, (*at, name))
        case list():
            if any(True for inner in value for _ in _secrets_in(inner, at)):
                yield at
