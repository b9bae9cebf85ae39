"""The rules about DDL of one import, and what they say of a statement. What parses it is imported when there is one."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Ruling:
    """What is done with one statement."""

    allowed: bool
    why: str
    """The rule that lets it through or keeps it out."""
    table: str | None = None
    rendered: str | None = None
    destructive: bool = False
    pk: tuple[str, ...] = ()
    """Of a table that is made: its key."""
    drops: bool = False
    """The table is there no more."""


@dataclass(frozen=True, slots=True)
class DdlRules:
    """The rules of one import."""

    database: str
    """SQLAlchemy's name of the database that would run it."""
    wants: Callable[[str], bool]
    """Whether a table is a configured one."""
    allow: bool = False
    allow_destructive: bool = False

    def judge(self, sql: str, keys: Mapping[str, Collection[str]] | None = None) -> Ruling:
        """Decide about one statement of a file. `keys`: of each table that there will be by then; None: not known."""
        # Not at the top: sqlglot takes a quarter of a second, and hardly any file holds DDL.
        from common.preflight.ddl import judge

        return judge(self, sql, keys)


def same_name(database: str, one: str, other: str) -> bool:
    """Tell whether two names are of one table. SQLite's are the same in capitals."""
    return one.lower() == other.lower() if database == "sqlite" else one == other
