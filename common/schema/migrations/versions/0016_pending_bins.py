"""What one step of sealing leaves for the next stands in rows of some hundred changes each, not of one transaction."""

from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

_ARRAYS = ("last_seqs", "xids", "each_changes", "each_captured_us", "each_bytes", "first_shapes", "last_shapes")


def upgrade() -> None:
    if op.get_bind().dialect.name != "postgresql":
        return
    op.execute("ALTER TABLE rf_seal_pending RENAME TO rf_seal_pending_0015")
    op.execute("ALTER INDEX rf_seal_pending_pkey RENAME TO rf_seal_pending_0015_pkey")
    op.execute(
        """
        CREATE TABLE rf_seal_pending (
            last_seq bigint PRIMARY KEY,
            changes bigint NOT NULL,
            captured_us bigint NOT NULL,
            last_seqs bigint[] NOT NULL,
            xids xid8[] NOT NULL,
            each_changes integer[] NOT NULL,
            each_captured_us bigint[] NOT NULL,
            each_bytes bigint[] NOT NULL,
            first_shapes integer[] NOT NULL,
            last_shapes integer[] NOT NULL
        )
        """
    )
    # They live for a moment: to compress them costs more than to write them.
    for array in _ARRAYS:
        op.execute(f"ALTER TABLE rf_seal_pending ALTER COLUMN {array} SET STORAGE EXTERNAL")
    op.execute(
        "COMMENT ON TABLE rf_seal_pending IS 'Transactions that the stored snapshot shows as committed and that are not"
        " sealed yet, about a hundred in a row: one step had too many.'"
    )
    op.execute(
        """
        INSERT INTO rf_seal_pending
        SELECT last_seq, changes, captured_us, ARRAY[last_seq], ARRAY[xid], ARRAY[changes::integer],
               ARRAY[captured_us], ARRAY[bytes], ARRAY[(SELECT min(s) FROM unnest(shapes) s)],
               ARRAY[(SELECT max(s) FROM unnest(shapes) s)]
        FROM rf_seal_pending_0015
        """
    )
    op.execute("DROP TABLE rf_seal_pending_0015")
