"""Which changes of a dead letter are applied, where it is applied in pieces: a set of LSNs. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

_json = msgspec.json.Encoder()
_ranges = msgspec.json.Decoder(list[tuple[int, int]])


@dataclass(frozen=True, slots=True)
class LsnSet:
    """LSNs as ranges (first, last) that rise and don't touch each other."""

    ranges: tuple[tuple[int, int], ...] = ()

    @classmethod
    def parse(cls, text: str | None) -> "LsnSet":
        """Return the set that `text` returned."""
        return cls(tuple(_ranges.decode(text))) if text else cls()

    def text(self) -> str:
        """Return it as JSON."""
        return _json.encode(self.ranges).decode()

    def __contains__(self, lsn: int) -> bool:
        low, high = 0, len(self.ranges)
        while low < high:
            middle = (low + high) // 2
            if lsn > self.ranges[middle][1]:
                low = middle + 1
            else:
                high = middle
        return low < len(self.ranges) and self.ranges[low][0] <= lsn

    def __len__(self) -> int:
        return sum(last - first + 1 for first, last in self.ranges)

    def with_(self, lsns: Iterable[int]) -> "LsnSet":
        """Return the set with these LSNs too."""
        found: list[tuple[int, int]] = []
        for first, last in sorted([*self.ranges, *((lsn, lsn) for lsn in lsns)]):
            if found and first <= found[-1][1] + 1:
                found[-1] = (found[-1][0], max(found[-1][1], last))
            else:
                found.append((first, last))
        return LsnSet(tuple(found))
