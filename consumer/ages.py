"""Ages as options give them: 90s, 30m, 2h, 7d."""

import re

from common.errors import UsageError

_AGE = re.compile(r"(\d+(?:\.\d+)?)([smhd]?)\Z")
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3_600, "d": 86_400}


def age_us(option: str, text: str | None) -> int | None:
    """Return an age in microseconds; None where the option was not given. Raises UsageError."""
    if text is None:
        return None
    found = _AGE.match(text)
    if found is None:
        raise UsageError(f"{option} {text!r}: give a number and s, m, h or d, like 30m")
    return int(float(found[1]) * _SECONDS[found[2]] * 1_000_000)
