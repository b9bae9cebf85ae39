"""Gives rows of this node their first version: they are sealed just as they stand."""

import uuid
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

import msgspec

from common.crash_points import CrashPoint, reach
from common.errors import ConfigError, ContentionError, EarlyError, PoisonError, Reason
from common.ops.pausing import paused_tables
from common.ports.dialect import ApplySession, RowState, RowWrite, TableShape
from common.runtime.node import Node
from common.versions import FIRST, FIRST_OF_EACH, NEVER, Version
from common.wire.kinds import fits
from common.wire.unreadable import UNREADABLE
from consumer import audit
from consumer.apply.committing import Committing
from consumer.apply.order import parents_first
from consumer.apply.rows import UnsealedError
from consumer.tables import Tables, use_of

_ROWS_AT_ONCE = 500
"""In one commit: what is sealed of it is one tx for everybody."""
_BYTES_AT_ONCE = 4 * 1024 * 1024
_ROWS_A_LOOK = 10
"""A row may have many megabytes."""

_keys = msgspec.json.Decoder(dict[str, msgspec.Raw])


class Outcome(StrEnum):
    """What became of a row."""

    GIVEN = "given"
    HAS_ONE = "has-one"
    """A version: it was written since, or given before, and that travels or has come."""
    GONE = "gone"
    REFUSED = "refused"


class Given(NamedTuple):
    """What became of one row, and why."""

    outcome: Outcome
    why: str | None = None


class Named(NamedTuple):
    """One row: its table, and its key as a JSON object."""

    table: str
    pk: bytes
    of_each: bool = False
    """The other side gives its own too."""


class _Row(NamedTuple):
    place: int
    pk: bytes


class _Piece(NamedTuple):
    """Rows of one table."""

    shape: TableShape
    resolves: tuple[Version, ...]
    rows: Sequence[_Row]


class Giving:
    """Gives first versions. For one thread."""

    def __init__(self, node: Node, peer: str, actor: str) -> None:
        """`peer`: the node that this one was compared with."""
        self._node = node
        self._peer = peer
        self._actor = actor
        self._tables = Tables(node)
        self._committing = Committing(node)
        self._name = f"adopt-{uuid.uuid4().hex}"

    def give(self, rows: Sequence[Named]) -> list[Given]:
        """Return what became of each row; all of it is committed, and sealed unless somebody else is at it.

        Raises OutageError."""
        found: dict[int, Given] = {}
        by_table: dict[tuple[str, bool], list[_Row]] = {}
        paused = paused_tables(self._node.database)
        for place, one in enumerate(rows):
            try:
                self._check(one.table, one.pk, paused)
            except PoisonError as error:
                found[place] = Given(Outcome.REFUSED, str(error))
            else:
                by_table.setdefault((one.table, one.of_each), []).append(_Row(place, one.pk))
        shapes = self._tables.shapes()
        # Who receives a child before its parent has to wait for that.
        for use in parents_first({use_of(shapes[name], shapes[name].meta) for name, _ in by_table}):
            for resolves, of_each in ((FIRST, False), (FIRST_OF_EACH, True)):
                left = by_table.get((use.name, of_each), [])
                while left:
                    done = self._some(_Piece(use.shape, resolves, left[:_ROWS_AT_ONCE]))
                    found |= done
                    left = [row for row in left if row.place not in done]
                    self._committing.seal()
        return [found[place] for place in range(len(rows))]

    def _check(self, name: str, pk: bytes, paused: Container[str]) -> None:
        shape = self._tables.shapes().get(name)
        if shape is None:
            raise PoisonError(Reason.UNKNOWN_TABLE, f"{name} is no table that is in sync here", table=name)
        if name in paused:
            raise PoisonError(Reason.PAUSED, f"{name} is paused", table=name)
        try:
            key = _keys.decode(pk)
        except UNREADABLE as error:
            raise PoisonError(Reason.FORMAT, f"{name}: a key that can't be read: {error}", table=name) from error
        columns = shape.meta.columns
        if key.keys() != set(shape.pk):
            raise PoisonError(Reason.FORMAT, f"{name}: its key is {', '.join(shape.pk)}", table=name)
        for column, value in key.items():
            if bytes(value) == b"null" or not fits(columns[column], value):
                raise PoisonError(Reason.TYPE, f"{name}: no key has such a value of {column!r}", table=name)

    def _some(self, piece: _Piece) -> dict[int, Given]:
        """Give rows their versions in one commit, as many as fit; halves, down to the guilty one, where something is
        wrong. Return what became of those it came to."""
        rows = piece.rows
        try:
            return self._committing.run(lambda session: self._work(session, piece), patiently=len(rows) == 1)
        except (PoisonError, EarlyError, ContentionError, ConfigError) as error:
            if len(rows) == 1:
                return {rows[0].place: Given(Outcome.REFUSED, str(error))}
        half = len(rows) // 2
        return self._some(piece._replace(rows=rows[:half])) | self._some(piece._replace(rows=rows[half:]))

    def _work(self, session: ApplySession, piece: _Piece) -> dict[int, Given]:
        shape = piece.shape
        states = session.lock(shape, shape.meta, [row.pk for row in piece.rows])
        if session.unsealed(shape, [state.key for state in states]):
            raise UnsealedError(f"own writes of {shape.name} are not sealed yet")
        found: dict[int, Given] = {}
        first: dict[str, RowWrite] = {}
        size = start = 0
        # How large they are shows when they are read.
        while start < len(states) and size < _BYTES_AT_ONCE:
            rows, some = piece.rows[start : start + _ROWS_A_LOOK], states[start : start + _ROWS_A_LOOK]
            start += _ROWS_A_LOOK
            images = session.images(shape, [row.pk for row in rows], shape.meta)
            for row, state, image in zip(rows, some, images, strict=True):
                found[row.place] = _came_to(state, image)
                if found[row.place].outcome is Outcome.GIVEN and image is not None:
                    size += len(image)
                    first[state.key] = RowWrite(state.key, row.pk, image, NEVER, NEVER)
        session.give_first(shape, [*first.values()], piece.resolves)
        self._note(session, shape.name, found)
        reach(CrashPoint.BEFORE_COMMIT)
        return found

    def _note(self, session: ApplySession, table: str, found: Mapping[int, Given]) -> None:
        """Write the audit's line in the same commit."""
        outcomes = Counter(one.outcome.value for one in found.values())
        if Outcome.GIVEN not in outcomes:
            return
        detail = {"with": self._peer, "table": table, "rows": dict(outcomes)}
        line = audit.Line("adopted", self._node.facts.node_id, self._name, self._actor, detail)
        audit.write(session.connection, [line], self._node.clock.now_us())


def _came_to(state: RowState, image: bytes | None) -> Given:
    if state.version != NEVER:
        return Given(Outcome.HAS_ONE)
    return Given(Outcome.GONE if image is None else Outcome.GIVEN)
