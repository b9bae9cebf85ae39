"""The database as it was sealed at one moment: one repeatable-read snapshot, less what is committed and not sealed."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
import sqlalchemy as sa

from common.dialects.postgresql.connection import driver, pin_settings
from common.dialects.postgresql.errors import translated, translated_for
from common.dialects.postgresql.key_sequences import go_on, sequences_of
from common.dialects.postgresql.naming import ident
from common.dialects.postgresql.references import pointing_nowhere
from common.dialects.postgresql.registry import encode_meta
from common.dialects.postgresql.shapes import image_expression, key_expression, relation, rows_of
from common.dialects.postgresql.snapshots import Snapshot, bounds, ended_between
from common.dialects.postgresql.unsealed_sql import unsealed_rows
from common.errors import ContentionError
from common.ports.dialect import ApplySession, NodeFacts, TableShape
from common.ports.snapshot import FrozenLook, FrozenRow
from common.versions import NEVER, Version

Raw = psycopg.Connection[tuple[Any, ...]]

_ROWS_AT_A_TIME = 1_000
_HOLD_TIMEOUT = "2s"
_SEALED_UP_TO = "SELECT snapshot, pg_current_snapshot()::text FROM rf_seal"
_UNSEALED = f"""
SELECT l.pk, convert_to(l.before, 'UTF8'), l.old_tid::text, l.new_tid::text, s.meta
FROM ({unsealed_rows("l.*")}) l JOIN rf_shape s ON s.shape_id = l.shape_id AND s.table_id = %(table_id)s
ORDER BY l.pk, l.seq
"""
_VERSION = "v.main_epoch, v.hlc, v.node_id, v.base_epoch, v.base_hlc, v.base_node"
_STANDING = f"""
SELECT c.key, convert_to(c.image, 'UTF8'), {_VERSION}
FROM (SELECT {{key}} AS key, {{image}} AS image FROM {{rows}} r) c
LEFT JOIN rf_row_version v ON v.table_id = %(table_id)s AND v.key = c.key
"""
_KNOWN = f"SELECT v.key, {_VERSION} FROM rf_row_version v WHERE v.table_id = %(table_id)s AND v.key = ANY(%(keys)s)"
_GONE = f"""
SELECT v.key, true, {_VERSION} FROM rf_row_version v WHERE v.table_id = %(table_id)s AND v.deleted
UNION ALL
SELECT v.key, false, {_VERSION} FROM rf_stepped_back s
JOIN rf_row_version v ON v.table_id = %(table_id)s AND v.key = s.key
WHERE s.table_name = %(table)s AND NOT v.deleted
"""


class PostgresSnapshots:
    """See `common.ports.snapshot.Snapshots`."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine.execution_options(isolation_level="REPEATABLE READ")

    @contextmanager
    def look(self, node: NodeFacts, tables: Sequence[TableShape]) -> Iterator[FrozenLook]:  # noqa: ARG002 SQLite asks the node
        """Look at these tables as they are now.

        ALTER TABLE that writes a table anew, and TRUNCATE, are not seen as of a moment: whoever looks from a moment
        before them finds the table empty. So the tables are held first; neither of these statements is a moment."""
        with translated(), self._engine.connect() as connection, connection.begin():
            raw = driver(connection)
            raw.execute(f"SET LOCAL lock_timeout = '{_HOLD_TIMEOUT}'")
            for table in sorted(tables, key=lambda one: one.name):
                with translated_for(table, raw.info.user):
                    raw.execute(f"LOCK TABLE {relation(table)} IN ACCESS SHARE MODE".encode())
            yield PostgresFrozenLook(connection)

    def hold(self, session: ApplySession, tables: Sequence[TableShape]) -> None:
        """Lock the tables against writers."""
        raw = driver(session.connection)
        for table in sorted(tables, key=lambda one: one.name):
            with translated_for(table, raw.info.user):
                raw.execute(f"LOCK TABLE {relation(table)} IN SHARE ROW EXCLUSIVE MODE".encode())

    def empty(self, session: ApplySession, tables: Sequence[TableShape]) -> None:
        """Take away all rows of these tables, and all versions."""
        raw = driver(session.connection)
        for table in tables:
            with translated_for(table, raw.info.user):
                raw.execute(f"DELETE FROM {rows_of(table)}".encode())
        with translated():
            raw.execute("DELETE FROM rf_row_version")

    def dangling(self, session: ApplySession, tables: Sequence[TableShape]) -> dict[str, int]:
        """Count by table the rows of all other tables that point to none."""
        raw, own, found = driver(session.connection), {table.name for table in tables}, dict[str, int]()
        for table in tables:
            for child, query in pointing_nowhere(raw, table):
                if child not in own:
                    with translated_for(table, raw.info.user):
                        row = raw.execute(query.encode()).fetchone()
                    found[child] = found.get(child, 0) + (row[0] if row else 0)
        return found

    def count_on(self, session: ApplySession, tables: Sequence[TableShape]) -> list[str]:
        """Let sequences go on above the rows that are there now."""
        raw, left = driver(session.connection), []
        for table in tables:
            for sequence in sequences_of(raw, table):
                what = f"{sequence.name}, which numbers {table.name}, still gives numbers of rows that are there"
                if not sequence.readable:
                    left.append(f"{what}, for all that can be seen: as its owner let it restart above them")
                    continue
                statement = go_on(raw, sequence)
                if statement is None:
                    continue
                try:
                    with raw.transaction():
                        raw.execute(statement.encode())
                except psycopg.errors.InsufficientPrivilege:
                    owner = ident(sequence.owner)
                    left.append(f"{what}: run {statement} as {owner}, or grant this account the role {owner}")
        return left


