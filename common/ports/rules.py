"""What the configuration asks of a database beside capturing its tables: guards, and whose keys are whose."""

from dataclasses import dataclass

from common.ports.key_share import KeyShare
from common.visible import as_argument, resume_command


@dataclass(frozen=True, slots=True)
class Rules:
    """Rules for captured tables, by their names on the wire. A name that is no captured table is of no effect."""

    append_only: frozenset[str] = frozenset()
    """Rows are inserted here and never changed again: the application's updates and deletes are refused."""
    stride: frozenset[str] = frozenset()
    """The database gives keys of `share` alone."""
    share: KeyShare | None = None
    """None: `stride` is empty."""
    no_own_keys: frozenset[str] = frozenset()
    """Another node numbers these rows: an insert that leaves its key to this database is refused."""


NO_RULES = Rules()


def append_only_refusal(table: str) -> str:
    """Return what an application is told whose update or delete is refused: table, policy and remedy."""
    return (
        f"rowferry: {table} is append-only (tables.policy): its rows are never updated, deleted or replaced. "
        f"Insert a row that corrects it; for the owner's own repair run: rowferry pause {as_argument(table)}"
    )


def own_key_refusal(table: str) -> str:
    """Return what an application is told that leaves the key to a database which may not give one."""
    return (
        f"rowferry: the keys of {table} are given on the main node alone (tables.keys = main-only): insert the row "
        "there, or name its key here"
    )


def used_up_refusal(table: str) -> str:
    """Return what an application is told where a node's chunk of keys is used up."""
    return (
        f"rowferry: the keys of {table} that this node may give for now are used up (tables.keys = stride): start "
        "rowferry run, or call rowferry migrate, which take the next ones; where neither helps raise tables.key_bits"
    )


def not_captured_refusal(table: str) -> str:
    """Return what somebody is told whose own write of a row would not be sealed."""
    return f"{table} is not captured now: run `rowferry migrate`, or `{resume_command(table)}`"
