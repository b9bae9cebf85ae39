"""Gives rows of this node their first version: they are sealed just as they stand."""

import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

import msgspec

from common.crash_points import CrashPoint, reach
from common.errors import ConfigError, ContentionError, EarlyError, PoisonError, Reason
from common.ports.dialect import ApplySession, RowWrite, TableShape
from common.runtime.node import Node
from common.versions import NEVER
from common.wire.kinds import fits
from common.wire.unreadable import UNREADABLE
from consumer import audit
from consumer.apply.committing import Committing
from consumer.apply.order import parents_first
from consumer.apply.rows import UnsealedError
from consumer.tables import Tables, use_of

_ROWS_AT_ONCE = 500
"""In one commit: what is sealed of it is one tx for everybody."""

_keys = msgspec.json.Decoder(dict[str, msgspec.Raw])


class Outcome(StrEnum):
    """What became of a row."""

    GIVEN = "given"
    HAS_ONE = "has-one"
    """It was written since, here or elsewhere: that write travels, or has come."""
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


class _Row(NamedTuple):
    place: int
    pk: bytes


class Giving:
    """Gives first versions at the wish of one other node, or of who compares with it. For one thread."""

    def __init__(self, node: Node, peer: str, actor: str) -> None:
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
        by_table: dict[str, list[_Row]] = {}
        for place, (name, pk) in enumerate(rows):
            try:
                self._check(name, pk)
            except PoisonError as error:
                found[place] = Given(Outcome.REFUSED, str(error))
            else:
                by_table.setdefault(name, []).append(_Row(place, pk))
        shapes = self._tables.shapes()
        # Who receives a child before its parent has to wait for that.
        for use in parents_first({use_of(shapes[name], shapes[name].meta) for name in by_table}):
            these = by_table[use.name]
            for start in range(0, len(these), _ROWS_AT_ONCE):
                found |= self._some(use.shape, these[start : start + _ROWS_AT_ONCE])
                self._committing.seal()
        return [found[place] for place in range(len(rows))]

    def _check(self, name: str, pk: bytes) -> None:
        shape = self._tables.shapes().get(name)
        if shape is None:
            raise PoisonError(Reason.UNKNOWN_TABLE, f"{name} is no table that is in sync here", table=name)
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

    def _some(self, shape: TableShape, rows: Sequence[_Row]) -> dict[int, Given]:
        """Give rows their versions in one commit; halves, down to the guilty one, where something is wrong."""
        try:
            return self._committing.run(lambda session: self._work(session, shape, rows), patiently=len(rows) == 1)
        except (PoisonError, EarlyError, ContentionError, ConfigError) as error:
            if len(rows) == 1:
                return {rows[0].place: Given(Outcome.REFUSED, str(error))}
        half = len(rows) // 2
        return self._some(shape, rows[:half]) | self._some(shape, rows[half:])

    def _work(self, session: ApplySession, shape: TableShape, rows: Sequence[_Row]) -> dict[int, Given]:
        pks = [row.pk for row in rows]
        states = session.lock(shape, shape.meta, pks)
        if session.unsealed(shape, [state.key for state in states]):
            raise UnsealedError(f"own writes of {shape.name} are not sealed yet")
        found: dict[int, Given] = {}
        first: dict[str, RowWrite] = {}
        for row, state, image in zip(rows, states, session.images(shape, pks, shape.meta), strict=True):
            if state.version != NEVER:
                found[row.place] = Given(Outcome.HAS_ONE)
            elif image is None:
                found[row.place] = Given(Outcome.GONE)
            else:
                first[state.key] = RowWrite(state.key, row.pk, image, NEVER, NEVER)
                found[row.place] = Given(Outcome.GIVEN)
        session.give_first(shape, [*first.values()])
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
