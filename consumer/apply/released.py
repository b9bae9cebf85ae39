"""Changes that have waited for a clash in a unique key, in a `manual` table, once a choice settles it."""

from collections.abc import Callable, Iterator, Sequence

import msgspec
import sqlalchemy as sa

from common.config.model import Policy
from common.ports.dialect import ApplySession
from common.wire.records import NO_IMAGE
from consumer.apply.decision import Entry
from consumer.conflict.choices import waiting_clashes
from consumer.conflict.record import meta_of, read_version, written_as
from consumer.incoming import Counts
from consumer.tables import use_of


def with_released(
    session: ApplySession, entries: Sequence[Entry], policy_for: Callable[[str], Policy]
) -> Sequence[Entry]:
    """Return `entries`, and after them the changes that wait here for what one of them chooses.

    They are decided like any other, and rank tells from now on which of the rows stands."""
    chosen = [one for one in entries if one.change.resolves and policy_for(one.use.name) is Policy.MANUAL]
    return [*entries, *(each for one in chosen for each in _released(session, one))] if chosen else entries


def _released(session: ApplySession, choice: Entry) -> Iterator[Entry]:
    for row in waiting_clashes(session.connection, choice.use.name, choice.change.resolves):
        yield _entry(row, choice)


def _entry(row: sa.RowMapping, choice: Entry) -> Entry:
    image = None if row["their_image"] is None else str(row["their_image"]).encode("utf-8")
    shape = choice.use.shape
    base = None if row["their_base"] is None else read_version(row["their_base"])
    change = msgspec.structs.replace(
        choice.change,
        lsn=row["lsn"],
        tx_id=row["tx_id"],
        op="U" if base is not None else "I",
        pk=msgspec.Raw(str(row["pk"]).encode("utf-8")),
        after=NO_IMAGE if image is None else msgspec.Raw(image),
        version=read_version(row["their_version"]),
        base=base,
        resolves=(),
    )
    use = use_of(shape, written_as(meta_of(row["their_meta"]), image, shape.meta))
    # It was counted when it came.
    return Entry(change, use, row["source_node"], Counts(), choice)
