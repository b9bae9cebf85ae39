"""What decides which rows may stand in one table together: unique values and references, as a dialect reads them."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from common.ports.dialect import TableShape
from common.wire.records import TableMeta

KEPT_BY_NAME = ("rf_stepped_back", "rf_claim", "rf_conflict", "rf_choice")
"""What is kept of rows under their table's name (`table_name`): it goes along when that gets another one."""


class Claim(msgspec.Struct, frozen=True):
    """A value that a row has under some rule. Two rows have the same value where rule and token are the same."""

    rule: str
    token: str


class Pointer(msgspec.Struct, frozen=True):
    """A declared reference of which every column is filled."""

    parent: str
    """The parent's table."""
    claim: Claim
    """What the parent has among its `pointed`."""
    pk: str | None = None
    """The parent's key as a JSON object, where it is the primary key that is referred to."""


class RowFacts(msgspec.Struct, frozen=True):
    """One row with everything that others may clash with."""

    key: str
    """The canonical key, as in `RowState`."""
    pk: str
    """JSON object of the primary key, in this database's own form."""
    image: str
    """JSON object of the whole row, in this database's own form."""
    claims: tuple[Claim, ...] = ()
    """Its values in the table's unique keys but the primary one; none where the key does not hold for the row."""
    points: tuple[Pointer, ...] = ()
    pointed: tuple[Claim, ...] = ()
    """Its values in columns that other tables' references name."""


class Proposal(msgspec.Struct, frozen=True):
    """A row that is to be written."""

    key: str
    pk: bytes
    image: bytes
    stood: bytes | None = None
    """The row before, in this database's own form, if it does not stand in its table: for columns that `image` does
    not name."""


class StandingLook(Protocol):
    """Looks at rows of the tables it was made with, within one applying transaction. Writes nothing that stays."""

    def rules(self, table: TableShape) -> str:
        """Return the unique keys and references of a table as text: another text where they are others."""
        ...

    def examine(self, table: TableShape, meta: TableMeta, rows: Sequence[Proposal]) -> list[RowFacts]:
        """Return what these rows would be once written, whatever stands in their way now. At most one a key.

        Raises PoisonError for a row that can't be written even if it were alone."""
        ...

    def inspect(self, table: TableShape, meta: TableMeta, pks: Sequence[bytes]) -> dict[str, RowFacts]:
        """Return those of these rows that stand, by canonical key. `meta`: how the keys are written."""
        ...

    def rivals(self, table: TableShape, facts: Sequence[RowFacts]) -> list[bytes]:
        """Return the keys of the standing rows that have a unique value of one of these, these rows themselves too."""
        ...

    def parents(self, table: TableShape, facts: Sequence[RowFacts]) -> Mapping[str, list[bytes]]:
        """Return the keys of the standing rows that these rows point to, by table."""
        ...

    def children(self, table: TableShape, facts: Sequence[RowFacts]) -> Mapping[str, list[bytes]]:
        """Return the keys of the standing rows that point to values of these, by table."""
        ...


def pointed_rule(parent: str, columns: Sequence[str]) -> str:
    """Return the rule of references to these columns of a table."""
    return msgspec.json.encode(["to", parent, *columns]).decode()


def unique_rule(table: str, index: str) -> str:
    """Return the rule of one unique index."""
    return msgspec.json.encode(["unique", table, index]).decode()


def pointed_columns(tables: Mapping[str, TableShape], parent: TableShape) -> list[tuple[str, ...]]:
    """Return the columns of `parent` that references of `tables` name, each list once."""
    found = [key.parent_columns for one in tables.values() for key in one.foreign_keys if key.parent == parent.name]
    return list(dict.fromkeys(columns for columns in found if columns))
