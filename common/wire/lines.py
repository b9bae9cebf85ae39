"""The lines of a batch one by one: where they end, and those that are neither header nor change."""

from collections.abc import Iterator

import msgspec


class Line(msgspec.Struct):
    """Any line: what it is."""

    type: str


class End(msgspec.Struct):
    """The last line of a part."""

    tx_id: str
    changes: int
    sha256: str


class Chunk(msgspec.Struct):
    """A piece of a change line that is too long for a part."""

    lsn: int
    n: int
    last: bool
    data: str


line_type = msgspec.json.Decoder(Line)
end_line = msgspec.json.Decoder(End)
chunk_line = msgspec.json.Decoder(Chunk)


def lines_of(body: bytes) -> Iterator[bytes]:
    """Yield the lines of `body`, each with its newline; the last one may lack it."""
    start = 0
    while start < len(body):
        stop = body.find(b"\n", start) + 1 or len(body)
        yield body[start:stop]
        start = stop
