"""Taking old lines from the log. See `common.ports.retention`."""

import sqlalchemy as sa

_DROP = sa.text(
    "DELETE FROM rf_change_log WHERE incarnation = :incarnation AND lsn IN (SELECT lsn FROM rf_change_log"
    " WHERE incarnation = :incarnation AND lsn <= :until_lsn ORDER BY lsn LIMIT :most)"
)


class SqliteRetention:
    """See `common.ports.retention.Retention`. SQLite's one write lock keeps everybody out already."""

    def drop_lines(self, connection: sa.Connection, incarnation: str, until_lsn: int, most: int) -> int:
        """Delete the first lines of a log."""
        given = {"incarnation": incarnation, "until_lsn": until_lsn, "most": most}
        return connection.execute(_DROP, given).rowcount

    def hold_versions(self, connection: sa.Connection) -> None:
        """Take the write lock, where the transaction has not got it yet."""
        connection.exec_driver_sql("UPDATE rf_seal_turn SET turn = turn WHERE false")
