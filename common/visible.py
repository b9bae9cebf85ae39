"""Text on a terminal that others chose: what would command the terminal, or turn the reading order round, is spelled
out, and a name in a command that is to be typed is one argument."""

import re
import shlex

_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff]")
_PLAIN = re.compile(r"[\w.,:/@%+=-]+")
_TAKEN_APART = re.compile(r"[\"$`\\!]")
"""What a shell looks for between double quotes."""


def visible(text: str) -> str:
    """Return `text` with control characters but newline and tab as their JSON escapes; a document in JSON stays one."""
    return _UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def as_argument(name: str) -> str:
    """Return a name as it is typed in a command: in double quotes where it has blanks, as every shell takes it."""
    if _PLAIN.fullmatch(name):
        return name
    return shlex.quote(name) if _TAKEN_APART.search(name) else f'"{name}"'


def resume_command(table: str) -> str:
    """Return the command that takes up the capture of a table again."""
    return f"rowferry resume {as_argument(table)}"
