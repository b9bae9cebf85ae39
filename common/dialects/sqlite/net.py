"""From touches to net changes: before and after of each key in each segment, encoded. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from common.dialects.sqlite.digests import digest, digest_of_some
from common.dialects.sqlite.looking import LogLook, Look
from common.dialects.sqlite.shapes import ImageEncoder, TouchLog
from common.dialects.sqlite.touches import TouchedTable
from common.dialects.sqlite.values import Row

_Image = tuple[tuple[str, ...], Row]
"""Columns and their values; None for no row."""


class NetChange(NamedTuple):
    """One row's change over one segment."""

    log: TouchLog
    key: str
    pk: bytes
    before: bytes | None
    after: bytes | None
    at_us: int
    digest: bytes | None
    """Of the row as it is after."""


@dataclass(frozen=True, slots=True)
class SetAside:
    """Rows that can't travel, as JSON objects."""

    log: TouchLog
    images: tuple[bytes, ...]
    named: bool
    """False: they have NULL in their key. True: their table is gone."""


@dataclass(slots=True)
class Segment:
    """What becomes one tx."""

    grouped: bool
    changes: list[NetChange] = field(default_factory=list)
    aside: list[SetAside] = field(default_factory=list)
    last_seqs: dict[int, int] = field(default_factory=dict)
    """By shape: touches up to here are done with it."""
    mark: int | None = None


def segments(look: Look) -> list[Segment]:
    """Return the segments of a look in their order: older shapes, then what each mark closes, then the rest."""
    before_marks = max((_ordinal(look, log) + 1 for log in look.logs if not log.log.current), default=0)
    found = [Segment(grouped=True) for _ in range(before_marks)]
    found += [Segment(grouped=False, mark=mark) for mark in look.marks]
    found.append(Segment(grouped=True))
    followers: dict[int, dict[str, _Image | None]] = {}
    for log in sorted(look.logs, key=lambda one: -one.log.shape_id):
        first = before_marks if log.log.current else _ordinal(look, log)
        _LogNet(log, followers.setdefault(log.log.table_id, {})).into(found, first)
    return found


def _ordinal(look: Look, log: LogLook) -> int:
    """Return how many older shapes of the same table are in the look."""
    mine = log.log
    return sum(one.log.table_id == mine.table_id and one.log.shape_id < mine.shape_id for one in look.logs)


class _LogNet:
    """The net changes of one touch log, from its last segment to its first.

    `followers`: by key, the row as it was before the next segment that touched it, also under a later shape."""

    def __init__(self, look: LogLook, followers: dict[str, _Image | None]) -> None:
        self._look = look
        self._log = look.log
        self._names = tuple(column.name for column in look.log.shape.columns)
        self._current_names = self._names if look.columns == self._names else look.columns
        self._key_names = look.log.shape.pk
        self._encoder = ImageEncoder(look.log.shape)
        self._followers = followers

    def into(self, found: list[Segment], first: int) -> None:
        for place in reversed(range(len(self._look.touched))):
            touched, segment = self._look.touched[place], found[first + place]
            bounds = (*self._look.bounds, self._look.last_seq)
            segment.last_seqs[self._log.shape_id] = bounds[place]
            if self._look.readable:
                changes = list(self._changes(touched))
                segment.changes = changes + segment.changes if segment.changes else changes
            else:
                self._set_aside(segment, [touch.before for touch in touched.touches.values() if touch.before], True)
            self._set_aside(segment, [row for _, row in touched.unnamed], False)

    def _set_aside(self, segment: Segment, rows: list[Row], named: bool) -> None:
        if rows:
            images = tuple(self._encoder.image(row) for row in rows)
            segment.aside.append(SetAside(self._log, images, named))

    def _changes(self, touched: TouchedTable) -> Iterator[NetChange]:
        touches = touched.touches
        # What is done with is let go: a backlog would be in memory several times over.
        for key in list(touches):
            touch = touches.pop(key)
            after = self._after(key)
            before = None if touch.before is None else (self._names, touch.before)
            self._followers[key] = after if touch.missed else before
            if touch.missed and after is None:
                before = (self._key_names, touch.key)
            old, new = self._encode(before), self._encode(after)
            # Images are compared as they travel: 1 and 1.0, 0.0 and -0.0 differ there and not in Python.
            if old != new and not (before and after and self._same_where_shared(before, after)):
                pk = self._encoder.pk(touch.key)
                yield NetChange(self._log, key, pk, old, new, touch.last_us, self._digest(after))

    def _after(self, key: str) -> _Image | None:
        if key in self._followers:
            return self._followers[key]
        row = self._look.current.pop(key, None)
        return None if row is None else (self._current_names, row)

    def _digest(self, image: _Image | None) -> bytes | None:
        if image is None:
            return None
        names, row = image
        if names == self._names:
            return digest(self._log.shape_id, row)
        return digest_of_some(self._log.shape_id, self._names, dict(zip(names, row, strict=True)))

    def _same_where_shared(self, before: _Image, after: _Image) -> bool:
        """Tell whether nothing changed but the table's columns."""
        if before[0] == after[0]:
            return False
        shared = set(before[0]) & set(after[0])
        return self._encode(_only(before, shared)) == self._encode(_only(after, shared))

    def _encode(self, image: _Image | None) -> bytes | None:
        if image is None:
            return None
        names, row = image
        if names == self._names:
            return self._encoder.image(row)
        return self._encoder.some(dict(zip(names, row, strict=True)))


def _only(image: _Image, names: set[str]) -> _Image:
    kept = [(name, value) for name, value in zip(*image, strict=True) if name in names]
    return tuple(name for name, _ in kept), tuple(value for _, value in kept)
