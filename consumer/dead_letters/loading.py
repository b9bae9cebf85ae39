"""From a dead letter back to a tx that can be applied."""

import msgspec
import sqlalchemy as sa

from common.errors import PoisonError, Reason
from common.wire.decode import Broken, read_body
from common.wire.records import Part
from consumer.arrivals import whole
from consumer.dead_letters.table_store import Letter, body_of
from consumer.inbox import has_parts, stored_tx
from consumer.incoming import Incoming


def load(
    connection: sa.Connection, letter: Letter, replayed_by: str | None = None, *, trust_source: bool = False
) -> Incoming:
    """Return the tx of a letter. What can't be applied comes back with its `error`.

    `trust_source`: somebody answers for a batch whose sender could not prove to be its source."""
    tx = _loaded(connection, letter, replayed_by, trust_source=trust_source)
    return msgspec.structs.replace(tx, applied=letter.applied)


def _loaded(connection: sa.Connection, letter: Letter, replayed_by: str | None, *, trust_source: bool) -> Incoming:
    key = letter.source_node, letter.tx_id
    body = body_of(connection, *key)
    if body is None:
        if has_parts(connection, key):
            return stored_tx(connection, key, letter.origin, replayed_by)
        gone = PoisonError(Reason.FORMAT, "the letter's bytes are gone")
        return Incoming(*key, letter.origin, None, b"", error=gone, replayed_by=replayed_by)
    tx = from_bytes(body, key, letter.origin)
    vouched = trust_source and letter.reason == Reason.SOURCE
    # What ended the process was never read, so it has a name made from its bytes; who sent it is known.
    vouched = vouched or (letter.reason == Reason.CRASH and tx.source_node == letter.source_node)
    if tx.key != key and not vouched:
        # It stands under another name because it can't be believed under its own; that has not changed.
        error = PoisonError(Reason(letter.reason), letter.error, table=letter.table_name)
        tx = Incoming(*key, letter.origin, None, body, error=error)
    return msgspec.structs.replace(tx, replayed_by=replayed_by)


def from_bytes(body: bytes, key: tuple[str, str], origin: str) -> Incoming:
    """Return the one batch in `body`, under `key` where the bytes can't be read."""
    items = read_body(body)
    match items:
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
