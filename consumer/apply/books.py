"""What a call keeps of the conflicts that it met, in the transaction that decides them."""

import msgspec

from common.errors import PoisonError
from common.ports.dialect import ApplySession
from common.wire.records import Change, TableMeta
from consumer import audit
from consumer.apply.decision import Closed, Entry, Written, overtaken_by
from consumer.apply.stored_form import as_stored
from consumer.conflict.choices import remember
from consumer.conflict.policies import comparable
from consumer.conflict.record import Winner, record, settle, written_as
from consumer.tables import use_of


def keep_books(session: ApplySession, written: Written, now_us: int) -> None:
    """Record conflicts and choices, and close what they settle."""
    connection = session.connection
    record(connection, written.conflicts, now_us)
    remember(connection, written.choices, now_us)
    for closed in written.closed:
        number = closed.waiting.number
        if number is not None:
            by, note = closed.by.source_node, overtaken_by(closed.by.change)
            winner = _winner(session, closed)
            settle(connection, [number], winner, by=by, note=note, now_us=now_us)
            detail = _told(closed, number, winner, note)
            line = audit.Line("resolved", closed.by.source_node, closed.by.change.tx_id, audit.APPLIER, detail)
            audit.write(connection, [line], now_us)


def _told(closed: Closed, number: int, winner: Winner, note: str) -> dict[str, object]:
    """Return what the audit says of it, as of a choice of this node.

    The key is the conflict's: where two rows clash, the change may be one of the other row. It stays as it came, for
    nothing that a peer may have put into it is read here."""
    detail = {"conflict": number, "table": closed.by.use.name, "row": closed.row_key, "note": note}
    pk = {} if closed.waiting.pk is None else {"pk": msgspec.Raw(closed.waiting.pk)}
    return detail | pk | {"winner": winner.value, "resolves": [list(version) for version in closed.by.change.resolves]}


def _winner(session: ApplySession, closed: Closed) -> Winner:
    """Whose image was chosen; nobody's where a later write overtook the conflict."""
    waiting, by = closed.waiting, closed.by
    if not by.change.resolves:
        return Winner.NEITHER
    if closed.is_of_rival:
        return Winner.OURS
    if _is_same(session, closed, waiting.image, waiting.meta):
        return Winner.THEIRS
    if waiting.is_clash:
        # Ours is another row: what this one was given instead is neither.
        return Winner.NEITHER
    return Winner.OURS if _is_same(session, closed, waiting.our_image, waiting.our_meta) else Winner.NEITHER


def _is_same(session: ApplySession, closed: Closed, image: bytes | None, meta: TableMeta | None) -> bool:
    """Tell whether the closing change made the row like `image`, however each of them is spelled."""
    chosen = closed.by.change.image
    if chosen is None or image is None or comparable(chosen) == comparable(image):
        return (chosen is None) == (image is None)
    shape = closed.by.use.shape
    use = use_of(shape, written_as(meta, image, shape.meta))
    other = Entry(_with_image(closed.by.change, image), use, closed.by.source_node, closed.by.counts)
    try:
        found = [as_stored(session, one.use, one.change, closed.row_key) for one in (closed.by, other)]
    except PoisonError:
        # It could not stand here at all, so it is not what stands.
        return False
    return comparable(found[0]) == comparable(found[1])


def _with_image(change: Change, image: bytes) -> Change:
    """Return the same change of the row to another image."""
    return msgspec.structs.replace(change, op="U", after=msgspec.Raw(image))
