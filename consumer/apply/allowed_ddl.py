"""DDL that an import was allowed to run: parsed, judged and rendered anew by preflight."""

from collections.abc import Mapping
from dataclasses import dataclass

from common.errors import PoisonError, Reason
from common.preflight.rulings import Ruling


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement as it runs here."""

    sql: str
    uncaptured: str | None
    """The table that capture must let go of first, since its triggers hold what is dropped or retyped."""


@dataclass(frozen=True, slots=True)
class AllowedDdl:
    """The statements that preflight let through."""

    rulings: Mapping[str, Ruling]
    """By the statement as it stands in the file."""

    def statement(self, sql: str) -> Statement:
        """Return what to run for a statement of the file. Raises PoisonError for one that preflight didn't see."""
        found = self.rulings.get(sql)
        if found is None or found.rendered is None:
            raise PoisonError(Reason.DDL, "a DDL statement that preflight did not allow")
        return Statement(found.rendered, found.table if found.destructive else None)
