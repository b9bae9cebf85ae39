"""Touches that are too many to be held in memory: copied aside (`copying`), and read back in pieces that fit."""

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from common.dialects.sqlite.connection import fetched
from common.dialects.sqlite.copying import CopiedLog, clear
from common.dialects.sqlite.looks import LogLook, Look
from common.dialects.sqlite.net import Followers, Image
from common.dialects.sqlite.touches import Stretch, Touch, TouchedTable, split
from common.dialects.sqlite.values import Row, key_text

_PAGE = 10_000
"""Touches read at once from a segment that is too long to be held."""


class Slice(NamedTuple):
    """Some of a backlog, as a look of its own."""

    look: Look
    followers: Followers


class SlicedSegment(NamedTuple):
    """A single segment that is too long to be held."""

    slices: Iterator[Slice]
    mark: int | None
    """The mark that closes it; None for what follows the last one."""
    stretches: dict[int, Stretch]
    """By shape: the touches that are done with it."""


class Backlog:
    """What was committed and not sealed at one moment, aside. Its connection has to stay as long as it is read."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        moment: Look,
        marks: Sequence[int],
        copied: Sequence[CopiedLog],
        most_held: int,
    ) -> None:
        """`moment`: the look without what was seen."""
        self.moment = moment
        self._connection = connection
        self._marks = tuple(marks)
        self._copied = copied
        self._most_held = most_held
        self._cursor: sqlite3.Cursor | None = None

    def pieces(self) -> Iterator[Slice | SlicedSegment]:
        """Yield all of it in order: whole segments as a look, or one segment in slices.

        Each piece has to be done with before the next one is asked for."""
        first, tail = 0, len(self._marks)
        while first <= tail:
            last, held = first, self._touches(first)
            if held > self._most_held:
                yield self._sliced(first)
                first += 1
                continue
            while last < tail and held + self._touches(last + 1) <= self._most_held:
                last += 1
                held += self._touches(last)
            yield self._whole(first, last)
            first = last + 1

    def drop(self) -> None:
        """Take the copies away, and what else stands aside on the connection."""
        if self._cursor is not None:
            self._cursor.close()
        clear(self._connection)

    def _touches(self, segment: int) -> int:
        """Return about how many touches a segment has: never fewer than it has."""
        return sum(one.bounds[segment] - one.after(segment) for one in self._copied)

    def _whole(self, first: int, last: int) -> Slice:
        """Return the segments from `first` to `last` as one look."""
        logs: list[LogLook] = []
        followers: Followers = {}
        for copied in self._copied:
            bounds = copied.bounds[first : last + (last < len(self._marks))]
            within = copied.within(first, last)
            current: dict[str, Row] = {}
            rows = fetched(self._connection, _joined(copied, within, "seq"))
            touched = split(_parted(rows, copied, current), copied.log.key_places, bounds)
            logs.append(_log_look(copied, first, last, bounds, tuple(touched), current))
            if last < len(self._marks):
                followers[copied.log.table_id] = self._followers(copied, within, last)
        return Slice(replace(self.moment, marks=self._marks[first : last + 1], logs=tuple(logs)), followers)

    def _sliced(self, segment: int) -> SlicedSegment:
        mark = self._marks[segment] if segment < len(self._marks) else None
        stretches = {
            copied.log.shape_id: Stretch(copied.after(segment), copied.bounds[segment]) for copied in self._copied
        }
        return SlicedSegment(
            (found for copied in self._copied for found in self._slices(copied, segment)), mark, stretches
        )

    def _slices(self, copied: CopiedLog, segment: int) -> Iterator[Slice]:
        """Yield one log's part of a segment key by key: all touches of a key have to be seen together."""
        within = copied.within(segment, segment)
        unnamed = fetched(self._connection, _joined(copied, f"{within} AND {copied.has_null}", "seq"))
        if unnamed:
            (table,) = split(_parted(unnamed, copied, {}), copied.log.key_places, ())
            yield self._slice(copied, segment, table, {}, {})
        named = _joined(copied, f"{within} AND NOT {copied.has_null}", *copied.keys, "seq")
        self._cursor = cursor = self._connection.execute(named)
        table, current, first_seq, last_seq = TouchedTable(), dict[str, Row](), 0, 0
        while rows := cursor.fetchmany(_PAGE):
            split(_parted(rows, copied, current), copied.log.key_places, (), table)
            first_seq, last_seq = first_seq or rows[0][0], rows[-1][0]
            # Of the last key there may be more to come, also under another class that counts as equal here.
            open_key = copied.key_of(rows[-1])
            held = TouchedTable()
            for text in reversed(list(table.touches)):
                if table.touches[text].key != open_key:
                    break
                held.touches[text] = table.touches.pop(text)
            kept = {text: current.pop(text) for text in held.touches if text in current}
            if table.touches:
                followers = self._between(copied, segment, first_seq, last_seq)
                yield self._slice(copied, segment, table, current, followers)
                first_seq = last_seq
            table, current = held, kept
        if table.touches:
            yield self._slice(copied, segment, table, current, self._between(copied, segment, first_seq, last_seq))

    def _slice(
        self, copied: CopiedLog, segment: int, table: TouchedTable, current: dict[str, Row], followers: Followers
    ) -> Slice:
        log = _log_look(copied, segment, segment, (), (table,), current)
        return Slice(replace(self.moment, logs=(log,)), followers)

    def _between(self, copied: CopiedLog, segment: int, first_seq: int, last_seq: int) -> Followers:
        """Return the followers of the keys from one touch's to another one's."""
        if segment == len(self._marks):
            return {}
        keys = ", ".join(copied.keys)
        first, last = (f"(SELECT {keys} FROM {copied.touched} WHERE seq = {seq})" for seq in (first_seq, last_seq))
        where = f"{copied.within(segment, segment)} AND ({keys}) >= {first} AND ({keys}) <= {last}"
        return {copied.log.table_id: self._followers(copied, where, segment)}

    def _followers(self, copied: CopiedLog, where: str, segment: int) -> dict[str, Image | None]:
        """Return what the keys touched under a condition were before the next segment after this one touched them."""
        keys = ", ".join(copied.keys)
        classes = ", ".join(f"typeof({key})" for key in copied.keys)
        until = copied.bounds[segment]
        rows = fetched(
            self._connection,
            f"WITH w AS (SELECT {keys} FROM {copied.touched} WHERE {where} AND NOT {copied.has_null}"
            f" GROUP BY {keys}, {classes}),"
            f" f AS (SELECT w.*, (SELECT min(x.seq) FROM {copied.touched} x"
            f" WHERE {copied.same_key('x', 'w')} AND x.seq > {until}) AS first_seq FROM w)"
            f" SELECT t.* FROM f JOIN {copied.touched} t ON {copied.same_key('t', 'f')} AND t.seq >= f.first_seq"
            f" AND t.seq <= (SELECT min(b.seq) FROM {copied.bound} b WHERE b.seq >= f.first_seq) ORDER BY t.seq",
        )
        (found,) = split(rows, copied.log.key_places, ())
        touches = found.touches
        key_of = copied.key_of
        first_seqs = {key_text(key_of(row)): row[0] for row in reversed(rows)}
        for text in [text for text, touch in touches.items() if touch.missed]:
            further = self._further(copied, first_seqs[text], text)
            if further is None:
                del touches[text]
            else:
                touches[text] = further
        names = tuple(column.name for column in copied.log.shape.columns)
        return {text: None if touch.before is None else (names, touch.before) for text, touch in touches.items()}

    def _further(self, copied: CopiedLog, seq: int, text: str) -> Touch | None:
        """Return the first later touch that tells what its row was before: of a segment in which it was missed, that
        is not known. None where there is none."""
        rows = fetched(
            self._connection,
            f"SELECT t.* FROM {copied.touched} k JOIN {copied.touched} t ON {copied.same_key('t', 'k')}"
            f" WHERE k.seq = {seq} AND t.seq >= {seq} ORDER BY t.seq",
        )
        tables = split(rows, copied.log.key_places, [bound for bound in copied.bounds[:-1] if bound >= seq])
        later = (table.touches.get(text) for table in tables)
        return next((touch for touch in later if touch is not None and not touch.missed), None)


