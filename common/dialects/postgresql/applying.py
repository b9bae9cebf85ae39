"""One applying transaction. docs/reference/capture-postgresql.md tells the order of its locks, and why."""

from collections.abc import Mapping, Sequence
from typing import Any

import psycopg
import sqlalchemy as sa

from common.dialects.postgresql.apply_settings import plan_for, ready
from common.dialects.postgresql.choices import Chosen, FirstVersions, log_choices, log_first
from common.dialects.postgresql.connection import driver
from common.dialects.postgresql.errors import translated, translated_for
from common.dialects.postgresql.merged import MergedRows
from common.dialects.postgresql.paused import PausedRows
from common.dialects.postgresql.plain import PostgresPlain
from common.dialects.postgresql.prepared import Prepared
from common.dialects.postgresql.queries import escaped, lock_sql, recordset, same_key, target_rows
from common.dialects.postgresql.references import References, broken
from common.dialects.postgresql.registry import Registry
from common.dialects.postgresql.row_versions import RowVersions, row_states, versions_query
from common.dialects.postgresql.rows import Rows
from common.dialects.postgresql.shapes import image_expression, key_expression
from common.dialects.postgresql.standing import PostgresStandingLook
from common.dialects.postgresql.standing_triggers import WITHOUT_TRIGGERS, asked_for, has_partitioned
from common.dialects.postgresql.turn import Turn
from common.dialects.postgresql.unsealed_sql import unsealed_rows
from common.dialects.postgresql.writing import delete_rows, insert_rows
from common.errors import UncapturedError
from common.ports.dialect import BrokenReference, RowState, RowWrite, TableShape
from common.versions import Version
from common.wire.records import TableMeta

Raw = psycopg.Connection[tuple[Any, ...]]

_UNSEALED = f"""
SELECT EXISTS ({{without_triggers}}), EXISTS (
    SELECT FROM ({unsealed_rows("l.shape_id", "WHERE l.pk = ANY(%(keys)b)")}) l
    JOIN rf_shape s ON s.shape_id = l.shape_id WHERE s.table_id = %(table_id)s)
"""
_UNSEALED_OF = {partitioned: _UNSEALED.format(without_triggers=sql) for partitioned, sql in WITHOUT_TRIGGERS.items()}


