"""One applying transaction: rows, versions, what is not sealed yet, and foreign keys; nothing of it is captured."""

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, islice

import sqlalchemy as sa

from common.dialects.sqlite.catalog import Reference, SchemaCache, SqliteTable
from common.dialects.sqlite.choices import Choices
from common.dialects.sqlite.decoding import ImageDecoder, spell_decimals_as_in_the_key
from common.dialects.sqlite.digests import RowDigests
from common.dialects.sqlite.errors import translating
from common.dialects.sqlite.guards import forget_displacing
from common.dialects.sqlite.key_ranges import go_on_where_needed
from common.dialects.sqlite.merged import MergedRows
from common.dialects.sqlite.names import log_table
from common.dialects.sqlite.paused import paused_names, uncompared, written_meanwhile
from common.dialects.sqlite.references import GoneKey, ReferenceCheck
from common.dialects.sqlite.renamed import table_id_of
from common.dialects.sqlite.rows import TableRows, by_columns, naming_the_table
from common.dialects.sqlite.shapes import ImageEncoder, TouchLog, stored_shape
from common.dialects.sqlite.standing import SqliteStandingLook
from common.dialects.sqlite.standing_triggers import StandingTriggers, is_captured
from common.dialects.sqlite.values import Row, Value, is_float_zero, key_text
from common.dialects.sqlite.versions import Record, read_versions, write_versions
from common.errors import PausedError, PoisonError, Reason, UncapturedError
from common.ports.dialect import BrokenReference, RowState, RowWrite, TableShape
from common.versions import NEVER, Version
from common.wire.records import TableMeta

_A_FEW = 10
_MOST_TOUCHES = 20_000
"""With more of them unsealed than this, sealing first is cheaper than looking through them."""
_ABSENT = Record(NEVER, NEVER, False)


