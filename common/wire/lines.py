"""The lines of a batch one by one: where they end, and those that are neither header nor change."""

from collections.abc import Iterator
from typing import TypeVar

import msgspec

_T = TypeVar("_T")
HEADER_OPENS = b'{"type":"batch",'
CHANGE_OPENS = b'{"type":"change",'
END_OPENS = b'{"type":"end",'
_NEXT_CHANGE = b"}\n" + CHANGE_OPENS
"""Within a value nothing that ends so is followed by something that begins so: it stands between two."""
LINE_OF_END = b"\n" + END_OPENS

_NO_LINES = (
    (b"\xef\xbb\xbf", "it begins with a byte order mark: save it without"),
    (b"\xff\xfe", "it is UTF-16: save it as UTF-8"),
    (b"\xfe\xff", "it is UTF-16: save it as UTF-8"),
    (b"\x1f\x8b", "it is compressed with gzip: a file's name has to end with .gz"),
    (b"\x28\xb5\x2f\xfd", "it is compressed with zstd: a file's name has to end with .zst"),
)


class Line(msgspec.Struct):
    """Any line: what it is."""

    type: str


class Placed(Line):
    """A line that has a place in the log."""

    lsn: int


class End(msgspec.Struct):
    """The last line of a part."""

    tx_id: str
    changes: int
    sha256: str
    key: str | None = None
    signature: str | None = None


class Chunk(msgspec.Struct):
    """A piece of a change line that is too long for a part."""

    lsn: int
    n: int
    last: bool
    data: str


line_type = msgspec.json.Decoder(Line)
placed_line = msgspec.json.Decoder(Placed)
end_line = msgspec.json.Decoder(End)
chunk_line = msgspec.json.Decoder(Chunk)


def decoded(decoder: "msgspec.json.Decoder[_T]", line: bytes) -> _T:
    """Return what a line is. Raises `UNREADABLE`, also for what is no UTF-8: msgspec steps over the values of keys that
    it doesn't know without a look."""
    if not line.isascii():
        line.decode("utf-8")
    return decoder.decode(line)


def lines_of(body: bytes, start: int = 0) -> Iterator[bytes]:
    """Yield the lines of `body` from `start` on, each with its newline; the last one may lack it."""
    while start < len(body):
        stop = body.find(b"\n", start) + 1 or len(body)
        yield body[start:stop]
        start = stop


def remedy(line: bytes) -> str:
    """Return what else a line that can't be read, or is not what was summed up, may be, as the end of a sentence; else
    nothing."""
    for opens, what in _NO_LINES:
        if line.startswith(opens):
            return f"; {what}"
    return "; its lines end with CR LF: carry it over as binary, not as text" if line.endswith(b"}\r\n") else ""


def only_changes(payload: bytes) -> bool:
    """Tell whether every line is a change line as this release writes it, and none goes on in the next one; a few
    looks, however many lines."""
    if not payload.startswith(CHANGE_OPENS):
        return not payload
    lines = payload.count(b"\n")
    return payload.endswith(b"\n") and (lines == 1 or payload.count(_NEXT_CHANGE) == lines - 1)
