"""Rows that come back to who wrote them: whoever brings one, this node's own log shows whether it wrote it just so."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

import msgspec
import sqlalchemy as sa

from common.errors import PoisonError
from common.runtime.node import Node
from common.schema import tables as rf
from common.versions import Version
from common.wire.digests import Digested, RowLine
from common.wire.records import Change, SealedTx
from common.wire.row_digests import RowForm
from consumer.statements import reading

_READ_BYTES = 4 * 1024 * 1024
_change = msgspec.json.Decoder(Change)
_Content = tuple[str, bytes, bytes | None]
"""Table, and the digests of key and values."""


def sealed_here(node: Node, rows: Sequence[RowLine], described: Mapping[str, Digested]) -> frozenset[int]:
    """Return which of these rows (by `id`) are as this node's log has them under their versions.

    `described`: how their sender's tables look. Reads what is kept of the log once."""
    wanted: dict[tuple[Version, _Content], list[int]] = {}
    tables = {name: one for name, one in described.items() if any(row.table == name for row in rows)}
    for row in rows:
        if row.table in tables:
            with suppress(PoisonError):
                theirs = tables[row.table]
                content = _content(row.table, theirs.pk, theirs.columns, theirs, bytes(row.pk), row.image)
                wanted.setdefault((row.version, content), []).append(id(row))
    versions, found = {version for version, _ in wanted}, set[int]()
    for tx in _own_log(node) if wanted else ():
        for line in tx.lines():
            change = _change.decode(line)
            if change.version in versions and change.table in tables and change.table in tx.header.tables:
                meta = tx.header.tables[change.table]
                with suppress(PoisonError):
                    theirs = tables[change.table]
                    pk = bytes(change.pk)
                    content = _content(change.table, meta.pk, meta.columns, theirs, pk, change.image)
                    found.update(wanted.get((change.version, content), ()))
    return frozenset(found)


def _content(
    table: str, pk: Sequence[str], columns: Mapping[str, str], theirs: Digested, key: bytes, image: bytes | None
) -> _Content:
    forms = {name: form for name, form in theirs.forms.items() if name in columns}
    form = RowForm(pk, columns, forms)
    return table, form.key(key), None if image is None else form.values(image)


def _own_log(node: Node) -> Iterator[SealedTx]:
    with reading(node.database) as connection:
        incarnations = connection.execute(sa.select(rf.tx.c.incarnation).distinct()).scalars().all()
    for incarnation in incarnations:
        log, after_lsn = node.database.log(replace(node.facts, incarnation=incarnation)), 0
        while True:
            before = after_lsn
            for tx in log.read(after_lsn, _READ_BYTES):
                yield tx
                after_lsn = tx.header.to_lsn
            if after_lsn == before:
                break
