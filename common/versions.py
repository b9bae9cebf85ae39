"""Versions order two writes of one row: `(main_epoch, hlc, node_id)`, compared left to right."""

from collections.abc import Iterable
from typing import NamedTuple

from common.clock import YEAR_2200_US
from common.errors import PoisonError, Reason
from common.ids import NODE_ID

MOST_EPOCH = 2**30
"""What every database's column holds, with room for steps on top."""


class Version(NamedTuple):
    """One write's place in the order of all writes of its row.

    Tuples compare left to right; node ids are ASCII, so comparing them as text is comparing their bytes.
    """

    main_epoch: int
    hlc: int
    node_id: str


NEVER = Version(0, 0, "")
"""The version of a row older than `migrate`, and of a key that never was."""

WEAKEST_HLC = 1
"""Of what nobody is known to have written: any write stands above it."""
UNTOLD_US = WEAKEST_HLC + 1
"""In the place of a clock's time that no version may have: it is a write, made nobody knows when."""
FIRST = (NEVER,)
"""`resolves` of a row's first version that `adopt` gave it: nobody has written the row, and what stands elsewhere from
before the first sync gives way to it, on record."""
FIRST_OF_EACH = (NEVER, NEVER)
"""The same where each side gives its own: in a `manual` table the two wait for a choice."""


def next_hlc(now_us: int, seen_us: int) -> int:
    """Return the clock value for a write made after seeing `seen_us`.

    Microseconds since the epoch; always above `seen_us`, also when the wall clock went back. Pure.
    What a clock says from the year 2200 on counts for nothing: no node would take the write, nor any that follows it.
    Source: Kulkarni et al., Logical Physical Clocks (2014), the counter folded into the microseconds."""
    return max(now_us if now_us < YEAR_2200_US else UNTOLD_US, seen_us + 1)


def counts_from_us(base: Version, resolves: Iterable[Version]) -> int:
    """Return from when a choice on top of `base` counts, so that it is above all that it settles; 0: `base` sees to it.

    What it settles may be a version of another row, whose clock was ahead."""
    highest = max((one.hlc for one in resolves), default=0)
    return highest + 1 if highest > base.hlc else 0


def check_settled(resolves: Iterable[Version], version: Version) -> None:
    """Raise PoisonError unless a choice of this version may settle these."""
    for one in resolves:
        if not _is_possible(one):
            raise PoisonError(Reason.VERSION, f"it settles {list(one)}, no version that a node could have given")
        if one >= version:
            raise PoisonError(Reason.VERSION, f"a choice settles only what is below its version {list(version)}")


def _is_possible(version: Version) -> bool:
    if version == NEVER:
        return True
    is_right = 0 <= version.main_epoch <= MOST_EPOCH and 0 <= version.hlc < YEAR_2200_US
    return is_right and NODE_ID.match(version.node_id) is not None


def check_version(version: Version, base: Version, source_node: str, *, from_main: bool) -> None:
    """Raise PoisonError unless `source_node` may have given `version` to a write on top of `base`."""
    if version.node_id != source_node:
        raise PoisonError(Reason.VERSION, f"version of {version.node_id!r} in a batch of {source_node!r}")
    if not 0 <= version.hlc < YEAR_2200_US:
        raise PoisonError(Reason.VERSION, f"hlc {version.hlc} is outside 1970..2200")
    if not _is_possible(base):
        raise PoisonError(Reason.VERSION, f"base {list(base)} is no version that a node could have given")
    if not 0 <= version.main_epoch <= MOST_EPOCH:
        raise PoisonError(Reason.VERSION, f"main_epoch {version.main_epoch} is outside 0..{MOST_EPOCH}")
    # Where there was nothing before, the clock alone counts, and 0 is a time: it stands above NEVER by its node's id.
    if base != NEVER and version.hlc <= base.hlc and version.main_epoch <= base.main_epoch:
        raise PoisonError(Reason.VERSION, f"version {list(version)} does not follow its base {list(base)}")
    steps = version.main_epoch - base.main_epoch
    if steps < 0 or steps > (1 if from_main else 0):
        raise PoisonError(Reason.VERSION, f"main_epoch {version.main_epoch} after {base.main_epoch}")
