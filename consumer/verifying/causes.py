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
        self._letters: dict[tuple[str, bytes], bytes] | None = None
        self._waiting: dict[str, dict[bytes, bytes]] = {}

    def of(self, table: str, digest: bytes) -> Cause | None:
        """Return why a row that has not stepped back may differ. `digest`: of its key."""
        if digest in self._conflicts(table):
            return "conflict"
        return "dead-letter" if (table, digest) in self._set_aside() else None

    def all(self, table: str) -> dict[bytes, tuple[bytes, Cause]]:
        """Return all keys of a table of which something waits or was set aside, by their digests."""
        found: dict[bytes, tuple[bytes, Cause]] = {
            digest: (pk, "dead-letter") for (name, digest), pk in self._set_aside().items() if name == table
        }
        return found | {digest: (pk, "conflict") for digest, pk in self._conflicts(table).items()}

    def _conflicts(self, table: str) -> dict[bytes, bytes]:
        if table not in self._waiting:
            met, shape, found = rf.conflict.c, self._moment.shapes[table], dict[bytes, bytes]()
            form = RowForm(shape.pk, shape.meta.columns, {name: self._forms[table][name] for name in shape.pk})
            query = sa.select(met.pk).where(met.table_name == table, met.state == State.WAITING.value)
            for text in self._moment.look.connection.execute(query).scalars():
                with suppress(PoisonError):
                    found[form.key(text.encode())] = text.encode()
            self._waiting[table] = found
        return self._waiting[table]

    def _set_aside(self) -> dict[tuple[str, bytes], bytes]:
        if self._letters is None:
            self._letters = {(table, digest): pk for table, digest, pk in self._in_letters()}
        return self._letters

    def _in_letters(self) -> Iterator[tuple[str, bytes, bytes]]:
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
                        pk = bytes(change.pk)
                        yield change.table, keys[change.table].key(pk), pk

    def _changes(self, tx: Incoming) -> Iterable[Change]:
        if tx.header is None:
            return
        stored = stored_payloads(self._moment.look.connection, tx.key)
        try:
            yield from TxReader(tx.header, stored() if tx.payload is None else [tx.payload])
        except PoisonError:
            # It was set aside for that: what could be read until there counts.
            return
