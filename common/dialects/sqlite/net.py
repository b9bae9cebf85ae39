"""From touches to net changes: before and after of each key in each segment, encoded. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from common.dialects.sqlite.digests import came_from, digest, digest_of_some
from common.dialects.sqlite.looks import LogLook, Look
from common.dialects.sqlite.shapes import ImageEncoder, StoredShape, TouchLog
from common.dialects.sqlite.touches import Stretch, Touch, TouchedTable
from common.dialects.sqlite.values import Row

Image: TypeAlias = tuple[tuple[str, ...], Row]
"""Columns and their values; None for no row."""
Followers: TypeAlias = dict[int, dict[str, Image | None]]
"""By table and canonical key: the row as it was before the next segment that touched it."""


class NetChange(NamedTuple):
    """One row's change over one segment."""

    log: TouchLog
    shape: StoredShape
    """What its images are written under."""
    key: str
    pk: bytes
    before: bytes | None
    after: bytes | None
    at_us: int
    digest: bytes | None
    """Of the row as it is after."""
    resolves: str | None = None
    """JSON list of the versions that it settles, if it is a choice: it is sealed also where the row stays as it was."""


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
    stretches: dict[int, Stretch] = field(default_factory=dict)
    """By shape: the touches that are done with it."""
    mark: int | None = None


def segments(look: Look, followers: Followers | None = None) -> list[Segment]:
    """Return the segments of a look in their order: older shapes, then what each mark closes, then the rest.

    `followers`: of what was touched again after all that is in the look."""
    followers = {} if followers is None else followers
    before_marks = max((_ordinal(look, log) + 1 for log in look.logs if not log.log.current), default=0)
    found = [Segment(grouped=True) for _ in range(before_marks)]
    found += [Segment(grouped=False, mark=mark) for mark in look.marks]
    found.append(Segment(grouped=True, mark=look.last_mark))
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

    def __init__(self, look: LogLook, followers: dict[str, Image | None]) -> None:
        self._look = look
        self._log = look.log
        self._shape = look.shape
        self._names = tuple(column.name for column in look.shape.columns)
        self._encoder = ImageEncoder(look.shape)
        self._followers = followers
        self._is_itself = look.shape == look.log.shape
        self._came_from = came_from(look.log.shape, look.shape)

    def into(self, found: list[Segment], first: int) -> None:
        bounds = (self._look.after, *self._look.bounds, self._look.last_seq)
        for place in reversed(range(len(self._look.touched))):
            touched, segment = self._look.touched[place], found[first + place]
            segment.stretches[self._log.shape_id] = Stretch(bounds[place], bounds[place + 1])
            if self._look.readable:
                changes = list(self._changes(touched))
                segment.changes = changes + segment.changes if segment.changes else changes
            else:
                self._set_aside(segment, [self._last_known(one) for one in touched.touches.values()], named=True)
            names = tuple(column.name for column in self._log.shape.columns)
            self._set_aside(segment, [(names, row) for _, row in touched.unnamed], named=False)

    def _set_aside(self, segment: Segment, images: list[Image], *, named: bool) -> None:
        if images:
            encoder = ImageEncoder(self._log.shape)
            found = tuple(encoder.some(dict(zip(names, row, strict=True))) for names, row in images)
            segment.aside.append(SetAside(self._log, found, named))

    def _last_known(self, touch: Touch) -> Image:
        """Of a row that was new or missed the key is all there is."""
        if touch.before is None:
            return self._log.shape.pk, touch.key
        return tuple(column.name for column in self._log.shape.columns), touch.before

    def _changes(self, touched: TouchedTable) -> Iterator[NetChange]:
        touches = touched.touches
        # What is done with is let go: a backlog would be in memory several times over.
        for key in list(touches):
            touch = touches.pop(key)
            after = self._after(key)
            before = self._before(touch)
            if self._is_itself:
                # Under another shape a row is not known whole: an older log then takes it as it is now.
                self._followers[key] = after if touch.missed else before
            if after is None and (touch.missed or (touch.resolves and before is None)):
                before = (self._shape.pk, touch.key)
            old, new = self._encode(before), self._encode(after)
            # Images are compared as they travel: 1 and 1.0, 0.0 and -0.0 differ there and not in Python.
            differs = old != new and not (before and after and self._same_where_shared(before, after))
            if differs or touch.resolves:
                pk = self._encoder.pk(touch.key)
                digest = None if key in self._look.not_known else self._digest(after)
                yield NetChange(self._log, self._shape, key, pk, old, new, touch.last_us, digest, touch.resolves)

    def _before(self, touch: Touch) -> Image | None:
        """Return what the row was, under the names of today."""
        if touch.before is None or self._is_itself:
            return None if touch.before is None else (self._names, touch.before)
        kept = [(name, place) for name, place in zip(self._names, self._came_from, strict=True) if place is not None]
        return tuple(name for name, _ in kept), tuple(touch.before[place] for _, place in kept)

    def _after(self, key: str) -> Image | None:
        if key in self._followers:
            follower = self._followers[key]
            if follower is None or set(self._names) <= set(follower[0]):
                return follower
        row = self._look.current.pop(key, None)
        return None if row is None else (self._names, row)

    def _digest(self, image: Image | None) -> bytes | None:
        """Return the digest under the shape of the image; where capture does not know that yet, under the log's own."""
        if image is None:
            return None
        names, row = image
        if self._look.shape_id is not None and names == self._names:
            return digest(self._look.shape_id, row)
        values = dict(zip(names, row, strict=True))
        if self._look.shape_id is not None:
            return digest(self._look.shape_id, tuple(values[name] for name in self._names))
        before = [column.name for column in self._log.shape.columns]
        came = zip(self._names, self._came_from, strict=True)
        known = {before[place]: values[name] for name, place in came if place is not None}
        return digest_of_some(self._log.shape_id, before, known)

    def _same_where_shared(self, before: Image, after: Image) -> bool:
        """Tell whether nothing changed but the table's columns."""
        if before[0] == after[0]:
            return False
        shared = set(before[0]) & set(after[0])
        return self._encode(_only(before, shared)) == self._encode(_only(after, shared))

    def _encode(self, image: Image | None) -> bytes | None:
        if image is None:
            return None
        names, row = image
        if names == self._names:
            return self._encoder.image(row)
        return self._encoder.some(dict(zip(names, row, strict=True)))


def _only(image: Image, names: set[str]) -> Image:
    kept = [(name, value) for name, value in zip(*image, strict=True) if name in names]
    return tuple(name for name, _ in kept), tuple(value for _, value in kept)
