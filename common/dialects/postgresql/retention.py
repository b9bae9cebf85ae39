"""Taking old lines from the log. See `common.ports.retention`."""

import sqlalchemy as sa

from common.dialects.postgresql.arrays import number_array
from common.dialects.postgresql.connection import driver
from common.dialects.postgresql.errors import translated

_ERA = "SELECT era FROM rf_era WHERE incarnation = %(incarnation)s"
_BY_INDEX = "SELECT set_config('enable_seqscan', 'off', true), set_config('enable_hashjoin', 'off', true)"
_FIRST = """
SELECT lsn, seq, xid::text FROM rf_sealed
WHERE era = %(era)s AND lsn <= %(until_lsn)s ORDER BY lsn LIMIT %(most)s
"""
# By both: after a move to another server, transactions of before and of now may have one number.
_DROP_LINES = """
DELETE FROM rf_change_log l USING unnest(%(xids)s::xid8[], %(seqs)s::bigint[]) AS gone(xid, seq)
WHERE l.xid = gone.xid AND l.seq = gone.seq
"""
_DROP_SEALED = "DELETE FROM rf_sealed WHERE era = %(era)s AND lsn <= %(last)s"


class PostgresRetention:
    """See `common.ports.retention.Retention`."""

    def drop_lines(self, connection: sa.Connection, incarnation: str, until_lsn: int, most: int) -> int:
        """Delete the first lines of a log. A line and what says that it is sealed go together, or it would be sealed
        once more where the server is another one."""
        raw = driver(connection)
        with translated():
            era = raw.execute(_ERA, {"incarnation": incarnation}).fetchone()
            if era is None:
                return 0
            raw.execute(_BY_INDEX)
            given = {"era": era[0], "until_lsn": until_lsn, "most": most}
            found = raw.execute(_FIRST, given).fetchall()
            if not found:
                return 0
            seqs = number_array([seq for _, seq, _ in found])
            raw.execute(_DROP_LINES, {"xids": number_array([int(xid) for _, _, xid in found]), "seqs": seqs})
            raw.execute(_DROP_SEALED, {"era": era[0], "last": found[-1][0]})
            return len(found)

    def hold_versions(self, connection: sa.Connection) -> None:
        """Take the lock that the sealer and the appliers take turns by."""
        with translated():
            driver(connection).execute("SELECT FROM rf_seal FOR UPDATE")
