"""The events of a row put together by the write that they tell of: one write and all that came of it is one line."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from common.ops.row_history import RowStory
from common.ports.row_history import RowEvent, Sealed
from common.versions import Version


@dataclass(frozen=True, slots=True)
class Fold:
    """One write of the row, or one event that tells of none."""

    version: Version | None
    sealed: Sealed | None
    """As this node's own log has it; None of what another node wrote."""
    events: tuple[RowEvent, ...]
    """In the order in which this node wrote, learned or did it."""

    @property
    def at_us(self) -> int | None:
        """When this node wrote it, or learned of it first; None where nobody noted that."""
        return min((one.at_us for one in self.events if one.at_us is not None), default=None)

    def place(self, here_at_us: Mapping[Version, int]) -> int:
        """What lines are ordered by: when this node wrote it or learned of it; where nobody noted that, by the clock
        of whoever wrote it.

        Never after what met it here, whatever the clocks say: the database's is not always the node's. `here_at_us`:
        when something else shows that a write was here already."""
        told_us = self.at_us if self.at_us is not None else min(one.place for one in self.events)
        seen_us = None if self.version is None else here_at_us.get(self.version)
        return told_us if seen_us is None else min(told_us, seen_us - 1)

    def first(self, *names: str) -> RowEvent | None:
        """Return the first event of these names."""
        return next((one for one in self.events if one.event in names), None)


def fold(story: RowStory) -> list[Fold]:
    """Return the lines, the oldest first."""
    sealed = {one.version: one for one in story.asked.look.sealed}
    choices = {frozenset(one.resolves): one.version for one in story.asked.look.sealed if one.resolves}
    groups: dict[object, list[RowEvent]] = {}
    for number, event in enumerate(story.events):
        version = _write_of(event, story.node, choices)
        groups.setdefault(number if version is None else version, []).append(event)
    folds = []
    for key, events in groups.items():
        version = key if isinstance(key, Version) else None
        folds.append(Fold(version, None if version is None else sealed.get(version), _ordered(events)))
    here_at_us = _here_at(story)
    return sorted(folds, key=lambda one: one.place(here_at_us))


def _here_at(story: RowStory) -> dict[Version, int]:
    """Return by when writes were here at the latest: what is known to have met them, or was written on top of them."""
    found: dict[Version, int] = {}
    for event in story.events:
        if event.at_us is not None and (version := _older(event)) is not None:
            found[version] = min(event.at_us, found.get(version, event.at_us))
    return found


def _older(event: RowEvent) -> Version | None:
    """Return the write that was here before the one that an event tells of."""
    detail = event.detail
    match event.event:
        case "lost":
            return event.version if "to_tx_id" in detail else read(detail["to_version"])
        case "met" | "waits" if "ours" in detail:
            return read(detail["ours"])
        case "sealed" if detail.get("base"):
            return read(detail["base"])
        case _:
            return None


def _write_of(event: RowEvent, own: str, choices: Mapping[frozenset[Version], Version]) -> Version | None:
    """Return the write that an event belongs to: where one lost, the one that came in and was decided upon."""
    if event.event == "lost" and "to_tx_id" in event.detail:
        return read(event.detail["to_version"])
    if event.event == "chosen" and event.version is None and event.node == own:
        return choices.get(frozenset(read(one) for one in event.detail["resolves"]))
    return event.version


def _ordered(events: Sequence[RowEvent]) -> tuple[RowEvent, ...]:
    """Return events in their order; what has no time of its own is so now, and stands last."""
    return tuple(sorted(events, key=lambda one: (one.at_us is None, one.place)))


def read(listed: Sequence[object]) -> Version:
    """Return a version as the details of events hold it: [epoch, clock, node]."""
    epoch, hlc, node_id = listed
    return Version(int(str(epoch)), int(str(hlc)), str(node_id))
