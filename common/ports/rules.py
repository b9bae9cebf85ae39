"""What the configuration asks of a database beside capturing its tables: guards that refuse some writes."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rules:
    """Rules for captured tables, by their names on the wire. A name that is no captured table is of no effect."""

    append_only: frozenset[str] = frozenset()
    """Rows are inserted here and never changed again: the application's updates and deletes are refused."""


NO_RULES = Rules()


def append_only_refusal(table: str) -> str:
    """Return what an application is told whose update or delete is refused: table, policy and remedy."""
    return (
        f"rowferry: {table} is append-only (tables.policy): its rows are never updated, deleted or replaced. "
        f"Insert a row that corrects it; for the owner's own repair run: rowferry pause {table}"
    )
