"""Rows side by side, column by column: before and after a replay, ours and theirs."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from common.web.page.numbers import Spellings

DELETED = None


@dataclass(frozen=True, slots=True)
class Column:
    """One column of two images of a row. A side that has no such column, or no row, has `is_left` or `is_right` off."""

    name: str
    left: Any
    right: Any
    has_left: bool
    has_right: bool

    @property
    def differs(self) -> bool:
        """Whether the two sides hold something else."""
        return self.has_left != self.has_right or self.left != self.right


@dataclass(frozen=True, slots=True)
class RowChange:
    """What would become of one row."""

    table: str
    pk: Any
    says: str
    """In words."""
    look: str
    columns: tuple[Column, ...]


def side_by_side(left: Any, right: Any, numbers: Collection[str] = ()) -> tuple[Column, ...]:
    """Return the columns of two images; those that can't be read as a row are one column without a name.

    `numbers`: columns in which two spellings of one number are no difference."""
    if not all(one is None or isinstance(one, Mapping) for one in (left, right)):
        return (Column("", left, right, left is not None, right is not None),)
    names = dict.fromkeys([*(left or {}), *(right or {})])
    return tuple(_column(name, left or {}, right or {}, is_number=name in numbers) for name in names)


def _column(name: str, left: Mapping[str, Any], right: Mapping[str, Any], *, is_number: bool) -> Column:
    one, other = left.get(name), right.get(name)
    if is_number:
        shown = Spellings([one, other])
        one, other = shown.of(one), shown.of(other)
    return Column(name, one, other, name in left, name in right)


def effect_of(row: Mapping[str, Any], numbers: Collection[str] = ()) -> RowChange:
    """Return what a replay would do to one row. `row`: as `RowEffect.as_dict` gave it; `numbers`: see above."""
    now, then = row["now"], row["then"]
    if not row["open"]:
        says, look, then = "was applied before, and stays as it is", "plain", now
    elif row["effect"] == "overtaken":
        says, look, then = f"stays as it is: {row['current_version'][2]} wrote it later", "plain", now
    elif row["effect"] == "waits":
        says, look, then = "stays as it is, and this change waits for a choice", "warn", now
    elif row["effect"] == "aside":
        says, look = "would step back", "warn"
    elif row["effect"] == "stands":
        says, look, then = "stays as it is: this change is here already", "plain", now
    elif then is None:
        says, look = ("would be deleted", "bad") if now is not None else ("is not here, and stays so", "plain")
    elif now is None:
        says, look = "would be inserted", "good"
    else:
        then = {**now, **then} if isinstance(now, Mapping) and isinstance(then, Mapping) else then
        differs = any(one.differs for one in side_by_side(now, then, numbers))
        says, look = ("would be changed", "warn") if differs else ("would be as it is", "plain")
    return RowChange(row["table"], row["pk"], says, look, side_by_side(now, then, numbers))
