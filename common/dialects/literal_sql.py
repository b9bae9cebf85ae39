"""Statements of SQLAlchemy for what takes text only: another program, or a plain driver connection."""

import sqlalchemy as sa


def as_literal_sql(statement: sa.Executable, dialect: sa.Dialect) -> str:
    """Return a statement with its values written out."""
    compiled = statement.compile(dialect=dialect, compile_kwargs={"literal_binds": True})  # type: ignore[attr-defined]
    return str(compiled)
