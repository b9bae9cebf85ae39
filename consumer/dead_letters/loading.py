"""From a dead letter back to a tx that can be applied."""

import msgspec
import sqlalchemy as sa

from common.errors import PoisonError, Reason
from common.ports.dialect import BY_SEALING
from common.wire.decode import Broken, read_body
from common.wire.proving import is_proven, part_fault
from common.wire.records import Part
from common.wire.signing import Trust
from consumer import audit
from consumer.arrivals import whole
from consumer.dead_letters.table_store import Letter, body_of
from consumer.dedup import UNPROVEN_REASONS
from consumer.inbox import has_parts, stored_tx, unproven_parts
from consumer.incoming import Incoming

_MAY_BE_ANSWERED_FOR = frozenset({Reason.SOURCE, Reason.UNSIGNED, Reason.UNKNOWN_KEY})
"""Not a signature that is wrong: these are not the bytes that were signed."""


def load(
    connection: sa.Connection,
    letter: Letter,
    trust: Trust,
    replayed_by: str | None = None,
    *,
    trust_source: bool = False,
) -> Incoming:
    """Return the tx of a letter. What can't be applied comes back with its `error`.

    Signatures are looked at again by `trust`: a key may have come since, or gone. `trust_source`: somebody answers for
    a batch whose sender could not prove to be its source."""
    tx = _loaded(connection, letter, trust, replayed_by, trust_source=trust_source)
    return msgspec.structs.replace(tx, applied=letter.applied, letter=(letter.source_node, letter.tx_id))


def _loaded(
    connection: sa.Connection, letter: Letter, trust: Trust, replayed_by: str | None, *, trust_source: bool
) -> Incoming:
    key = letter.source_node, letter.tx_id
    body = body_of(connection, *key)
    if body is None:
        if has_parts(connection, key):
            tx = stored_tx(connection, key, letter.origin, replayed_by)
            faults = [fault for _, fault in unproven_parts(connection, key, trust)]
            return _unproven(msgspec.structs.replace(tx, error=faults[0])) if faults else tx
        gone = PoisonError(Reason.FORMAT, "the letter's bytes are gone")
        return Incoming(*key, letter.origin, None, b"", error=gone, replayed_by=replayed_by)
    if letter.origin == BY_SEALING:
        own = PoisonError(Reason(letter.reason), letter.error, table=letter.table_name)
        return Incoming(*key, letter.origin, None, body, error=own, replayed_by=replayed_by)
    answered_for = trust_source and letter.reason in _MAY_BE_ANSWERED_FOR
    tx = from_bytes(body, key, letter.origin, None if answered_for else trust)
    if tx.error is not None and tx.error.reason in UNPROVEN_REASONS:
        return _unproven(msgspec.structs.replace(tx, replayed_by=replayed_by))
    vouched = answered_for or letter.reason in UNPROVEN_REASONS
    # What ended the process was never read, so it has a name made from its bytes; who sent it is known.
    vouched = vouched or (letter.reason == Reason.CRASH and tx.source_node == letter.source_node)
    if tx.key != key and not vouched and not _is_proven(body, trust):
        # It stands under another name because it can't be believed under its own; that has not changed.
        error = PoisonError(Reason(letter.reason), letter.error, table=letter.table_name)
        tx = Incoming(*key, letter.origin, None, body, error=error)
    return msgspec.structs.replace(tx, replayed_by=replayed_by)


def _unproven(tx: Incoming) -> Incoming:
    """Return a letter's tx as one that somebody asked for: its bytes are the letter, no damaged copy beside it."""
    return msgspec.structs.replace(tx, replayed_by=tx.replayed_by or audit.APPLIER)


def _is_proven(body: bytes, trust: Trust) -> bool:
    match read_body(body):
        case [Part() as part]:
            return is_proven(part, trust)
        case _:
            return False


def from_bytes(body: bytes, key: tuple[str, str], origin: str, trust: Trust | None = None) -> Incoming:
    """Return the one batch in `body`, under `key` where the bytes can't be read, or believed by `trust`."""
    items = read_body(body)
    error: PoisonError | None
    match items:
        case [Part() as part] if trust is not None and (error := part_fault(part, trust)) is not None:
            pass
        case [Part() as part] if part.header.parts == 1:
            return whole(part, origin)
        case [Part() as part]:
            error = PoisonError(Reason.CONTENT, f"part {part.header.part} of {part.header.parts} alone is no tx")
        case [Broken() as broken, *_]:
            error = broken.error
        case _:
            error = PoisonError(Reason.FORMAT, "holds no batch, or several")
    header = items[0].header if items else None
    believed = header is not None and (header.source_node, header.tx_id) == key
    return Incoming(*key, origin, header if believed else None, body, error=error)
