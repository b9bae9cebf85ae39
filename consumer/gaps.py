"""What is missing of a source's log while later things of it have come."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import sqlalchemy as sa

from common.schema import tables as rf
from consumer.watermark import UNSURE, Mark, SourceKey, read_all

_MOST_LETTERS = 1_000
_SENT = sa.select(rf.node.c.node_id, rf.node.c.head_incarnation, rf.node.c.sent_lsn).where(
    rf.node.c.sent_lsn.is_not(None), rf.node.c.is_self.is_(False), rf.node.c.rewound_us.is_(None)
)
"""A rewound node has not what others had of it."""
_SURE = (rf.dead_letter.c.state != "forked", rf.dead_letter.c.reason.not_in(UNSURE))


@dataclass(frozen=True, slots=True)
class Gap:
    """The first stretch that a source's log has and this node has not, neither applied nor set aside."""

    peer: str
    incarnation: str
    after_lsn: int
    until_lsn: int

    @property
    def key(self) -> SourceKey:
        """Whose it is."""
        return self.peer, self.incarnation


def find_gaps(connection: sa.Connection) -> list[Gap]:
    """Return the first gap of each source, also below what its last heartbeat says that the broker has confirmed."""
    marks = {key: mark for key, (mark, _) in read_all(connection).items()}
    sent = {(row.node_id, row.head_incarnation): row.sent_lsn for row in connection.execute(_SENT)}
    for key in sent:
        marks.setdefault(key, Mark(*key))
    return list(_found(connection, marks.values(), sent))


def _found(connection: sa.Connection, marks: Iterable[Mark], sent: Mapping[SourceKey, int]) -> Iterator[Gap]:
    for mark in marks:
        highest_lsn = max(mark.highest_lsn, sent.get((mark.source_node, mark.incarnation), 0))
        if highest_lsn > mark.last_lsn:
            above = _next_above(connection, mark, mark.last_lsn) if mark.gap else None
            known_lsn = highest_lsn if above is None else above
            after_lsn = _after_letters(connection, mark, known_lsn)
            if after_lsn < known_lsn:
                yield Gap(mark.source_node, mark.incarnation, after_lsn, known_lsn)


def _next_above(connection: sa.Connection, mark: Mark, lsn: int) -> int | None:
    """Return where the next tx begins that was applied, or surely set aside, above `lsn`."""
    found = [
        connection.execute(
            sa.select(table.c.prev_lsn)
            .where(
                table.c.source_node == mark.source_node,
                table.c.incarnation == mark.incarnation,
                table.c.prev_lsn > lsn,
                *extra,
            )
            .order_by(table.c.prev_lsn)
            .limit(1)
        ).scalar()
        for table, extra in ((rf.applied_tx, ()), (rf.dead_letter, _SURE))
    ]
    return min((one for one in found if one is not None), default=None)


def _after_letters(connection: sa.Connection, mark: Mark, until_lsn: int) -> int:
    """Return where what is missing begins: what was set aside is not missing, also where the watermark waits before it.

    A damaged batch may lie about its LSNs, so it counts as far as what is known above it leaves room."""
    letter = rf.dead_letter.c
    query = (
        sa.select(letter.prev_lsn, letter.to_lsn)
        .where(
            letter.source_node == mark.source_node,
            letter.incarnation == mark.incarnation,
            letter.prev_lsn >= mark.last_lsn,
            letter.to_lsn <= until_lsn,
            letter.state != "forked",
        )
        .order_by(letter.prev_lsn)
        .limit(_MOST_LETTERS)
    )
    reached = mark.last_lsn
    for prev_lsn, to_lsn in connection.execute(query):
        if prev_lsn == reached:
            reached = to_lsn
    return reached
