"""Whether a node was put back to an earlier state: then what it lacks of its own log has to be known before it gives
rows, or is given any, for what looks like rows that differ may be rows that it has lost."""

from collections.abc import Iterable

import sqlalchemy as sa

from common.clock import from_iso
from common.errors import UsageError
from common.ids import tx_id_us
from common.ops.rewinding import Seen, own_rewinding
from common.runtime.node import Node
from common.schema import tables as rf
from common.wire.control import MOST_SEEN, SeenLog
from common.wire.digests import Head
from common.wire.signing import NO_PROOF, Purpose
from consumer.dead_letters.states import LetterState
from consumer.heartbeats import SEALING_US
from consumer.own_seen import note_seen
from consumer.statements import reading
from consumer.watermark import read_all


def refuse_put_back(node: Node, what: str) -> None:
    """Raise UsageError where this node was put back."""
    with reading(node.database) as connection:
        if own_rewinding(connection) is not None:
            raise UsageError(f"this node was restored to an earlier state: run `rowferry rejoin`, then {what}")


def seen_of(node: Node, peer: str) -> list[SeenLog]:
    """Return up to where this node has had the logs of a peer."""
    with reading(node.database) as connection:
        marks = [mark for mark, _ in read_all(connection).values() if mark.source_node == peer and mark.last_tx_id]
    latest = sorted(marks, key=lambda mark: mark.last_tx_id or "")[-MOST_SEEN:]
    return [SeenLog(incarnation=mark.incarnation, lsn=mark.last_lsn, tx_id=mark.last_tx_id) for mark in latest]


def note_seen_by(node: Node, peer: str, seen: Iterable[SeenLog]) -> None:
    """Keep that this node was put back where a peer has had more, or other things, of its logs."""
    if node.config.trust().fault(peer, Purpose.DIGESTS, "", NO_PROOF) is not None:
        # It would have to sign, as it does what it says over other ways.
        return
    for one in seen:
        note_seen(node, Seen(peer, one.incarnation, one.lsn, one.tx_id))


def refuse_peer_put_back(node: Node, there: Head, what: str, *, is_written: bool) -> None:
    """Raise UsageError where the other side was put back, by what it says of itself or by what this node has had of
    its log. `is_written`: `there` comes from a file, which may be older than what came since."""
    with reading(node.database) as connection:
        why = _put_back(connection, there, is_written=is_written)
    if why is None:
        return
    peer = there.source_node
    remedy = f"run `rowferry rejoin` at {peer}, then {what}"
    if is_written:
        remedy = (
            f"once {peer} has heard of it (`rowferry run` here and there) run `rowferry rejoin` there, "
            f"write a new file (`rowferry verify --export`), then {what}"
        )
    raise UsageError(f"{peer} was restored to an earlier state: {why}; {remedy}")


def _put_back(connection: sa.Connection, there: Head, *, is_written: bool) -> str | None:
    peer = there.source_node
    if there.rewound:
        return "it knows that itself"
    known = rf.node.c
    said = sa.select(known.head_lsn).where(
        known.node_id == peer,
        known.is_self.is_(False),
        known.rewound_us.is_not(None),
        known.head_incarnation == there.incarnation,
    )
    letter = rf.dead_letter.c
    parked = sa.select(letter.tx_id).where(
        letter.source_node == peer,
        letter.incarnation == there.incarnation,
        letter.state == LetterState.FORKED.value,
    )
    ends = {incarnation: lsn for node_id, incarnation, lsn, _ in there.marks if node_id == peer}
    for (source, incarnation), (mark, _) in sorted(read_all(connection).items()):
        end = ends.get(incarnation)
        # Of a log that it does not know it was set up anew, under its old name.
        if source != peer or end is None or mark.last_lsn <= end or mark.last_tx_id is None:
            continue
        if is_written and tx_id_us(mark.last_tx_id) + SEALING_US >= from_iso(there.at):
            # Sealed since, as far as can be told.
            continue
        return f"its log ends at LSN {end}, but this node has received it up to LSN {mark.last_lsn}"
    found = connection.execute(said).one_or_none()
    if found is not None:
        return f"its heartbeat showed another log than this node has received (up to LSN {found.head_lsn})"
    if (tx_id := connection.scalar(parked.limit(1))) is not None:
        return f"it has used LSNs again: {tx_id} is parked here as forked"
    return None
