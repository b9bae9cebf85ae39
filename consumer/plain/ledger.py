"""What is written beside the rows of plain txs, in the same commit: dedup, watermarks, peers, audit.

The same as `consumer.apply.ledger` writes for txs of which every change won."""

import json
from collections.abc import Iterable, Sequence
from functools import cache

import sqlalchemy as sa

from common.config.model import Config
from common.ports.plain import Together
from common.schema import tables as rf
from common.wire.plain import PlainTx
from consumer import audit, watermark
from consumer.apply.ledger import APPLIED
from consumer.heard import Heard, HeardOf, ask_heard, end_heard
from consumer.inbox import delete_parts
from consumer.incoming import Counts
from consumer.plain.group import Notes, PlainGroup
from consumer.statements import insert_lines
from consumer.watermark import Mark

_FEW = 5
"""So many rows go along with what else is written; more are quicker by COPY, which goes alone."""


class Ledger:
    """What follows from a group that was applied whole, within one transaction that holds the locks of its marks."""

    def __init__(self, config: Config, group: PlainGroup, notes: Notes | None, now_us: int) -> None:
        self._config = config
        self._group = group
        self._notes = notes
        self._now_us = now_us
        self._heard: list[HeardOf] = []

    def ask(self, together: Together, marks: Iterable[Mark]) -> None:
        """Write what goes in the block of the rows."""
        group, now_us = self._group, self._now_us
        moved = list(marks)
        for mark in moved:
            stretch = group.stretches[mark.source_node, mark.incarnation]
            mark.last_lsn = mark.highest_lsn = stretch.to_lsn
            mark.last_tx_id = stretch.tx_id
        watermark.ask_store(together, moved, now_us)
        heard = [
            Heard(source, incarnation, stretch.latest_us, stretch.tx_id)
            for (source, incarnation), stretch in group.stretches.items()
        ]
        self._heard = ask_heard(together, self._config, heard, now_us)
        if self._notes is None:
            for tx in group.txs:
                values = *_applied(tx), now_us, *_line(tx), now_us
                together.ask(_NOTE_AND_LINE, dict(zip(_GIVEN, values, strict=True)))

    def end(self, connection: sa.Connection, *, has_parts: bool) -> None:
        """Write the rest, after that block."""
        if self._notes is not None:
            insert_lines(connection, rf.applied_tx, APPLIED, self._notes.applied, self._now_us)
            insert_lines(connection, rf.audit, audit.COLUMNS, self._notes.audit, self._now_us)
        if has_parts:
            # A source may have begun to send a tx in parts that comes in one piece now.
            delete_parts(connection, list(self._group.keys))
        end_heard(connection, self._config, self._heard, self._now_us)


def notes_of(txs: Sequence[PlainTx]) -> Notes | None:
    """Return what `Ledger` writes of each of `txs`; None for a few, which it writes with the rest."""
    if len(txs) <= _FEW:
        return None
    # Half of the time that joining the values takes. None has a character that COPY reads as another one: ids,
    # checksums, numbers, JSON without a backslash.
    applied, line = "%s\t" * (len(APPLIED) - 1), "%s\t" * (len(audit.COLUMNS) - 1)
    return Notes([applied % _applied(tx) for tx in txs], [line % _line(tx) for tx in txs])


_GIVEN = (*(f"note_{name}" for name in APPLIED), *(f"line_{name}" for name in audit.COLUMNS))


def _insert(table: sa.Table, columns: Iterable[str], prefix: str) -> sa.Insert:
    return sa.insert(table).values({name: sa.bindparam(prefix + name, type_=table.c[name].type) for name in columns})


_NOTE_AND_LINE = _insert(rf.audit, audit.COLUMNS, "line_").add_cte(
    _insert(rf.applied_tx, APPLIED, "note_").cte("noted")
)


def _applied(tx: PlainTx) -> tuple[str | int, ...]:
    """All of `APPLIED` but the last, which is when."""
    header = tx.header
    return header.source_node, header.tx_id, header.incarnation, header.prev_lsn, header.to_lsn, tx.sha256


def _line(tx: PlainTx) -> tuple[str | int, ...]:
    """All of `audit.COLUMNS` but the last."""
    header = tx.header
    return audit.APPLIER, "applied", header.source_node, header.tx_id, _detail(header.changes)


@cache
def _detail(changes: int) -> str:
    return json.dumps(Counts(changes, won=changes).as_dict(), separators=(",", ":"))
