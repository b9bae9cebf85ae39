"""Of which deleted rows nothing is known any more: the highest version of the tombstones that were purged, by table.

An older change to a row that is not here and of which nothing is known may be one of a deleted row: it is set aside,
and never brings it back, whichever way it comes."""

from collections.abc import Mapping

import sqlalchemy as sa

from common.errors import PoisonError, Reason
from common.schema import tables as rf
from common.versions import Version

_READ = "SELECT t.name, h.main_epoch, h.hlc, h.node_id FROM rf_horizon h JOIN rf_table t ON t.table_id = h.table_id"


class Horizons:
    """The horizons as one call sees them. Ask only once the rows' versions were read: who forgets a tombstone raises
    the horizon with it."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection
        self._known: dict[str, Version] | None = None

    def is_beyond(self, table: str, version: Version) -> bool:
        """Tell whether a tombstone above `version` may have been forgotten."""
        if self._known is None:
            rows = self._connection.exec_driver_sql(_READ)
            self._known = {name: Version(epoch, hlc, node) for name, epoch, hlc, node in rows}
        horizon = self._known.get(table)
        return horizon is not None and version <= horizon


def older_than_tombstones(table: str, pk: str) -> PoisonError:
    """Return the fault of a change that may be of a deleted row."""
    text = (
        f"{table} {pk} is not here, and this change of it is older than deletes that are forgotten by now "
        "(limits.tombstone_days): the row may have been deleted since. If it shall be there, insert it anew"
    )
    return PoisonError(Reason.OLDER_THAN_TOMBSTONES, text, table=table)


def raise_horizon(connection: sa.Connection, gone: Mapping[int, Version]) -> None:
    """Note what was purged, in the transaction that purges it. `gone`: the highest version by the table's number."""
    table = rf.horizon
    for table_id, version in gone.items():
        row = connection.execute(sa.select(table).where(table.c.table_id == table_id)).one_or_none()
        values = {"main_epoch": version.main_epoch, "hlc": version.hlc, "node_id": version.node_id}
        if row is None:
            connection.execute(sa.insert(table).values(table_id=table_id, **values))
        elif version > Version(row.main_epoch, row.hlc, row.node_id):
            connection.execute(sa.update(table).where(table.c.table_id == table_id).values(values))
