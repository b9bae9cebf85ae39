"""How this database would give an image back: nodes compare what their rows hold, not how a sender wrote it."""

from common.ports.dialect import ApplySession, RowWrite
from common.versions import NEVER
from common.wire.records import Change
from consumer.tables import TableUse


def as_stored(session: ApplySession, use: TableUse, change: Change, key: str) -> bytes | None:
    """Return the image of `change` as its row would be read here. Writes it, reads it, and takes it back."""
    if change.image is None:
        return None
    pk = bytes(change.pk)
    trial = session.connection.begin_nested()
    try:
        session.write(use.shape, use.meta, [RowWrite(key, pk, change.image, change.version, change.base or NEVER)])
        return session.images(use.shape, [pk], use.meta)[0]
    finally:
        trial.rollback()
