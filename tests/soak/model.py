"""What rows must be once all has arrived, told from the nodes' logs alone, with no code of Rowferry's.

Each policy is written down here a second time, in the plainest way that there is: all writes of a row together, and
what the policy says of them. The nodes decide one write after the other, in whatever order they come."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

Version = tuple[int, int, str]
RowKey = tuple[str, int]
Image = dict[str, Any] | None


@dataclass(frozen=True)
class Logged:
    """One write of a row, as its author's log has it."""

    version: Version
    base: Version | None
    op: str
    image: tuple[tuple[str, Any], ...] | None
    resolves: frozenset[Version]

    @property
    def author(self) -> str:
        return self.version[2]


@dataclass
class History:
    """All writes of one row, by version."""

    writes: dict[Version, Logged] = field(default_factory=dict)

    def seen_by(self, version: Version) -> set[Version]:
        """Every write that the author of `version` had seen when it was made, itself among them."""
        found: set[Version] = set()
        open_ = [version]
        while open_:
            one = open_.pop()
            if one in found or one not in self.writes:
                continue
            found.add(one)
            write = self.writes[one]
            # What a node wrote before it has seen, and what its write was made on top of, and what it settled.
            before = [other for other in self.writes if other[2] == one[2] and other < one]
            open_ += [*before, *write.resolves, *([write.base] if write.base else [])]
        return found


def read_log(lines: Iterable[dict[str, Any]]) -> dict[RowKey, History]:
    """Return the histories of all rows. `lines`: the change lines of all nodes."""
    found: dict[RowKey, History] = {}
    for line in lines:
        key = line["table"], line["pk"]["id"]
        version: Version = tuple(line["version"])
        base = None if line["base"] is None or line["base"][2] == "" else tuple(line["base"])
        image = None if line["op"] == "D" else tuple(sorted(line["after"].items()))
        resolves = frozenset(tuple(one) for one in line.get("resolves", ()))
        history = found.setdefault(key, History())
        assert version not in history.writes, f"{key}: two writes under {version}"
        history.writes[version] = Logged(version, base, line["op"], image, resolves)
    return found


def by_latest(history: History) -> Version:
    """`lww`, and `append-only` among its inserts: the later write. With the epochs in the versions also `main-wins`."""
    return max(history.writes)


def check_main_wins(history: History, stands: Version, main: str) -> None:
    """What stands is main's last write of the row, or was made by somebody who had seen it."""
    of_main = [version for version in history.writes if version[2] == main]
    if of_main:
        assert max(of_main) in history.seen_by(stands), f"{stands} stands without having seen main's {max(of_main)}"


def check_manual(history: History, stands: Version) -> None:
    """Somebody chose: whoever made what stands had seen every other write, or chose apart from who had, and later."""
    seen = history.seen_by(stands)
    for version, write in history.writes.items():
        if version in seen:
            continue
        apart = [history.writes[one] for one in seen if history.writes[one].resolves]
        rivals = [one for one in apart if one.resolves & write.resolves and one.version > version]
        covered = any(version in history.seen_by(one) for one in _losers(history, seen))
        assert rivals or covered, f"{stands} stands, and nobody had seen {version}"


def _losers(history: History, seen: set[Version]) -> set[Version]:
    """Choices that lost against one of `seen` that settles a version in common, and what these had beaten in turn."""
    found: set[Version] = set()
    winners = [history.writes[one] for one in seen if history.writes[one].resolves]
    while True:
        more = {
            version
            for version, write in history.writes.items()
            if version not in found and any(one.resolves & write.resolves and one.version > version for one in winners)
        }
        if not more:
            return found
        found |= more
        winners = [
            history.writes[one] for beaten in more for one in history.seen_by(beaten) if history.writes[one].resolves
        ]
