"""Two sides compared: chunks first, then the rows of those that differ, and once more what was still on its way."""

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from common.wire.digests import MOST_KEYS, Asked, AskedTable
from common.wire.row_digests import Chunk
from consumer.verifying.collecting import Chunks
from consumer.verifying.differences import Difference, State, differences, judge
from consumer.verifying.fitting import Fit, fit
from consumer.verifying.sides import Side

ROWS_AT_ONCE = 50_000
"""So many rows of differing chunks are held at a time, of each side."""
_FIRST_PAUSE_SECONDS = 0.25
_LONGEST_PAUSE_SECONDS = 2.0


@dataclass(slots=True)
class Compared:
    """One table."""

    rows_here: int
    rows_there: int
    chunks: int
    differing: list[int] = field(default_factory=list)
    """The numbers of chunks that differ."""


class Comparison:
    """Of the tables that both sides have. Belongs to one thread; raises what the sides raise, UsageError."""

    def __init__(
        self,
        here: Side,
        there: Side,
        wanted: Collection[str] | None,
        wait_seconds: float,
        advance: Callable[[int], None],
        pause: Callable[[float], object] = time.sleep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`wait_seconds`: how long what is on its way may take to come, in all."""
        self._here = here
        self._there = there
        self._wait_seconds = wait_seconds
        self._advance = advance
        self._pause = pause
        self._monotonic = monotonic
        self.heads = here.head(), there.head()
        self.fit: Fit = fit(*self.heads, wanted, there_is_fixed=there.is_fixed)
        self.tables: dict[str, Compared] = {}
        self._bits: dict[str, int] = {}
        self._sizes: dict[str, dict[int, int]] = {}

    def count(self) -> None:
        """Compare the chunks of all tables."""
        forms = {name: one.forms for name, one in self.fit.tables.items()}
        cut: dict[str, int] = {}
        if self._there.is_fixed:
            cut = {name: one.bits for name, one in self._there.count(forms, {}, self._advance).tables.items()}
        here = {**self._here.count(forms, cut, self._advance).tables}
        there = self._there.count(forms, {name: one.bits for name, one in here.items()}, self._advance).tables
        self._bits = {name: one.bits for name, one in there.items()}
        finer = {name: bits for name, bits in self._bits.items() if bits > here[name].bits}
        if finer:
            # There are many more rows there: in few chunks too many would have to be listed.
            here |= self._here.count({name: forms[name] for name in finer}, finer, self._advance).tables
        for name in forms:
            self.tables[name] = _compared(here[name], there[name])
            self._sizes[name] = _sizes(here[name].chunks, there[name].chunks)

    def begin_with(self, names: Iterable[str]) -> None:
        """Have `rounds` go through the tables in this order; through those that are not named last."""
        self.tables = {name: self.tables[name] for name in (*names, *self.tables) if name in self.tables}

    def rounds(self) -> Iterator[list[Difference]]:
        """Yield the rows that differ, some at a time, each with what is to be made of it."""
        for chunks in self._portions():
            asked = {
                name: AskedTable({**self.fit.tables[name].forms}, self._bits[name], tuple(numbers))
                for name, numbers in chunks.items()
            }
            yield self._settled(asked)

    def again(self, found: Sequence[Difference]) -> list[Difference]:
        """Look once more at these rows; return those that differ still."""
        left: list[Difference] = []
        for start in range(0, len(found), MOST_KEYS):
            keys: dict[str, list[str]] = {}
            for one in found[start : start + MOST_KEYS]:
                keys.setdefault(one.table, []).append(one.key.hex())
            asked = {
                name: AskedTable({**self.fit.tables[name].forms}, keys=tuple(these)) for name, these in keys.items()
            }
            left += self._listed(asked, found)
        return left

    def _listed(self, tables: Mapping[str, AskedTable], before: Iterable[Difference] = ()) -> list[Difference]:
        asked = Asked({**tables})
        here, there = self._here.list(asked, self._advance), self._there.list(asked, self._advance)
        found = [one for name in tables for one in differences(name, here.tables[name], there.tables[name])]
        judge(found, here.head, there.head, {one.name: one for one in before})
        return found

    def _settled(self, asked: Mapping[str, AskedTable]) -> list[Difference]:
        """Return the rows that differ among those asked for. Waits for what is on its way, as long as there is time."""
        found, pause = self._listed(asked), _FIRST_PAUSE_SECONDS
        while moving := [one for one in found if one.state is State.IN_FLIGHT]:
            if self._there.is_fixed or self._wait_seconds <= 0:
                break
            began = self._monotonic()
            self._pause(min(pause, self._wait_seconds))
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
            names = {one.name for one in moving}
            now = self.again(moving) if len(moving) <= MOST_KEYS else self._listed(asked, moving)
            found = [one for one in found if one.state is not State.IN_FLIGHT]
            found += [one for one in now if one.name in names]
            self._wait_seconds -= self._monotonic() - began
        return found

    def _portions(self) -> Iterator[dict[str, list[int]]]:
        """Yield chunks that differ, so many that their rows can be held."""
        portion: dict[str, list[int]] = {}
        held = 0
        for name, table in self.tables.items():
            for number in table.differing:
                size = self._sizes[name].get(number, 0)
                if portion and held + size > ROWS_AT_ONCE:
                    yield portion
                    portion, held = {}, 0
                portion.setdefault(name, []).append(number)
                held += size
        if portion:
            yield portion


def _compared(here: Chunks, there: Chunks) -> Compared:
    numbers = sorted(here.chunks.keys() | there.chunks.keys())
    differing = [number for number in numbers if _told(here, number) != _told(there, number)]
    return Compared(here.rows, there.rows, len(numbers), differing)


def _told(side: Chunks, number: int) -> tuple[int, int]:
    """Return what has to be equal of a chunk: not how much of what is gone is remembered."""
    chunk = side.chunks.get(number)
    return (0, 0) if chunk is None else (chunk.rows, int(chunk.sum, 16))


def _sizes(here: Mapping[int, Chunk], there: Mapping[int, Chunk]) -> dict[int, int]:
    return {
        number: max(chunk.rows + chunk.gone for side in (here, there) if (chunk := side.get(number)) is not None)
        for number in here.keys() | there.keys()
    }
