"""psycopg's placeholders (`%s`, `%(name)s`, `%%`) made libpq's (`$1`)."""

import re
from functools import lru_cache
from typing import NamedTuple

from psycopg.adapt import PyFormat

_FORMATS = {b"s": PyFormat.AUTO, b"b": PyFormat.BINARY, b"t": PyFormat.TEXT}
_PLACE = re.compile(rb"%(?:(%)|(?:\((\w+)\))?([sbt]))")


class Placed(NamedTuple):
    """A statement with libpq's placeholders."""

    sql: bytes
    names: tuple[str, ...]
    """What stands in them; of those without names, their places from 0 as text."""
    formats: tuple[PyFormat, ...]


@lru_cache(maxsize=1000)
def placed(query: bytes) -> Placed:
    """Return it with numbered placeholders."""
    places: dict[str, tuple[int, PyFormat]] = {}

    def numbered(match: "re.Match[bytes]") -> bytes:
        percent, name, form = match.groups()
        if percent:
            return b"%"
        number, _ = places.setdefault(name.decode() if name else str(len(places)), (len(places) + 1, _FORMATS[form]))
        return b"$%d" % number

    sql = _PLACE.sub(numbered, query)
    return Placed(sql, tuple(places), tuple(form for _, form in places.values()))