class PostgresFrozenLook:
    """See `common.ports.snapshot.FrozenLook`."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection
        self._raw = driver(connection)
        # This is the moment.
        pin_settings(self._raw)
        sealed, now = self._raw.execute(_SEALED_UP_TO).fetchone() or ("1:1:", "1:1:")
        self._lows, self._highs = bounds(ended_between(Snapshot.parse(sealed), Snapshot.parse(now)))

    @property
    def connection(self) -> sa.Connection:
        """The same moment."""
        return self._connection

    def pk_of(self, table: TableShape, key: str) -> bytes:  # noqa: ARG002 the text is the same for all
        """Return the key: it is the wire's."""
        return key.encode()

    def rows(self, table: TableShape) -> Iterator[FrozenRow]:
        """Yield the table's rows as they were sealed last, and what is known of those that are gone."""
        with translated_for(table, self._raw.info.user):
            table_id = self._table_id(table)
            before = self._before(table, table_id)
            for key, image, *version in self._stream(_standing(table), {"table_id": table_id}):
                found = before.pop(key) if key in before else image
                if found is not None:
                    yield _row(key, found, version)
            restored = {key: image for key, image in before.items() if image is not None}
            known = self._known(table_id, list(restored))
            for key, image in restored.items():
                yield _row(key, image, known.get(key, [None] * 6))
            for key, deleted, *version in self._stream(_GONE, {"table_id": table_id, "table": table.name}):
                yield _row(key, None, version, deleted=deleted)

    def _before(self, table: TableShape, table_id: int) -> dict[str, bytes | None]:
        """Return of each row with unsealed changes what it was before the first of them.

        Triggers may log the changes of one statement in another order than they were made in: the first is the one
        that began at a place where no other of them had left the row."""
        given = {"lows": self._lows, "highs": self._highs, "table_id": table_id}
        shape = encode_meta(table.meta)
        changes: dict[str, list[tuple[bytes | None, str | None, str | None]]] = {}
        for key, image, old, new, meta in self._raw.execute(_UNSEALED.encode(), given, binary=True):
            if meta != shape:
                raise ContentionError(f"{table.name} was altered a moment ago")
            changes.setdefault(key, []).append((image, old, new))
        return {key: _first(found) for key, found in changes.items()}

    def _known(self, table_id: int, keys: list[str]) -> dict[str, list[Any]]:
        found = self._raw.execute(_KNOWN.encode(), {"table_id": table_id, "keys": keys})
        return {key: version for key, *version in found}

    def _stream(self, query: str, given: dict[str, object]) -> Iterator[tuple[Any, ...]]:
        with self._raw.cursor(name="rowferry_snapshot") as cursor:
            cursor.itersize = _ROWS_AT_A_TIME
            cursor.execute(query.encode(), given, binary=True)
            yield from cursor

    def _table_id(self, table: TableShape) -> int:
        row = self._raw.execute("SELECT table_id FROM rf_table WHERE name = %s", (table.name,)).fetchone()
        if row is None:
            raise ContentionError(f"{table.name} is not captured yet: run `rowferry migrate`")
        return int(row[0])


def _standing(table: TableShape) -> str:
    # A percent sign in a name would be taken for a parameter.
    key, image = (text.replace("%", "%%") for text in (key_expression(table, "r"), image_expression(table, "r")))
    return _STANDING.format(key=key, image=image, rows=rows_of(table).replace("%", "%%"))


def _first(changes: list[tuple[bytes | None, str | None, str | None]]) -> bytes | None:
    left = {new for _, _, new in changes if new is not None}
    return next((image for image, old, _ in changes if old not in left), changes[0][0])


def _row(key: str, image: bytes | None, version: Sequence[Any], *, deleted: bool = False) -> FrozenRow:
    epoch, hlc, node, base_epoch, base_hlc, base_node = version
    if epoch is None:
        return FrozenRow(key, key.encode(), image, NEVER, NEVER, deleted)
    base = Version(base_epoch, base_hlc, base_node)
    return FrozenRow(key, key.encode(), image, Version(epoch, hlc, node), base, deleted)
