"""The two sides of a comparison: each tells its chunks and its rows, this node, a peer over HTTP, or a file."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from common.errors import OutageError, PoisonError, PreflightError, Reason, RowferryError, UsageError
from common.runtime.node import Node
from common.transports.http.client import PeerClient, RefusedError, Streamed
from common.wire.compress import encoding_of, open_decompressed
from common.wire.control import SeenLog
from common.wire.digests import (
    LONGEST_LINE,
    LONGEST_PLAIN_LINE,
    Asked,
    AskedTable,
    Head,
    Line,
    Reading,
    ScannedLine,
    encode_asked,
)
from common.wire.forms import Form
from common.wire.row_digests import MOST_BITS, Sums, bits_for
from common.wire.signing import Trust
from consumer.dedup import UNPROVEN_REASONS
from consumer.verifying.answering import answer, own_sums
from consumer.verifying.collecting import Chunks, Rows, collect_chunks, collect_rows
from consumer.verifying.moment import Moment, at_one_moment

Forms = Mapping[str, Mapping[str, Form]]
Advance = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Counted:
    """Chunks of tables at one moment."""

    head: Head
    tables: Mapping[str, Chunks]


@dataclass(frozen=True, slots=True)
class Listed:
    """Rows of tables at one moment, by the digests of their keys."""

    head: Head
    tables: Mapping[str, Rows]


class Side(Protocol):
    """One side. For one thread. Methods raise OutageError, and RowferryError where it does not answer as it should."""

    @property
    def is_fixed(self) -> bool:
        """Whether it was written down: it has the forms and the cut of its first line, and is never asked anew."""
        ...

    def head(self) -> Head:
        """Return the first line as of now."""
        ...

    def count(self, forms: Forms, bits: Mapping[str, int], advance: Advance) -> Counted:
        """Return the chunks of tables. `bits`: of those for which they are given; else as many as fit the rows."""
        ...

    def list(self, asked: Asked, advance: Advance) -> Listed:
        """Return rows."""
        ...


class OwnSide:
    """This node."""

    is_fixed = False

    def __init__(self, node: Node) -> None:
        self._node = node

    def head(self) -> Head:
        return at_one_moment(self._node, lambda moment: moment.head)

    def count(self, forms: Forms, bits: Mapping[str, int], advance: Advance) -> Counted:
        def work(moment: Moment) -> Counted:
            return Counted(moment.head, {name: self._chunks(moment, name, forms, bits, advance) for name in forms})

        return at_one_moment(self._node, work)

    def list(self, asked: Asked, advance: Advance) -> Listed:
        def work(moment: Moment) -> Listed:
            lines = _telling(answer(moment, asked), advance)
            return Listed(moment.head, collect_rows(lines, asked, moment.head))

        return at_one_moment(self._node, work)

    @staticmethod
    def _chunks(moment: Moment, name: str, forms: Forms, bits: Mapping[str, int], advance: Advance) -> Chunks:
        for found in own_sums(moment, moment.shapes[name], forms[name]):
            if isinstance(found, Sums):
                cut = bits.get(name, bits_for(found.count))
                return Chunks(cut, found.chunks(cut))
            advance(found.rows)
        raise RuntimeError("a look at a table ended without its sums")


class PeerSide:
    """A peer over HTTP."""

    is_fixed = False

    def __init__(self, client: PeerClient, node_id: str, trust: Trust, seen: Sequence[SeenLog] = ()) -> None:
        """`node_id`: who has to answer. `seen`: what this node has had of its logs, which it is told."""
        self._client = client
        self._node_id = node_id
        self._trust = trust
        self._seen = tuple(seen)

    def head(self) -> Head:
        with self._asked(Asked(seen=self._seen)) as reading:
            for _ in reading:
                pass
            return reading.head

    def count(self, forms: Forms, bits: Mapping[str, int], advance: Advance) -> Counted:
        asked = Asked({name: AskedTable({**forms[name]}, bits[name]) for name in forms})
        with self._asked(asked) as reading:
            return Counted(reading.head, collect_chunks(_telling(reading, advance), asked))

    def list(self, asked: Asked, advance: Advance) -> Listed:
        with self._asked(asked) as reading:
            return Listed(reading.head, collect_rows(_telling(reading, advance), asked, reading.head))

    @contextmanager
    def _asked(self, asked: Asked) -> Iterator[Reading]:
        longest = LONGEST_LINE if asked.images else LONGEST_PLAIN_LINE
        with closing(self._question(asked)) as streamed:
            try:
                reading = Reading(streamed.body, self._trust, longest)
                if reading.head.source_node != self._node_id:
                    raise PoisonError(Reason.SOURCE, f"it is of {reading.head.source_node}, not of {self._node_id}")
                yield reading
            except PoisonError as error:
                if error.reason in UNPROVEN_REASONS:
                    raise RowferryError(f"{self._client.url}: {error}") from error
                raise OutageError(f"{self._client.url} does not answer as a node does: {error}") from error

    def _question(self, asked: Asked) -> Streamed:
        try:
            return self._client.digests(encode_asked(asked))
        except RefusedError as error:
            if error.status in (404, 405):
                raise RowferryError(f"{self._client.url}: its release does not know how to be compared") from error
            raise


class FileSide:
    """What a node has written into a file; it is looked through when this is made."""

    is_fixed = True

    def __init__(self, path: Path, trust: Trust) -> None:
        """Raises PreflightError where it is torn, altered, or none; UsageError where there is none."""
        if not path.is_file():
            raise UsageError(f"{path}: there is no such file, or it is not a regular one: it is read more than once")
        self._path = path
        self._trust = trust
        with self._opened() as reading:
            self._head = reading.head
            fit = {name: one for name, one in reading.head.tables.items() if one.unfit is None}
            asked = Asked({name: AskedTable({**one.forms}, MOST_BITS) for name, one in fit.items()})
            self._chunks = collect_chunks(reading, asked, any_cut=True)

    def head(self) -> Head:
        return self._head

    def count(self, forms: Forms, bits: Mapping[str, int], advance: Advance) -> Counted:
        del bits, advance
        return Counted(self._head, {name: self._chunks[name] for name in forms})

    def list(self, asked: Asked, advance: Advance) -> Listed:
        with self._opened() as reading:
            return Listed(self._head, collect_rows(_telling(reading, advance), asked, self._head, picks=True))

    @contextmanager
    def _opened(self) -> Iterator[Reading]:
        try:
            with self._path.open("rb") as raw:
                stream = open_decompressed(raw, encoding_of(self._path.name), self._path.stat().st_size)
                yield Reading(stream, self._trust)
        except PoisonError as error:
            raise PreflightError(f"{self._path}: {error}") from error
        except OSError as error:
            raise RowferryError(f"{self._path}: can't be read: {error.strerror}") from error


def _telling(lines: Iterator[Line] | Reading, advance: Advance) -> Iterator[Line]:
    for line in lines:
        if isinstance(line, ScannedLine):
            advance(line.rows)
        else:
            yield line
