"""Why a row may differ from everybody else's: what of it waits on this node, or was set aside."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress

import sqlalchemy as sa

from common.errors import PoisonError
from common.schema import tables as rf
from common.wire.changes import TxReader
from common.wire.digests import Cause
from common.wire.forms import Form
from common.wire.records import Change
from common.wire.row_digests import RowForm
from consumer.conflict.record import State
from consumer.dead_letters.loading import load
from consumer.dead_letters.table_store import Selection, find_newest
from consumer.inbox import stored_payloads
from consumer.incoming import Incoming
from consumer.verifying.moment import Moment

MOST_LETTERS = 5_000
"""So many open dead letters are looked into at most, the newest."""


class Causes:
    """Of the rows of one moment; read when the first row asks."""

    def __init__(self, moment: Moment, forms: Mapping[str, Mapping[str, Form]]) -> None:
        """`forms`: of the columns that count, by table."""
        self._moment = moment
        self._forms = forms
        self._in_letters: set[tuple[str, bytes]] | None = None
        self._waiting: dict[str, set[str]] = {}

    def of(self, table: str, key: str, digest: bytes) -> Cause | None:
        """Return why a row that has not stepped back may differ. `key`: the dialect's; `digest`: of the key."""
        if table not in self._waiting:
            self._waiting[table] = self._conflicts(table)
        if key in self._waiting[table]:
            return "conflict"
        if self._in_letters is None:
            self._in_letters = set(self._letters())
        return "dead-letter" if (table, digest) in self._in_letters else None

    def _conflicts(self, table: str) -> set[str]:
        met = rf.conflict.c
        query = sa.select(met.row_key).where(met.table_name == table, met.state == State.WAITING.value)
        return set(self._moment.look.connection.execute(query).scalars())

    def _letters(self) -> Iterator[tuple[str, bytes]]:
        connection, trust = self._moment.look.connection, self._moment.node.config.trust()
        for letter in find_newest(connection, Selection(), MOST_LETTERS):
            tx = load(connection, letter, trust)
            if tx.header is None:
                continue
            keys = {
                name: RowForm(meta.pk, meta.columns, {one: self._forms[name][one] for one in meta.pk})
                for name, meta in tx.header.tables.items()
                if name in self._forms and set(meta.pk) == set(self._moment.shapes[name].pk)
            }
            for change in self._changes(tx) if keys else ():
                if change.table in keys and change.lsn not in letter.applied:
                    with suppress(PoisonError):
                        yield change.table, keys[change.table].key(bytes(change.pk))

    def _changes(self, tx: Incoming) -> Iterable[Change]:
        if tx.header is None:
            return
        stored = stored_payloads(self._moment.look.connection, tx.key)
        try:
            yield from TxReader(tx.header, stored() if tx.payload is None else [tx.payload])
        except PoisonError:
            # It was set aside for that: what could be read until there counts.
            return
