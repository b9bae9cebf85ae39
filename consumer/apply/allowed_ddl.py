"""DDL that an import was allowed to run: parsed, judged and rendered anew by preflight."""

from collections.abc import Mapping
from dataclasses import dataclass

from common.errors import PoisonError, Reason


@dataclass(frozen=True, slots=True)
class AllowedDdl:
    """The statements that preflight let through."""

    statements: Mapping[str, str]
    """As in the file → as rendered for this database."""

    def rendered(self, sql: str) -> str:
        """Return what to run for a statement of the file. Raises PoisonError for one that preflight didn't see."""
        found = self.statements.get(sql)
        if found is None:
            raise PoisonError(Reason.DDL, "a DDL statement that preflight did not allow")
        return found
