"""`rf_stepped_back` and `rf_claim`: rows that do not stand, kept whole, and found again by what they claim."""

from collections.abc import Iterable, Sequence

import msgspec
import sqlalchemy as sa

from common.ports.standing import Claim, RowFacts
from common.schema import tables as rf
from common.versions import Version
from common.wire.records import TableMeta
from consumer.conflict.record import version_text
from consumer.standing.theory import RowId
from consumer.statements import insert_missing, keyed, upsert

_POINTS = "from:"
"""Before the rule of a reference, on the side that points."""
_facts = msgspec.json.Decoder(RowFacts)


class Copy(msgspec.Struct, frozen=True):
    """One row that stepped back."""

    row: RowId
    version: str
    """As on the wire; of another version of the row this is no copy any more."""
    facts: RowFacts
    meta: TableMeta
    kind: str

    def is_of(self, version: Version) -> bool:
        """Tell whether the row still is what this is a copy of."""
        return self.version == version_text(version)


def tables_with_copies(connection: sa.Connection) -> set[str]:
    """Return the tables of which rows have stepped back. One look-up where there is none."""
    found: set[str] = set()
    column = rf.stepped_back.c.table_name
    # By hand: it is asked in every transaction, and to be put together it would take as long again.
    last = connection.exec_driver_sql(_FIRST).scalar()
    while last is not None:
        found.add(last)
        last = connection.execute(sa.select(sa.func.min(column)).where(column > last)).scalar()
    return found


_FIRST = "SELECT min(table_name) FROM rf_stepped_back"


def counts(connection: sa.Connection) -> dict[str, int]:
    """Return how many rows of each table have stepped back."""
    name = rf.stepped_back.c.table_name
    query = sa.select(name, sa.func.count()).group_by(name).order_by(name)
    return {table: int(count) for table, count in connection.execute(query)}


class Copies:
    """The copies, within one transaction."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection

    def get(self, table: str, keys: Sequence[str]) -> dict[str, Copy]:
        """Return the copies of these rows of a table, by key."""
        if not keys:
            return {}
        one = rf.stepped_back.c
        query = sa.select(one.key, one.version, one.facts, one.meta, one.kind)
        query = query.where(keyed(self._connection, one.table_name, table, one.key, keys))
        return {
            key: Copy(RowId(table, key), version, _facts.decode(facts), TableMeta.model_validate_json(meta), kind)
            for key, version, facts, meta, kind in self._connection.execute(query)
        }

    def aside(self, table: str, key: str, version: Version) -> Copy | None:
        """Return the copy of one row under this version; None where it stands again, or was written since."""
        copy = self.get(table, [key]).get(key)
        return copy if copy is not None and copy.is_of(version) else None

    def keys(self, table: str) -> list[str]:
        """Return the keys of all copies of a table."""
        query = sa.select(rf.stepped_back.c.key).where(rf.stepped_back.c.table_name == table)
        return list(self._connection.execute(query).scalars())

    def claimants(self, claims: Iterable[Claim]) -> dict[str, list[str]]:
        """Return the copies that have one of these values: in a unique key, or among what others point to."""
        return self._having([(claim.rule, claim.token) for claim in claims])

    def pointing(self, claims: Iterable[Claim]) -> dict[str, list[str]]:
        """Return the copies that point to one of these values."""
        return self._having([(_POINTS + claim.rule, claim.token) for claim in claims])

    def put(self, copies: Sequence[tuple[RowId, Version, RowFacts, TableMeta, str]], now_us: int) -> None:
        """Keep these rows, each with the kind of what is against it."""
        self.drop([row for row, *_ in copies])
        rows = [
            {
                "table_name": row.table,
                "key": row.key,
                "version": version_text(version),
                "facts": msgspec.json.encode(facts).decode(),
                "meta": meta.model_dump_json(),
                "kind": kind,
                "stepped_us": now_us,
            }
            for row, version, facts, meta, kind in copies
        ]
        upsert(self._connection, rf.stepped_back, rows)
        claims = [
            {"rule": rule, "token": token, "table_name": row.table, "key": row.key}
            for row, _, facts, *_ in copies
            for rule, token in _indexed(facts)
        ]
        insert_missing(self._connection, rf.claim, claims)

    def drop(self, rows: Iterable[RowId]) -> None:
        """Forget the copies of these rows."""
        by_table: dict[str, list[str]] = {}
        for row in rows:
            by_table.setdefault(row.table, []).append(row.key)
        for table, keys in by_table.items():
            for kept in (rf.stepped_back, rf.claim):
                these = keyed(self._connection, kept.c.table_name, table, kept.c.key, keys)
                self._connection.execute(sa.delete(kept).where(these))

    def _having(self, wanted: Sequence[tuple[str, str]]) -> dict[str, list[str]]:
        by_rule: dict[str, list[str]] = {}
        for rule, token in dict.fromkeys(wanted):
            by_rule.setdefault(rule, []).append(token)
        found: dict[str, list[str]] = {}
        claim = rf.claim.c
        for rule, tokens in by_rule.items():
            query = sa.select(claim.table_name, claim.key)
            query = query.where(keyed(self._connection, claim.rule, rule, claim.token, tokens))
            for table, key in self._connection.execute(query):
                found.setdefault(table, []).append(key)
        return found


def mark(connection: sa.Connection, incarnation: str) -> int | None:
    """Return the LSN up to which own changes were looked through; None where no row had stepped back yet."""
    one = rf.standing_mark.c
    return connection.execute(sa.select(one.lsn).where(one.incarnation == incarnation)).scalar()


def set_mark(connection: sa.Connection, incarnation: str, lsn: int) -> None:
    """Keep that LSN."""
    upsert(connection, rf.standing_mark, [{"incarnation": incarnation, "lsn": lsn}])


def _indexed(facts: RowFacts) -> set[tuple[str, str]]:
    own = {(claim.rule, claim.token) for claim in (*facts.claims, *facts.pointed)}
    return own | {(_POINTS + pointer.claim.rule, pointer.claim.token) for pointer in facts.points}
