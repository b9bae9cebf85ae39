"""Keys of this node's share (`tables.keys = "stride"`): the sequences behind serial and identity columns step by the
number of nodes, from this node's own number on. What a sequence was before stands in `rf_key_sequence`."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

import psycopg

from common.dialects.postgresql.naming import ident, literal, qualified
from common.dialects.postgresql.shapes import relation, rows_of
from common.dialects.postgresql.types import BITS, pg_column
from common.errors import ConfigError
from common.ports.dialect import TableShape
from common.ports.key_share import KeyShare

Raw = psycopg.Connection[tuple[Any, ...]]

_OF_COLUMNS = """
SELECT a.attname, s.oid, n.nspname, s.relname, q.seqtypid::regtype::text,
       has_sequence_privilege(s.oid, 'SELECT'), pg_get_userbyid(s.relowner)
FROM pg_attribute a
LEFT JOIN pg_attrdef f ON f.adrelid = a.attrelid AND f.adnum = a.attnum
JOIN pg_depend d ON d.classid = 'pg_attrdef'::regclass AND d.objid = f.oid AND d.refclassid = 'pg_class'::regclass
     OR d.deptype = 'i' AND d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass
        AND d.refobjid = a.attrelid AND d.refobjsubid = a.attnum
JOIN pg_class s ON s.relkind = 'S'
     AND s.oid = CASE WHEN d.classid = 'pg_attrdef'::regclass THEN d.refobjid ELSE d.objid END
JOIN pg_sequence q ON q.seqrelid = s.oid JOIN pg_namespace n ON n.oid = s.relnamespace
WHERE a.attrelid = %s::regclass AND a.attname = ANY(%s) ORDER BY a.attnum, s.oid
"""
_AS_IT_IS = "SELECT seqincrement, seqmin, seqmax, seqcycle FROM pg_sequence WHERE seqrelid = %s"
_KNOWN = """
SELECT table_name, sequence, increment, min_value, max_value, cycles FROM rf_key_sequence ORDER BY table_name, sequence
"""
LEDGER_DDL = (
    'CREATE TABLE rf_key_sequence (sequence text COLLATE "C" PRIMARY KEY, table_name text COLLATE "C" NOT NULL,'
    " increment bigint NOT NULL, min_value bigint NOT NULL, max_value bigint NOT NULL, cycles boolean NOT NULL)",
    "COMMENT ON TABLE rf_key_sequence IS 'How sequences counted before they gave keys of this node''s share.'",
)


class KeySequence(NamedTuple):
    """One sequence that gives keys of a table."""

    table: TableShape
    column: str
    oid: int
    name: str
    """Quoted, with its schema."""
    bits: int
    readable: bool
    owner: str


def sequences_of(raw: Raw, table: TableShape) -> list[KeySequence]:
    """Return the sequences that the table's key counts by."""
    columns = {column.name: pg_column(column) for column in table.columns if column.name in table.pk}
    wanted = [name for name, column in columns.items() if column.numbers_itself]
    rows = raw.execute(_OF_COLUMNS, (relation(table), wanted)).fetchall()
    return [
        KeySequence(
            table,
            name,
            oid,
            qualified(schema, bare),
            min(BITS[kind], BITS.get(columns[name].base, 63)),
            readable,
            owner,
        )
        for name, oid, schema, bare, kind, readable, owner in rows
    ]


def steps(raw: Raw, sequence: KeySequence, share: KeyShare) -> Iterator[str]:
    """Yield the statements after which the sequence gives keys of `share` alone; none where it does.

    Run each before the next is asked for: the first keeps others from counting on meanwhile. Raises ConfigError where
    the share is used up."""
    last = last_key(sequence, share)
    increment, least, most, cycles = _one(raw, _AS_IT_IS, (sequence.oid,))
    is_set = (increment, most, cycles) == (share.nodes, last, False)
    if is_set and sequence.readable and share.is_step(_following(raw, sequence.name)):
        return
    before = f"{literal(sequence.name)}, {literal(sequence.table.name)}, {increment}, {least}, {most}, {cycles}"
    yield f"INSERT INTO rf_key_sequence VALUES ({before}) ON CONFLICT DO NOTHING"
    yield f"ALTER SEQUENCE {sequence.name} INCREMENT BY {share.nodes} NO CYCLE"
    given = _counted(raw, sequence.name)
    start = share.next_step(max(given if given <= last else 0, _largest(raw, sequence.table, sequence.column, last)))
    if start > last:
        raise ConfigError(
            f"{sequence.table.name}: its keys reach {last}, up to which nodes step: raise tables.key_bits on every node"
        )
    yield f"ALTER SEQUENCE {sequence.name} MAXVALUE {last} RESTART WITH {start}"


