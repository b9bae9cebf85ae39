"""Log rows that are committed and not sealed: what ended between two snapshots, and what was set aside before.

Read by the index, whatever the planner thinks that there is of them: a join with the log may read all of it, each time.
"""

ENDED_ROWS = """
    unnest(%(lows)s::xid8[], %(highs)s::xid8[]) AS ended(low, high)
    CROSS JOIN LATERAL (SELECT * FROM rf_change_log l WHERE l.xid >= ended.low AND l.xid < ended.high OFFSET 0) l
"""
"""`l`, as what a SELECT reads from."""
_PENDING_ROWS = """
    (SELECT unnest(xids) AS xid FROM rf_seal_pending) p
    CROSS JOIN LATERAL (SELECT * FROM rf_change_log l WHERE l.xid = p.xid OFFSET 0) l
"""


def unsealed_rows(columns: str, where: str = "") -> str:
    """Return a query for both. `columns`, `where`: of `l`."""
    return f"SELECT {columns} FROM {ENDED_ROWS} {where} UNION ALL SELECT {columns} FROM {_PENDING_ROWS} {where}"