class SqliteApplySession:
    """See `common.ports.dialect.ApplySession`. SQLite's one write lock stands for every row lock."""

    def __init__(
        self, connection: sa.Connection, raw: sqlite3.Connection, schemas: SchemaCache, triggers: StandingTriggers
    ) -> None:
        self._connection = connection
        self._raw = raw
        self._schema = schemas.read(raw)
        self._logs = schemas.touch_logs(raw)
        self._references = ReferenceCheck(raw, self._schema)
        self._table_ids: dict[str, int] = {}
        self._merged = MergedRows(raw, self._logs)
        self._choices = Choices(raw, self._logs)
        self._gone: dict[str, list[GoneKey]] = {}
        self._inserted: set[str] = set()
        """Tables that got rows."""
        self._paused = paused_names(raw)
        self._uncompared = uncompared(raw)
        self._without_triggers = triggers.missing(raw, self._schema)
        self._missed: set[tuple[str, str]] = set()
        """Rows, by table and key, of which comparing has yet to tell what was written."""

    @property
    def connection(self) -> sa.Connection:
        """The same transaction, for the bookkeeping."""
        return self._connection

    def lock(self, table: TableShape, meta: TableMeta, pks: Sequence[bytes]) -> list[RowState]:
        """Return the rows' states in the order of `pks`; the transaction holds the write lock already."""
        known = self._table(table)
        decoder = ImageDecoder(known, meta)
        named = [decoder.key(pk) for pk in pks]
        keys = [key_text(key) for key in named]
        with translating():
            if table.name in self._paused:
                self._refuse_written_meanwhile(known, named)
            elif table.name in self._without_triggers and is_captured(self._raw, table.name):
                raise UncapturedError(table.name)
            elif self._table_id(table) in self._uncompared and self._is_captured(known):
                found = written_meanwhile(self._raw, known, self._table_id(table), named)
                self._missed.update((table.name, key_text(key)) for key in found)
            records = read_versions(self._raw, self._table_id(table), keys)
        states = []
        for key in keys:
            record = records.get(key, _ABSENT)
            states.append(RowState(key, record.version, record.base, record.deleted, key in records))
        return states

    def images(self, table: TableShape, pks: Sequence[bytes], meta: TableMeta) -> list[bytes | None]:
        """Return the rows as they stand now, in wire form under this database's own types."""
        known = self._table(table)
        decoder, rows = ImageDecoder(known, meta), TableRows(self._raw, known)
        encoder = ImageEncoder(stored_shape(known.shape))
        names = [column.name for column in known.shape.written]
        with translating():
            found = rows.find([decoder.key(pk) for pk in pks], names)
        return [None if row is None else encoder.image(row) for row in found]

    def write(self, table: TableShape, meta: TableMeta, writes: Sequence[RowWrite], *, replace: bool = False) -> None:
        """Make the rows so and record their versions."""
        with translating():
            updated = self._write(table, meta, writes, replace=replace)
            self._merged.note(self._table(table), self._table_id(table), meta, updated)

    def _write(
        self, table: TableShape, meta: TableMeta, writes: Sequence[RowWrite], *, replace: bool = False
    ) -> list[Row]:
        """Return the keys of the rows that stood before and still do."""
        known = self._table(table)
        decoder = ImageDecoder(known, meta)
        images = [None if one.aside else one.image for one in writes]
        wanted = [
            (decoder.key(one.pk), None if image is None else decoder.image(image))
            for one, image in zip(writes, images, strict=True)
        ]
        spell_decimals_as_in_the_key(meta, table.pk, wanted)
        with translating(), naming_the_table(known):
            updated = self._write_rows(known, wanted, replace=replace)
            table_id = self._table_id(table)
            digests = RowDigests(self._raw, known, self._logs, paused=table.name in self._paused).of(wanted)
            write_versions(
                self._raw,
                (
                    (table_id, one.key, Record(one.version, one.base, one.image is None, digest))
                    for one, digest in zip(writes, digests, strict=True)
                ),
            )
        return updated

    def choose(self, table: TableShape, meta: TableMeta, write: RowWrite, resolves: Sequence[Version]) -> None:
        """Make one row so, and have it sealed as this node's own write on top of `write.version`."""
        known = self._table(table)
        with translating():
            key = ImageDecoder(known, meta).key(write.pk)
            self._choices.note(known, self._table_id(table), key, write.version, resolves)
        # It is sent whole, whatever columns `meta` has.
        self._write(table, meta, [write])

    def give_first(self, table: TableShape, rows: Sequence[RowWrite], resolves: Sequence[Version]) -> None:
        """Have rows sealed just as they stand, with the weakest version."""
        known = self._table(table)
        with translating():
            decoder = ImageDecoder(known, table.meta)
            self._choices.note_first(known, self._table_id(table), [decoder.key(row.pk) for row in rows], resolves)

    def unsealed(self, table: TableShape, keys: Sequence[str]) -> bool:
        """Tell whether a local write of one of these rows is committed but not sealed."""
        wanted = set(keys)
        if any((table.name, key) in self._missed for key in wanted):
            return True
        with translating():
            table_id = self._table_id(table)
            return any(self._touched(log, wanted) for log in self._logs if log.table_id == table_id)

    def has_references(self, table: TableShape) -> bool:
        """Tell whether `table` declares a foreign key, or is pointed to by one."""
        return bool(table.foreign_keys or self._pointing(self._table(table)))

    def broken_references(
        self, table: TableShape, meta: TableMeta, written: Sequence[RowWrite], deleted: Sequence[RowWrite]
    ) -> list[BrokenReference]:
        """Check written rows, and what points to parent keys that this session's writes have taken away."""
        known = self._table(table)
        decoder = ImageDecoder(known, meta)
        keys = (decoder.key(one.pk) for one in written)
        asked = {one.key for one in chain(written, deleted)}
        gone = [one for one in self._gone.get(known.shape.name, []) if one.key in asked]
        with translating():
            found = chain(self._references.orphans(known, keys), self._references.abandoned(known, gone))
            return list(islice(found, _A_FEW))

    def plain(self) -> None:
        """Return None: to look at rows one by one costs no round trip here."""

    def look(self, tables: Mapping[str, TableShape]) -> SqliteStandingLook:
        """Return what looks at unique values and references."""
        return SqliteStandingLook(self._raw, self._schema, tables)

    def finish(self) -> None:
        """End the transaction's own work: what it merged is to be sealed. Just before the commit."""
        with translating():
            self._merged.touch()
            self._choices.touch()
            # A row that steps back leaves its key: what was noted of it must not be held against a new one.
            forget_displacing(self._raw)
            go_on_where_needed(self._raw, self._inserted)

    def _refuse_written_meanwhile(self, table: SqliteTable, keys: Sequence[Row]) -> None:
        """Of a paused table: what its owner wrote has no version yet, and nobody may overwrite it before it has."""
        found = written_meanwhile(self._raw, table, self._table_id(table.shape), keys)
        logs = [log for log in self._logs if log.shape.table == table.shape.name]
        for key in found:
            text = key_text(key)
            # What was written before the pause, and waits for the sealer, `unsealed` will find.
            if not any(self._touched(log, {text}) for log in logs):
                raise PausedError(table.shape.name, text)

    def _is_captured(self, table: SqliteTable) -> bool:
        """Tell whether the sealer can compare its rows now: else the owner's writes would stop others' for good."""
        wanted = self._table_id(table.shape), stored_shape(table.shape)
        return any(log.current and (log.table_id, log.shape) == wanted for log in self._logs)

    def _table(self, shape: TableShape) -> SqliteTable:
        known = self._schema.tables.get(shape.name)
        if known is None:
            raise PoisonError(Reason.UNKNOWN_TABLE, f"{shape.name} is no longer here", table=shape.name)
        return known

    def _table_id(self, table: TableShape) -> int:
        if table.name not in self._table_ids:
            self._table_ids[table.name] = table_id_of(self._raw, table.name)
        return self._table_ids[table.name]

    def _write_rows(
        self, table: SqliteTable, wanted: Sequence[tuple[Row, dict[str, Value] | None]], *, replace: bool
    ) -> list[Row]:
        """Deletes first, so that unique values are free again; then updates, then inserts.

        Returns the keys of the rows that stood before and still do."""
        rows = TableRows(self._raw, table)
        kept = [column.name for column in table.shape.written] if replace else _pointed_at(self._pointing(table))
        removed: list[Row] = []
        updated: list[Row] = []
        changed: list[tuple[Row, dict[str, Value]]] = []
        fresh: list[tuple[Row, dict[str, Value]]] = []
        for (key, image), found in zip(wanted, rows.find([key for key, _ in wanted], kept), strict=True):
            old = None if found is None else dict(zip(kept, found, strict=True))
            if old is not None:
                self._note_gone(table, key, old, image)
                if image is None or replace:
                    removed.append(key)
            if image is not None:
                updated += [] if old is None else [key]
                named = dict(zip(table.shape.pk, key, strict=True))
                if old is None or replace:
                    fresh.append((key, {**(old or {}), **named, **image}))
                else:
                    changed.append((key, _besides_key(named, image)))
        if fresh:
            self._inserted.add(table.shape.name)
        rows.delete(removed)
        for columns, some in by_columns(changed).items():
            rows.update(columns, ((values, key) for key, values in some))
        for columns, some in by_columns(fresh).items():
            rows.insert(columns, [values for _, values in some])
        return updated

    def _pointing(self, table: SqliteTable) -> tuple[Reference, ...]:
        return self._references.references_to(table)

    def _note_gone(self, table: SqliteTable, key: Row, old: dict[str, Value], image: dict[str, Value] | None) -> None:
        """Remember what others may point to and what this write takes away."""
        for reference in self._pointing(table):
            before = tuple(old[name] for name in reference.parent_columns)
            after = None if image is None else tuple(image.get(name, old[name]) for name in reference.parent_columns)
            if after is None or key_text(before) != key_text(after):
                self._gone.setdefault(table.shape.name, []).append(GoneKey(key_text(key), reference, before))

    def _touched(self, log: TouchLog, wanted: set[str]) -> bool:
        """Tell whether the touch log has one of these keys; also true when there is too much to look through."""
        columns = ", ".join(f"c{place}" for place in log.key_places)
        query = f"SELECT {columns} FROM {log_table(log.shape_id)} LIMIT ?"
        touched = self._raw.execute(query, (_MOST_TOUCHES + 1,)).fetchall()
        return len(touched) > _MOST_TOUCHES or any(key_text(key) in wanted for key in touched)


def _besides_key(key: dict[str, Value], image: dict[str, Value]) -> dict[str, Value]:
    """Leave the key's columns out: they are the same, but for the sign of a zero."""
    return {name: value for name, value in image.items() if name not in key or is_float_zero(value)}


def _pointed_at(references: Iterable[Reference]) -> list[str]:
    """Return the columns that others point to."""
    return list(dict.fromkeys(chain.from_iterable(one.parent_columns for one in references)))