def go_on(raw: Raw, sequence: KeySequence) -> str | None:
    """Return the statement after which the sequence gives numbers above those of the rows that are there, in its own
    steps; None where it does, or can't any more."""
    increment, _, most, _ = _one(raw, _AS_IT_IS, (sequence.oid,))
    following = _following(raw, sequence.name)
    largest = _largest(raw, sequence.table, sequence.column, most)
    if increment <= 0 or largest < following:
        return None
    start = following + -(-(largest + 1 - following) // increment) * increment
    return f"ALTER SEQUENCE {sequence.name} RESTART WITH {start}" if start <= most else None


def last_key(sequence: KeySequence, share: KeyShare) -> int:
    """Return the largest key that the sequence may give."""
    return min(share.lower_end - 1, (1 << sequence.bits) - 1)


def has_ledger(raw: Raw) -> bool:
    """Tell whether `rf_key_sequence` is there; it comes with the first table whose keys are by stride."""
    return _one(raw, "SELECT to_regclass('rf_key_sequence')") != (None,)


def stray(raw: Raw, sequence: KeySequence, share: KeyShare) -> bool:
    """Tell whether the sequence does not give keys of `share` alone."""
    return next(steps(raw, sequence, share), None) is not None


def putting_back(raw: Raw, tables: Mapping[str, TableShape], keep: Collection[str]) -> Iterator[tuple[str, str]]:
    """Yield table and statement: after them the sequences of tables not in `keep` count as they did before.

    `tables`: those that stand, by name. Run each before the next is asked for."""
    if not has_ledger(raw):
        return
    for name, quoted, increment, least, most, cycles in raw.execute(_KNOWN).fetchall():
        if name in keep:
            continue
        if _one(raw, "SELECT to_regclass(%s)", (quoted,)) != (None,):
            cycle = "CYCLE" if cycles else "NO CYCLE"
            yield name, f"ALTER SEQUENCE {quoted} INCREMENT BY {increment} {cycle}"
            following = _counted(raw, quoted) + 1
            for one in sequences_of(raw, tables[name]) if name in tables else []:
                if one.name == quoted:
                    # Above others' rows too, where it can count so far.
                    following = max(following, _largest(raw, one.table, one.column, most) + 1)
            restart = f" RESTART WITH {following}" if increment > 0 and following <= most else ""
            yield name, f"ALTER SEQUENCE {quoted} MINVALUE {least} MAXVALUE {most}{restart}"
        yield name, f"DELETE FROM rf_key_sequence WHERE sequence = {literal(quoted)}"


def remedy(sequence: KeySequence, share: KeyShare, account: str) -> str:
    """Return what the sequence's owner may run where Rowferry's account may not."""
    last, rest = last_key(sequence, share), share.number % share.nodes
    return (
        f"{sequence.table.name}: keys by stride need the sequence {sequence.name}. As its owner run GRANT "
        f"{ident(sequence.owner)} TO {ident(account)} and then rowferry migrate; or GRANT SELECT ON SEQUENCE "
        f"{sequence.name} TO {ident(account)}, and ALTER SEQUENCE {sequence.name} INCREMENT BY {share.nodes} MAXVALUE "
        f"{last} NO CYCLE RESTART WITH the first number above all keys that leaves {rest} divided by {share.nodes}"
    )


def _following(raw: Raw, name: str) -> int:
    """What the sequence gives next."""
    value, is_called, increment = _one(
        raw,
        f"SELECT last_value, is_called, seqincrement FROM {name}, pg_sequence"
        f" WHERE seqrelid = {literal(name)}::regclass",
    )
    return int(value) + (int(increment) if is_called else 0)


def _counted(raw: Raw, name: str) -> int:
    """The last key that the sequence gave; one less than its start where it gave none."""
    value, is_called = _one(raw, f"SELECT last_value, is_called FROM {name}")
    return int(value) - (not is_called)


def _largest(raw: Raw, table: TableShape, column: str, last: int) -> int:
    (value,) = _one(raw, f"SELECT max({ident(column)}) FROM {rows_of(table)} WHERE {ident(column)} <= {last}")
    return int(value or 0)


def _one(raw: Raw, query: str, values: tuple[Any, ...] | None = None) -> tuple[Any, ...]:
    row = raw.execute(query.encode(), values).fetchone()
    if row is None:
        raise LookupError(f"no row: {query}")
    return row
