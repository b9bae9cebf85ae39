"""What a sealed change knows of its log row stands with it: a row, an index entry and a look less for each tx."""

from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    if op.get_bind().dialect.name != "postgresql":
        return
    # Made anew, not updated: that would leave each row twice, and the first versions of all as dead weight.
    op.execute("ALTER TABLE rf_sealed RENAME TO rf_sealed_0018")
    op.execute("ALTER INDEX rf_sealed_pkey RENAME TO rf_sealed_0018_pkey")
    op.execute(
        """
        CREATE TABLE rf_sealed (
            era integer NOT NULL,
            lsn bigint NOT NULL,
            xid xid8 NOT NULL,
            seq bigint NOT NULL,
            hlc bigint NOT NULL,
            base_hlc bigint,
            main_epoch integer NOT NULL,
            base_epoch integer,
            base_node text COLLATE "C"
        )
        """
    )
    op.execute(
        """
        INSERT INTO rf_sealed (era, lsn, xid, seq, hlc, base_hlc, main_epoch, base_epoch, base_node)
        SELECT era, lsn, xid, seq, hlc, base_hlc, main_epoch, base_epoch, base_node
        FROM rf_sealed_0018 s CROSS JOIN LATERAL (
            SELECT xid FROM rf_sealed_tx t WHERE t.era = s.era AND t.to_lsn >= s.lsn ORDER BY t.to_lsn LIMIT 1) t
        ORDER BY era, lsn
        """
    )
    op.execute("ALTER TABLE rf_sealed ADD PRIMARY KEY (era, lsn)")
    op.execute(
        "COMMENT ON TABLE rf_sealed IS 'Each sealed change: where it stands in rf_change_log (xid and seq), its LSN,"
        " version and base. Beside the log so that its rows are never rewritten.'"
    )
    op.execute("DROP TABLE rf_sealed_0018, rf_sealed_tx")
    # No two can be alike: see TxIds. SQLite looks txs up by it.
    op.execute("ALTER TABLE rf_tx DROP CONSTRAINT rf_tx_tx_id_key")
