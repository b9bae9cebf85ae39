"""What a group of plain txs meets in the bookkeeping, asked in one block with the claim of its rows."""

from typing import NamedTuple, Self

import sqlalchemy as sa

from common.config.model import Config
from common.ports.plain import Asked, Together
from common.schema import tables as rf
from consumer import watermark
from consumer.apply.handing_on import A_PULLER, needs_readers
from consumer.dedup import ask_known
from consumer.plain.group import PlainGroup
from consumer.watermark import Mark


class Sources(NamedTuple):
    """Where this node is with each source, and whether it knows any of the txs. Asked before the rows are claimed: one
    applier a source at a time."""

    marks: list[Asked]
    """In the order of the group's sorted sources, the same for everybody; locked until the end."""
    known: list[Asked]

    @classmethod
    def ask(cls, together: Together, group: PlainGroup) -> Self:
        """Ask at the beginning of the first block."""
        return cls(
            [watermark.ask_locked(together, key) for key in sorted(group.stretches)], ask_known(together, group.keys)
        )

    def marks_to_move(self, group: PlainGroup, latest_us: float) -> list[Mark] | None:
        """Return the watermarks where all of the group is new and goes on where they stand; else None.

        `latest_us`: what a source's clock may say, microseconds since the epoch."""
        moved: list[Mark] = []
        for key, asked in zip(sorted(group.stretches), self.marks, strict=True):
            mark, stretch = watermark.answered(asked), group.stretches[key]
            if mark is None or mark.gap or mark.last_lsn != stretch.prev_lsn or stretch.latest_us > latest_us:
                return None
            moved.append(mark)
        return None if any(asked.rows() for asked in self.known) else moved


class Surroundings(NamedTuple):
    """What there may be of which there mostly is nothing. Each is looked at only where there is some."""

    copies: bool
    """Rows that have stepped back."""
    parts: bool
    """Parts of txs that wait."""
    horizons: bool
    """Tombstones were forgotten."""
    pullers: bool
    """Others get from this node what is applied here."""

    @classmethod
    def ask(cls, together: Together) -> Asked:
        """Ask behind the claims: who forgets a tombstone raises the horizon with it, and who steps back holds the
        turn."""
        return together.ask(_SURROUNDINGS)

    @classmethod
    def answered(cls, asked: Asked, config: Config) -> Self:
        """Return what there is; after the block."""
        copies, parts, horizons, pullers = asked.rows()[0]
        return cls(copies, parts, horizons, pullers and needs_readers(config))


_SURROUNDINGS = sa.select(
    *(sa.exists().select_from(table) for table in (rf.stepped_back, rf.tx_part, rf.horizon)), sa.exists(A_PULLER)
)
