"""One number has one spelling on a page, of those in which it came: 4.9 and 4.90 are one, and no difference."""

from collections.abc import Iterable, Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

from common.ports.dialect import TableShape

_KINDS = frozenset({"int", "decimal", "float"})


def numbers_of(tables: Mapping[str, TableShape], name: str) -> frozenset[str]:
    """Return the columns of a table that hold numbers here; of a table that is not here none are known.

    Where a sender has a number and this node a text, each spelling is another value."""
    shape = tables.get(name)
    return frozenset() if shape is None else frozenset(one.name for one in shape.columns if one.logical in _KINDS)


class Spellings:
    """How each number of one column is spelled on a page: with the most digits that it came with."""

    def __init__(self, values: Iterable[Any] = ()) -> None:
        self._found: dict[Decimal, Any] = {}
        for value in values:
            self.add(value)

    def add(self, value: Any) -> None:
        """Take a value into account; what is no number has no other spelling."""
        number = _number(value)
        if number is not None and len(str(value)) >= len(str(self._found.get(number, ""))):
            self._found[number] = value

    def of(self, value: Any) -> Any:
        """Return a value as it is shown."""
        number = _number(value)
        return value if number is None else self._found.get(number, value)


def _number(value: Any) -> Decimal | None:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    try:
        number = Decimal(str(value))
    except (InvalidOperation, ValueError):
        return None
    return number if number.is_finite() else None
