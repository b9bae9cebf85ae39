"""How deep lines nest. Decoders give up where their own stack ends, which differs with who calls them and with Python's
release: a line near it would be taken by one node, or by preflight, and refused by the next."""

import re
from itertools import accumulate

MAX_DEPTH = 100
"""Objects and arrays in one another, outside strings. What Rowferry writes has a handful."""

_STRING = re.compile(rb'"[^"\\]*+(?:\\.?[^"\\]*+)*+"?', re.DOTALL)
"""One that nothing closes goes to the end."""
_STEPS = {ord("{"): 1, ord("["): 1, ord("}"): -1, ord("]"): -1}
_NO_BRACKETS = bytes(code for code in range(256) if code not in _STEPS)
_NEITHER_OPENS_NOR_ENDS = bytes(code for code in range(256) if code not in b"{[\n")


def nests_too_deep(lines: bytes) -> bool:
    """Tell whether a line nests deeper than `MAX_DEPTH`. A quick look where few brackets open, as in what is plain."""
    if lines.count(b"{") + lines.count(b"[") <= MAX_DEPTH:
        return False
    opening = lines.translate(None, _NEITHER_OPENS_NOR_ENDS).split(b"\n")
    if max(map(len, opening)) <= MAX_DEPTH:
        return False
    return any(
        len(brackets) > MAX_DEPTH and _depth(line) > MAX_DEPTH
        for brackets, line in zip(opening, lines.split(b"\n"), strict=True)
    )


def _depth(line: bytes) -> int:
    brackets = _STRING.sub(b"", line).translate(None, _NO_BRACKETS)
    return max(accumulate(map(_STEPS.__getitem__, brackets)), default=0)
