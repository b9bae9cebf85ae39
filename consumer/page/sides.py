"""The two sides of a conflict by the names of who wrote them."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from common.schema import tables as rf
from common.web.page.words import is_cut, written
from consumer.conflict.record import BETWEEN_ROWS, Kind, State, Winner
from consumer.page.rows import Column, side_by_side
from consumer.readable import readable


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two writes that met."""

    name: str
    """As in `main's version`."""
    written_at: str | None
    """By its author's clock; None where nobody knows."""


@dataclass(frozen=True, slots=True)
class Sides:
    """A conflict as its page shows it."""

    document: dict[str, Any]
    columns: tuple[Column, ...]
    ours: Side
    """What the row had here."""
    theirs: Side

    @classmethod
    def of(cls, document: dict[str, Any], numbers: Collection[str]) -> "Sides":
        """Return the sides of a conflict as it was read whole. `numbers`: its table's columns that hold some."""
        columns = side_by_side(document["our_image"], document["their_image"], numbers)
        return cls(document, columns, *both(document["our_version"], document["their_version"]))

    @property
    def waits(self) -> bool:
        return bool(self.document["state"] == State.WAITING)

    @property
    def is_close(self) -> bool:
        """Whether the two were written within one second: seconds would not tell which came first."""
        ours, theirs = self.ours.written_at, self.theirs.written_at
        return ours is not None and theirs is not None and ours[:19] == theirs[:19]

    @property
    def is_long(self) -> bool:
        """Whether a table of it cuts some value."""
        return any(is_cut(one.left) or is_cut(one.right) for one in self.columns)

    @property
    def can_be_undone(self) -> bool:
        return not self.waits and self.document["kind"] not in BETWEEN_ROWS

    @property
    def is_clash(self) -> bool:
        """Between two rows that want one unique value."""
        return bool(self.document["kind"] == Kind.UNIQUE)

    def side(self, winner: str | None) -> str:
        """Return the name of the side that stands."""
        return stands(winner, self.ours, self.theirs)


def both(our_version: Any, their_version: Any) -> tuple[Side, Side]:
    """Return the two sides. The versions are as their records have them: [epoch, hlc, node]."""
    ours, theirs = _author(our_version), _author(their_version)
    if ours == theirs:
        # A node that was put back has written two rows under one version, or nobody knows who wrote either.
        return Side("the version here", _written(our_version)), Side("the version that came", _written(their_version))
    return Side(_name(ours), _written(our_version)), Side(_name(theirs), _written(their_version))


def stands(winner: str | None, ours: Side, theirs: Side) -> str:
    """Return the name of what stands."""
    return {Winner.OURS.value: ours.name, Winner.THEIRS.value: theirs.name}.get(winner or "", "neither of the two")


def sides_of(connection: sa.Connection, numbers: set[int]) -> dict[int, tuple[Side, Side]]:
    """Return the two sides of each of a few conflicts that are on record."""
    if not numbers:
        return {}
    met = rf.conflict.c
    query = sa.select(met.id, met.our_version, met.their_version).where(met.id.in_(numbers))
    return {row.id: both(readable(row.our_version), readable(row.their_version)) for row in connection.execute(query)}


def _name(author: str) -> str:
    return f"{author}'s version" if author else "the version from before"


def _author(version: Any) -> str:
    """Return who wrote a version; of a row from before the first `migrate` nobody knows."""
    return str(version[2]) if isinstance(version, list) and version[2:] and version[2] else ""


def _written(version: Any) -> str | None:
    hlc = version[1] if isinstance(version, list) and version[2:] and version[2] else None
    return written(hlc) if isinstance(hlc, int) else None
