"""Which tables and columns two sides can compare, and in which form. Pure."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum

from common.errors import UsageError
from common.wire.digests import Digested, Head
from common.wire.forms import Form, joint


class NotCompared(StrEnum):
    """Why a table was left out."""

    ONLY_HERE = "only-here"
    ONLY_THERE = "only-there"
    OTHER_KEY = "other-key"
    PAUSED = "paused"
    NOT_CAPTURED = "not-captured"
    OTHER_COLUMNS = "other-columns"
    """A file was written for other columns than both sides have, or in another form."""

    @property
    def is_agreed(self) -> bool:
        """Whether it says nothing against the nodes: one has not the table, or does not sync it."""
        return self in (NotCompared.ONLY_HERE, NotCompared.ONLY_THERE)


@dataclass(frozen=True, slots=True)
class Common:
    """What both sides have of one table."""

    forms: Mapping[str, Form]
    only_here: tuple[str, ...] = ()
    """Columns."""
    only_there: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Fit:
    """What can be compared, and what can't."""

    tables: Mapping[str, Common]
    left_out: Mapping[str, NotCompared]

    @property
    def is_whole(self) -> bool:
        """Whether what was left out says nothing against the nodes."""
        return all(why.is_agreed for why in self.left_out.values())

    def left_out_document(self) -> list[dict[str, str]]:
        """Return what was left out as `--json` prints it."""
        return [{"table": name, "reason": why.value} for name, why in self.left_out.items()]


def fit(here: Head, there: Head, wanted: Collection[str] | None, *, there_is_fixed: bool) -> Fit:
    """Return what two sides can compare of the tables `wanted`; None: of all. Raises UsageError for a name that is no
    table of either.

    `there_is_fixed`: the other side was digested already, in its forms."""
    names = sorted(here.tables.keys() | there.tables.keys() if wanted is None else set(wanted))
    tables, left_out = dict[str, Common](), dict[str, NotCompared]()
    for name in names:
        ours, theirs = here.tables.get(name), there.tables.get(name)
        if ours is None and theirs is None:
            raise UsageError(f"{name}: neither {here.source_node} nor {there.source_node} has such a table in sync")
        found = _fit(ours, theirs, there_is_fixed=there_is_fixed)
        if isinstance(found, Common):
            tables[name] = found
        else:
            left_out[name] = found
    return Fit(tables, left_out)


def common_forms(here: Digested, there: Digested) -> dict[str, Form]:
    """Return the columns that both have, with the form in which they are compared."""
    return {name: joint(form, there.forms[name]) for name, form in here.forms.items() if name in there.forms}


def _fit(ours: Digested | None, theirs: Digested | None, *, there_is_fixed: bool) -> Common | NotCompared:
    if ours is None:
        return NotCompared.ONLY_THERE
    if theirs is None:
        return NotCompared.ONLY_HERE
    for one in (ours, theirs):
        if one.unfit is not None:
            return NotCompared(one.unfit)
    if set(ours.pk) != set(theirs.pk):
        return NotCompared.OTHER_KEY
    forms = common_forms(ours, theirs)
    if not set(ours.pk) <= forms.keys():
        return NotCompared.OTHER_KEY
    if there_is_fixed and forms != theirs.forms:
        return NotCompared.OTHER_COLUMNS
    only_here, only_there = ours.columns.keys() - forms.keys(), theirs.columns.keys() - forms.keys()
    return Common(forms, tuple(sorted(only_here)), tuple(sorted(only_there)))
