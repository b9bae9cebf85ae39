"""Sealing goes on after the database came out of a dump or a failover: its transaction ids may have begun again."""

from typing import Any

import psycopg

from common.dialects.postgresql.sealing_sql import FILL_PENDING, PENDING_BIN
from common.dialects.postgresql.snapshots import FOREIGN_XIDS, Snapshot

Raw = psycopg.Connection[tuple[Any, ...]]

_MOVE_SEALED = f"""
WITH moved AS (
    SELECT era, lsn, xid, seq, ({FOREIGN_XIDS} + min(seq) OVER (PARTITION BY era, xid))::text::xid8 AS new_xid
    FROM rf_sealed WHERE xid < '{FOREIGN_XIDS}'),
logged AS (
    UPDATE rf_change_log l SET xid = m.new_xid FROM moved m WHERE l.xid = m.xid AND l.seq = m.seq)
UPDATE rf_sealed s SET xid = m.new_xid FROM moved m WHERE s.era = m.era AND s.lsn = m.lsn
"""

_MOVE_UNSEALED = f"""
UPDATE rf_change_log l SET xid = ({FOREIGN_XIDS} + m.first_seq)::text::xid8
FROM (SELECT xid, min(seq) AS first_seq FROM rf_change_log l
      WHERE xid < '{FOREIGN_XIDS}' AND NOT EXISTS (SELECT FROM rf_sealed s WHERE s.seq = l.seq)
      GROUP BY xid) m
WHERE l.xid = m.xid AND NOT EXISTS (SELECT FROM rf_sealed s WHERE s.seq = l.seq)
"""


def is_continued(known: str, found: str, before: Snapshot, now: Snapshot) -> bool:
    """Tell whether the remembered snapshot still means anything on the server that is found now.

    A promoted standby goes on with the same ids on another timeline; another cluster or database does not."""
    if not known:
        return now.xmax >= before.xmax
    return known.split("/")[:2] == found.split("/")[:2] and now.xmax >= before.xmax


def begin_again(raw: Raw) -> None:
    """Queue every committed change that is not sealed yet, by looking at each; the caller then remembers the snapshot.

    Reads the log once, and rewrites it: its ids belong to transactions of another server and would be given out again.
    """
    raw.execute("SELECT set_config('enable_hashjoin', 'on', true), set_config('enable_seqscan', 'on', true)")
    raw.execute("DELETE FROM rf_seal_pending")
    raw.execute(_MOVE_SEALED.encode())
    raw.execute(_MOVE_UNSEALED.encode())
    raw.execute(FILL_PENDING.encode(), {"bin": PENDING_BIN})
