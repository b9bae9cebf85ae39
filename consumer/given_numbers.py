"""Numbers as operators give them: ages like 90s, 30m, 2h, 7d, instants; counts and numbers that a database can hold."""

import re

import click

from common.clock import from_iso
from common.errors import UsageError

MANY = click.IntRange(1, 10**9)
"""How many of something at most."""
NUMBER = click.IntRange(1, 2**63 - 1)
"""What a database takes for the number of a conflict."""
_LONGEST_S = 250_000 * 365 * 86_400
"""Before all time; beyond it a database's clock ends."""
_AGE = re.compile(r"(\d+(?:\.\d+)?)([smhd]?)\Z")
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3_600, "d": 86_400}


def age_us(option: str, text: str | None) -> int | None:
    """Return an age in microseconds; None where the option was not given. Raises UsageError."""
    if text is None:
        return None
    found = _AGE.match(text)
    if found is None:
        raise UsageError(f"{option} {text!r}: give a number and s, m, h or d, like 30m")
    return _in_us(found)


def _in_us(age: re.Match[str]) -> int:
    return int(min(float(age[1]) * _SECONDS[age[2]], _LONGEST_S) * 1_000_000)


def instant_us(option: str, text: str | None, now_us: int) -> int | None:
    """Return an instant, or how long ago it was, as microseconds since the epoch. Raises UsageError.

    None where the option was not given. An instant without a zone is UTC."""
    if text is None:
        return None
    if age := _AGE.match(text):
        return now_us - _in_us(age)
    try:
        return from_iso(text)
    except ValueError as error:
        example = "2026-11-26 or 2026-11-26T09:30Z"
        raise UsageError(f"{option} {text!r}: give an age like 30m, or an instant like {example}") from error