def _log_look(
    copied: CopiedLog,
    first: int,
    last: int,
    bounds: tuple[int, ...],
    touched: tuple[TouchedTable, ...],
    current: dict[str, Row],
) -> LogLook:
    """Return a look at the segments from `first` to `last`."""
    log, after = copied.log, copied.after(first)
    return LogLook(log, after, copied.bounds[last], bounds, touched, True, log.shape, log.shape_id, current)


def _joined(copied: CopiedLog, where: str, *order: str) -> str:
    """Return a query for touches, each with the row that its key has: the row's columns after a 1, or NULLs."""
    now = ", ".join(f"n.{column}" for column in copied.columns)
    match = copied.same_key("n", "t")
    return (
        f"SELECT t.*, n.rowid IS NOT NULL, {now} FROM (SELECT * FROM {copied.touched} WHERE {where}) t"
        f" LEFT JOIN {copied.now} n ON {match} ORDER BY {', '.join(f't.{name}' for name in order)}"
    )


def _parted(rows: Iterable[tuple[Any, ...]], copied: CopiedLog, current: dict[str, Row]) -> Iterator[tuple[Any, ...]]:
    """Yield the touches, and put the rows into `current` on the way."""
    end, key_of = 3 + len(copied.columns), copied.key_of
    for row in rows:
        if row[end]:
            current[key_text(key_of(row))] = row[end + 1 :]
        yield row[:end]
