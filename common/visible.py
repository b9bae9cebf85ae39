"""Other nodes' text on a terminal: what would command the terminal, or turn the reading order round, is spelled out."""

import re

_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff]")


def visible(text: str) -> str:
    """Return `text` with control characters but newline and tab as their JSON escapes; a document in JSON stays one."""
    return _UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
