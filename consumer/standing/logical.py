"""A session that shows rows as they are logically: one that has stepped back has its image all the same."""

from collections.abc import Mapping, Sequence

import sqlalchemy as sa

from common.ports.dialect import ApplySession, BrokenReference, RowState, RowWrite, TableShape
from common.ports.plain import PlainWriting
from common.ports.standing import StandingLook
from common.versions import Version
from common.wire.records import TableMeta
from consumer.standing.store import Copies


class LogicalSession:
    """An `ApplySession` for those who decide between images. Everything but `images` is the database's own."""

    def __init__(self, session: ApplySession) -> None:
        self._session = session
        self._copies = Copies(session.connection)

    @property
    def connection(self) -> sa.Connection:
        """The same transaction."""
        return self._session.connection

    def images(self, table: TableShape, pks: Sequence[bytes], meta: TableMeta) -> list[bytes | None]:
        """Return the rows' images, also of those that have stepped back."""
        found = self._session.images(table, pks, meta)
        if None not in found:
            return found
        states = self._session.lock(table, meta, pks)
        missing = [state.key for state, image in zip(states, found, strict=True) if image is None]
        copies = self._copies.get(table.name, missing)
        valid = {key: copy.facts.image.encode() for key, copy in copies.items()}
        current = {state.key for state in states if state.key in copies and copies[state.key].is_of(state.version)}
        return [
            valid[state.key] if image is None and state.key in current else image
            for state, image in zip(states, found, strict=True)
        ]

    def lock(self, table: TableShape, meta: TableMeta, pks: Sequence[bytes]) -> list[RowState]:
        """See `ApplySession`."""
        return self._session.lock(table, meta, pks)

    def write(self, table: TableShape, meta: TableMeta, writes: Sequence[RowWrite], *, replace: bool = False) -> None:
        """See `ApplySession`."""
        self._session.write(table, meta, writes, replace=replace)

    def choose(self, table: TableShape, meta: TableMeta, write: RowWrite, resolves: Sequence[Version]) -> None:
        """See `ApplySession`."""
        self._session.choose(table, meta, write, resolves)

    def give_first(self, table: TableShape, rows: Sequence[RowWrite], resolves: Sequence[Version]) -> None:
        """See `ApplySession`."""
        self._session.give_first(table, rows, resolves)

    def unsealed(self, table: TableShape, keys: Sequence[str]) -> bool:
        """See `ApplySession`."""
        return self._session.unsealed(table, keys)

    def has_references(self, table: TableShape) -> bool:
        """See `ApplySession`."""
        return self._session.has_references(table)

    def broken_references(
        self, table: TableShape, meta: TableMeta, written: Sequence[RowWrite], deleted: Sequence[RowWrite]
    ) -> list[BrokenReference]:
        """See `ApplySession`."""
        return self._session.broken_references(table, meta, written, deleted)

    def plain(self) -> PlainWriting | None:
        """See `ApplySession`."""
        return self._session.plain()

    def look(self, tables: Mapping[str, TableShape]) -> StandingLook:
        """See `ApplySession`."""
        return self._session.look(tables)
