"""How this database would give an image back: nodes compare what their rows hold, not how a sender wrote it."""

from common.errors import PoisonError, Reason
from common.ports.dialect import ApplySession, RowWrite
from common.ports.standing import Proposal
from common.versions import NEVER
from common.wire.records import Change
from consumer.tables import TableUse


def as_stored(session: ApplySession, use: TableUse, change: Change, key: str) -> bytes | None:
    """Return the image of `change` as its row would be read here."""
    return None if change.image is None else stored_form(session, use, bytes(change.pk), change.image, key)


def stored_form(session: ApplySession, use: TableUse, pk: bytes, image: bytes, key: str) -> bytes | None:
    """Return `image` as its row would be read here. Writes it, reads it, and takes it back.

    Where another row is in its way it is only looked at."""
    trial = session.connection.begin_nested()
    try:
        session.write(use.shape, use.meta, [RowWrite(key, pk, image, NEVER, NEVER)])
        return session.images(use.shape, [pk], use.meta)[0]
    except PoisonError as error:
        if error.reason is not Reason.CONSTRAINT:
            raise
    finally:
        trial.rollback()
    (facts,) = session.look({use.name: use.shape}).examine(use.shape, use.meta, [Proposal(key, pk, image)])
    return facts.image.encode()
