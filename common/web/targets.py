"""What a request is for, written as `http://host/path`: any client may write it so, not to a proxy alone."""

import re
from urllib.parse import unquote

from starlette.types import Scope

_ABSOLUTE = re.compile(rb"https?://([^/?#@]+)(.*)", re.IGNORECASE)


def in_origin_form(scope: Scope) -> Scope:
    """Return what is asked with its path alone. The host that stands before the path counts, not that of the header.

    Source: RFC 9112, 3.2.2."""
    found = _ABSOLUTE.fullmatch(scope["raw_path"])
    if found is None:
        return scope
    host, path = found[1], found[2] or b"/"
    headers = [(b"host", host), *((name, value) for name, value in scope["headers"] if name != b"host")]
    return {**scope, "path": unquote(path.decode("ascii")), "raw_path": path, "headers": headers}
