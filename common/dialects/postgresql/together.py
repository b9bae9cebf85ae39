"""Several statements in one round trip: SQLAlchemy's own wait for each answer before the next one is sent."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import psycopg as dialect

from common.dialects.postgresql.prepared import Answer, Prepared

_DIALECT = dialect.dialect()  # type: ignore[no-untyped-call]


class PgAsked(NamedTuple):
    """A statement on its way. Implements `Asked`."""

    answer: Answer

    def rows(self) -> Sequence[tuple[Any, ...]]:
        """Return what it answered."""
        return self.answer.fetchall()


class PgTogether(NamedTuple):
    """Within a block of `Prepared`. Implements `Together`; statements with lists of any length are not for it."""

    prepared: Prepared

    def ask(self, statement: sa.Executable, given: Mapping[str, object] | None = None) -> PgAsked:
        """Send one more."""
        one = _compiled(statement, tuple(given or ()))
        return PgAsked(self.prepared.execute(one.sql, {**one.constants, **given} if given else one.constants))


class _Compiled(NamedTuple):
    sql: bytes
    constants: Mapping[str, object]
    """Values that stand in the statement itself."""


@cache
def _compiled(statement: sa.Executable, names: tuple[str, ...]) -> _Compiled:
    """What is asked here is made once, at import or in a cache of its own, so these are few."""
    if not isinstance(statement, sa.ClauseElement):
        raise TypeError(f"{statement!r} is no statement")
    compiled = statement.compile(dialect=_DIALECT, column_keys=list(names) if statement.is_dml else None)
    # Raises where the statement asks for a value that is not among the names.
    values = compiled.construct_params(dict.fromkeys(names)) or {}
    return _Compiled(str(compiled).encode(), {name: value for name, value in values.items() if name not in names})