class PostgresApplySession:
    """Writes rows that nobody captures and no trigger of the application sees. For one thread, within its context."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection
        self._raw: Raw = driver(connection)
        self._prepared = Prepared(self._raw)
        self._references = References(self._prepared)
        self._merged = MergedRows(self._raw)
        self._versions = RowVersions(self._prepared)
        self._turn = Turn(self._prepared)
        self._chosen: list[Chosen] = []
        self._first: list[FirstVersions] = []
        self._table_ids: dict[str, int] = {}
        self._paused: dict[str, PausedRows] = {}
        self._written: dict[str, TableShape] = {}
        """Tables of which it has not been asked since whether they have their triggers."""
        ready(connection)

    @property
    def connection(self) -> sa.Connection:
        """The same transaction, for the `rf_*` bookkeeping."""
        return self._connection

    def lock(self, table: TableShape, meta: TableMeta, pks: Sequence[bytes]) -> list[RowState]:
        """Lock rows and their version records, in key order, and return their states in the order of `pks`."""
        if not pks:
            return []
        rows = Rows.of(table, meta)
        given = {"pks": rows.keys(pks)}
        lock, versions = rows.once("lock and versions", lambda: _lock_and_versions(rows))
        with translated_for(table, self._raw.info.user):
            plan_for(self._connection, self._prepared, len(pks))
            with self._prepared.together():
                self._prepared.execute(lock, given)
                self._turn.ask()
                asked = self._prepared.execute(versions, given | {"table": table.name})
            found = asked.fetchall()
            if found[0][1] is not None:
                self._table_ids[table.name] = found[0][1]
            if found[0][2]:
                paused = self._paused[table.name] = PausedRows(self._raw, table, self._table_id(table.name))
                paused.refuse_written_meanwhile(rows, pks)
            states = row_states(found)
            self._versions.found(table.name, states)
            return states

    def images(self, table: TableShape, pks: Sequence[bytes], meta: TableMeta) -> list[bytes | None]:
        """Return the rows as they stand now as JSON objects in wire form, None where there is none."""
        if not pks:
            return []
        rows = Rows.of(table, meta)
        source = recordset(rows.key_readings(), "pks", numbered=True)
        image = escaped(image_expression(table, "t"))
        query = (
            f"SELECT r.rf_place, convert_to({image}, 'UTF8')"
            f" FROM {source} JOIN {target_rows(table)} t ON {same_key(table, 't', 'r')}"
        )
        with translated_for(table, self._raw.info.user):
            found: dict[int, bytes] = dict(self._prepared.execute(query.encode(), {"pks": rows.keys(pks)}).fetchall())
        return [found.get(place) for place in range(1, len(pks) + 1)]

    def write(self, table: TableShape, meta: TableMeta, writes: Sequence[RowWrite], *, replace: bool = False) -> None:
        """Make the rows so, set-based, and record their versions. At most one write a key."""
        if not writes:
            return
        rows = Rows.of(table, meta)
        with translated_for(table, self._raw.info.user):
            here = [write.pk for write in writes if write.image is not None and not write.aside]
            self._merged.note(rows, meta, here)
        self._write(rows, meta, writes, replace=replace)

    def _write(self, rows: Rows, meta: TableMeta, writes: Sequence[RowWrite], *, replace: bool = False) -> None:
        table = rows.table
        with translated_for(table, self._raw.info.user):
            self._references.before_write(rows, [write.pk for write in writes])
            here = [write for write in writes if write.image is not None and not write.aside]
            gone = [write.pk for write in writes if replace or write.image is None or write.aside]
            stood = self.images(table, [write.pk for write in here], meta) if replace else [None] * len(here)
            table_id = self._table_id(table.name)
            pairs = zip(here, stood, strict=True)
            with self._prepared.together():
                if gone:
                    delete_rows(self._prepared, rows, gone)
                images = [(write.image, image) for write, image in pairs if write.image is not None]
                insert_rows(self._prepared, rows, images)
                self._versions.write(table.name, table_id, writes)
            if table.name not in self._paused:
                self._written[table.name] = table
            else:
                pks, keys = [write.pk for write in writes], [write.key for write in writes]
                self._paused[table.name].remember(rows, pks, keys)

    def choose(self, table: TableShape, meta: TableMeta, write: RowWrite, resolves: Sequence[Version]) -> None:
        """Make one row so, and have it sealed as this node's own write on top of `write.version`."""
        (before,) = self.images(table, [write.pk], meta)
        # It is sent whole, whatever columns `meta` has.
        self._write(Rows.of(table, meta), meta, [write])
        (after,) = self.images(table, [write.pk], meta)
        self._chosen.append(Chosen(table, write, before, after, resolves))

    def give_first(self, table: TableShape, rows: Sequence[RowWrite], resolves: Sequence[Version]) -> None:
        """Have rows sealed just as they stand, with the weakest version."""
        self._first.append(FirstVersions(table, rows, resolves))

    def unsealed(self, table: TableShape, keys: Sequence[str]) -> bool:
        """Tell whether a local write of one of these rows is committed but not sealed: then roll back, seal, retry."""
        if not keys:
            return False
        with translated():
            lows, highs = self._turn.ended_since()
            table_id = self._table_id(table.name)
            given = {"lows": lows, "highs": highs, "keys": list(keys), "table_id": table_id}
            asked = {} if table.name in self._paused else {table_id: table}
            query = _UNSEALED_OF[has_partitioned([table])].encode()
            found = self._prepared.execute(query, given | asked_for(asked)).fetchone()
        self._written.pop(table.name, None)
        if found is None or found[0]:
            raise UncapturedError(table.name)
        return bool(found[1])

    def has_references(self, table: TableShape) -> bool:
        """Tell whether `table` declares a foreign key, or is pointed to by one."""
        with translated():
            return bool(table.foreign_keys) or self._references.is_pointed_to(table)

    def broken_references(
        self, table: TableShape, meta: TableMeta, written: Sequence[RowWrite], deleted: Sequence[RowWrite]
    ) -> list[BrokenReference]:
        """Check the declared foreign keys of written rows, and of rows that point to deleted ones.

        Locks the parents, so that no local writer deletes one before the commit. Returns at most a few."""
        rows = Rows.of(table, meta)
        with translated_for(table, self._raw.info.user):
            without_parent = broken(self._references.without_parent(rows, [write.pk for write in written]))
            return without_parent + broken(self._references.left_behind(rows, [write.pk for write in deleted]))

    def plain(self) -> PostgresPlain:
        """Return what writes rows that meet just what they were made on."""
        return PostgresPlain(self._connection, self._prepared, self._turn, self._references)

    def look(self, tables: Mapping[str, TableShape]) -> PostgresStandingLook:
        """Return what looks at unique values and references."""
        return PostgresStandingLook(self._raw, tables)

    def finish(self) -> None:
        """End the transaction's own work: what it merged is to be sealed. Just before the commit."""
        with translated():
            self._merged.log()
            log_choices(self._raw, self._chosen)
            log_first(self._raw, self._first)
            if self._written:
                self._refuse_uncaptured(list(self._written.values()))

    def _refuse_uncaptured(self, tables: Sequence[TableShape]) -> None:
        """Of tables that were written after `unsealed` was asked of them, or without it."""
        asked = asked_for({self._table_id(table.name): table for table in tables})
        found = self._prepared.execute(WITHOUT_TRIGGERS[has_partitioned(tables)].encode(), asked).fetchone()
        if found is not None:
            raise UncapturedError(tables[found[0] - 1].name)

    def _table_id(self, name: str) -> int:
        known = self._table_ids.get(name)
        if known is None:
            known = self._table_ids[name] = Registry(self._raw).add_table(name)
        return known


def _lock_and_versions(rows: Rows) -> tuple[str, str]:
    source = recordset(rows.key_readings(), "pks", numbered=True)
    key = escaped(key_expression(rows.table, "r"))
    return lock_sql(rows.table, source), versions_query(f"SELECT {key} AS key, r.rf_place FROM {source} OFFSET 0")
