"""What is wrong in a configuration, in sentences: where it was given, setting, value, and what would be right."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from common.config.model import NO_PATH
from common.config.secrets import SECRETS, Setting
from common.config.variables import told_of

_SECRET = re.compile(r"ed25519-private|\brf_[0-9a-zA-Z]+_|://\S*@|PRIVATE KEY")
"""What a signing key, a token, a URL with a password and the key of a certificate look like."""

_REMEDIES = {
    "extra_forbidden": "there is no such setting; remove it or correct its name",
    "missing": "it is required, and missing",
    "tuple_type": 'must be a list, like ["one", "other"]',
    "string_pattern_mismatch": "use 1 to 64 letters, digits, '-' or '_'",
    "model_type": "must be a section with settings",
    "dict_type": "must be a section with settings",
    "string_type": "must be text, in quotes",
    "path_type": NO_PATH,
    "string_too_short": "must not be empty",
    "too_short": "must not be empty; to go without one, leave the setting out",
    **dict.fromkeys(("bool_type", "bool_parsing"), "must be true or false"),
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "must be a whole number"),
    **dict.fromkeys(("float_type", "float_parsing", "finite_number"), "must be a number"),
}


@dataclass(frozen=True, slots=True)
class Origins:
    """Where settings were given: in the file, but for those that variables gave."""

    file: Path
    variables: Mapping[Setting, str]
    """By setting, or by a section that stands there for a variable's sake alone."""

    def where(self, setting: Setting) -> str:
        """Return how a sentence about `setting` begins: the file or the variable to look at, and the setting."""
        return f"{self._source(setting)}: {'.'.join(setting) or 'the file'}"

    def _source(self, setting: Setting) -> str:
        for length in range(len(setting), 0, -1):
            at = setting[:length]
            name = self.variables.get(at)
            if name is None and at in SECRETS:
                name = self.variables.get((*at[:-1], f"{at[-1]}_file"))
            if name is not None:
                return f"variable {name}"
        return str(self.file)


def explain(error: ValidationError, origins: Origins) -> str:
    """Return a line for each fault. Secrets are not repeated."""
    return "\n".join(_line(one, origins) for one in error.errors(include_url=False))


def _line(error: ErrorDetails, origins: Origins) -> str:
    setting = tuple(str(step) for step in error["loc"])
    # Where the name is wrong the value may be anything, also a secret.
    is_told = setting and error["type"] not in ("missing", "extra_forbidden")
    given = f" (given: {_masked(setting[-1], error['input'])})" if is_told else ""
    line = f"{origins.where(setting)}: {_remedy(error)}{given}"
    return line + told_of(line, origins.variables)


def _remedy(error: ErrorDetails) -> str:
    """Return what is wrong and what would be right, in words that need no Python."""
    if error["type"] == "literal_error":
        return f"must be {error['ctx']['expected']}"
    return _REMEDIES.get(error["type"]) or error["msg"].removeprefix("Value error, ")


def _masked(key: str, value: object) -> str:
    """A whole section may hold a secret as well, and a secret may stand in the wrong place."""
    secret = isinstance(value, dict) or key.endswith(("url", "database", "password", "key"))
    secret = secret or _SECRET.search(str(value)) is not None
    return "…" if secret else repr(value)
