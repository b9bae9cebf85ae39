"""Samples of how the node does, a row a minute."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "rf_metric",
        sa.Column("minute", sa.BigInteger(), autoincrement=False, nullable=False, comment="since the epoch"),
        sa.Column("seq", sa.BigInteger(), nullable=False, comment="in the order in which they were written"),
        sa.Column("at_us", sa.BigInteger(), nullable=False),
        sa.Column("sealed_changes", sa.BigInteger(), nullable=False, comment="these five: since sampling began"),
        sa.Column("sealed_txs", sa.BigInteger(), nullable=False),
        sa.Column("published_changes", sa.BigInteger(), nullable=False, comment="once for each road that took it"),
        sa.Column("applied_changes", sa.BigInteger(), nullable=False),
        sa.Column("applied_txs", sa.BigInteger(), nullable=False),
        sa.Column("unpublished_changes", sa.BigInteger(), nullable=False),
        sa.Column("unpublished_age_us", sa.BigInteger(), nullable=False, comment="of the oldest change"),
        sa.Column("unapplied_changes", sa.BigInteger(), nullable=False),
        sa.Column("unapplied_age_us", sa.BigInteger(), nullable=False, comment="since when the oldest waits"),
        sa.Column("dead_letters", sa.BigInteger(), nullable=False, comment="open ones"),
        sa.Column("waiting_conflicts", sa.BigInteger(), nullable=False),
        sa.Column("log_changes", sa.BigInteger(), nullable=False, comment="sealed and not purged"),
        sa.Column("queue_messages", sa.BigInteger(), comment="in the broker's queue; null: not known"),
        sa.Column("marks", sa.Text(), comment="JSON, in the newest row alone: up to where everything was counted"),
        sa.PrimaryKeyConstraint("minute"),
        comment="Samples of how the node does, a row a minute, kept for seven days.",
    )
    op.create_index("rf_metric_seq", "rf_metric", ["seq"], unique=True)
