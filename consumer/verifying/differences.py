"""How one row differs between two sides, and what that means. Pure."""

from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import msgspec

from common.versions import NEVER, Version
from common.wire.digests import Head, RowLine
from consumer.verifying.collecting import Rows


class Kind(StrEnum):
    """In what a row differs."""

    MISSING_HERE = "missing-here"
    MISSING_THERE = "missing-there"
    VALUES = "values"
    """One version, other values: something changed a row past Rowferry, or a node was rewound."""
    VERSION = "version"


class State(StrEnum):
    """What is to be made of it."""

    DIFFERENT = "different"
    """Nothing explains it: all that one side knows of this row had come to the other."""
    IN_FLIGHT = "in-flight"
    """One side has not seen all of the log that the row's higher version comes from."""
    EXPLAINED = "explained"
    """It has stepped back, or a change of it waits for a choice or is a dead letter, on one of the sides."""
    BEFORE_FIRST_SYNC = "before-first-sync"
    """No write of it was ever sealed: nobody can tell which side is right."""
    REPAIRED = "repaired"
    """It differed without a cause, and was sent once more: now it is the same."""


@dataclass(slots=True)
class Difference:
    """One row."""

    table: str
    key: bytes
    """The digest of its key."""
    here: RowLine | None
    there: RowLine | None
    state: State = State.DIFFERENT
    repair: str | None = None
    """What was done about it, or why nothing was."""
    since: tuple[Head, Head] | None = None
    """How far this node and the other were when it was first seen to differ just so."""

    @property
    def name(self) -> tuple[str, bytes]:
        """Which row."""
        return self.table, self.key

    @property
    def versions(self) -> tuple[Version, Version]:
        """What this node and the other know of it."""
        return version_of(self.here), version_of(self.there)

    @property
    def kind(self) -> Kind:
        """In what it differs."""
        if not _stands(self.here):
            return Kind.MISSING_HERE
        if not _stands(self.there):
            return Kind.MISSING_THERE
        return Kind.VALUES if version_of(self.here) == version_of(self.there) else Kind.VERSION

    @property
    def pk(self) -> Any:
        """The key as the wire has it."""
        line = self.here or self.there
        return None if line is None else msgspec.json.decode(line.pk)

    def document(self) -> dict[str, Any]:
        """Return it as `--json` prints it."""
        sums = {one.sum for one in (self.here, self.there) if one is not None}
        return {
            "table": self.table,
            "pk": self.pk,
            "kind": self.kind.value,
            "state": self.state.value,
            "same_values": self.kind is Kind.VERSION and len(sums) == 1,
            "here": _side(self.here),
            "there": _side(self.there),
            "repair": self.repair,
        }


def version_of(line: RowLine | None) -> Version:
    """Return the version that a side knows of a row."""
    return NEVER if line is None else line.version


def differences(table: str, here: Rows, there: Rows) -> Iterator[Difference]:
    """Yield the rows that differ. What stands on neither side is the same on both: nothing."""
    for key in sorted(here.keys() | there.keys()):
        ours, theirs = here.get(key), there.get(key)
        if not _stands(ours) and not _stands(theirs):
            continue
        if _told(ours) != _told(theirs):
            yield Difference(table, key, ours, theirs)


def judge(found: Iterable[Difference], here: Head, there: Head, before: Mapping[tuple[str, bytes], Difference]) -> None:
    """Tell what is to be made of differences. The heads: how far each side was when it told its rows.

    `before`: what an earlier look has found. What differs as it did then is on its way no more once a side has seen
    what the other had then: where everybody writes all the time it has never seen what the other has now."""
    behind: dict[int, tuple[set[str], set[str]]] = {}
    for one in found:
        earlier = before.get(one.name)
        known = earlier.since if earlier is not None and earlier.versions == one.versions else None
        one.since = then_here, then_there = known or (here, there)
        if id(then_here) not in behind:
            behind[id(then_here)] = _behind(here, then_there), _behind(there, then_here)
        one.state = _state(one, *behind[id(then_here)])


def _state(one: Difference, behind_here: Container[str], behind_there: Container[str]) -> State:
    """`behind_here`, `behind_there`: of whose logs this node, or the other, has not all."""
    if any(line is not None and (line.cause is not None or line.state == "aside") for line in (one.here, one.there)):
        return State.EXPLAINED
    ours, theirs = one.versions
    if max(ours, theirs) == NEVER:
        return State.BEFORE_FIRST_SYNC
    if (ours > theirs and ours.node_id in behind_there) or (theirs > ours and theirs.node_id in behind_here):
        return State.IN_FLIGHT
    return State.DIFFERENT


def _behind(side: Head, other: Head) -> set[str]:
    """Return the nodes of whose logs one side has not all that the other may hold something of."""
    has: Mapping[tuple[str, str], int] = {(node, incarnation): lsn for node, incarnation, lsn, _ in side.marks}
    return {node for node, incarnation, _, highest in other.marks if highest > has.get((node, incarnation), 0)}


def _told(line: RowLine | None) -> tuple[str, Version, str | None] | None:
    return None if line is None else (line.state, line.version, line.sum)


def _stands(line: RowLine | None) -> bool:
    return line is not None and line.state == "stands"


def _side(line: RowLine | None) -> dict[str, Any]:
    if line is None:
        return {"state": "unknown", "version": None, "cause": None}
    version = None if line.version == NEVER else list(line.version)
    return {"state": "unknown" if line.state == "absent" else line.state, "version": version, "cause": line.cause}
