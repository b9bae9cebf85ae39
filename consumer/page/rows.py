"""Rows side by side, column by column: before and after a replay, ours and theirs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

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


def side_by_side(left: Any, right: Any) -> tuple[Column, ...]:
    """Return the columns of two images; those that can't be read as a row are one column without a name."""
    if not all(one is None or isinstance(one, Mapping) for one in (left, right)):
        return (Column("", left, right, left is not None, right is not None),)
    names = dict.fromkeys([*(left or {}), *(right or {})])
    return tuple(
        Column(name, (left or {}).get(name), (right or {}).get(name), name in (left or {}), name in (right or {}))
        for name in names
    )


def effect_of(row: Mapping[str, Any]) -> RowChange:
    """Return what a replay would do to one row. `row`: as `RowEffect.as_dict` gave it."""
    now, then = row["now"], row["then"]
    if not row["open"]:
        says, look, then = "was applied before, and stays as it is", "plain", now
    elif row["effect"] == "overtaken":
        says, look, then = f"stays as it is: {row['current_version'][2]} wrote it later", "plain", now
    elif row["effect"] == "stands":
        says, look, then = "stays as it is: this change is here already", "plain", now
    elif then is None:
        says, look = ("would be deleted", "bad") if now is not None else ("is not here, and stays so", "plain")
    elif now is None:
        says, look = "would be inserted", "good"
    else:
        then = {**now, **then} if isinstance(now, Mapping) and isinstance(then, Mapping) else then
        says, look = ("would be changed", "warn") if now != then else ("would be as it is", "plain")
    return RowChange(row["table"], row["pk"], says, look, side_by_side(now, then))
