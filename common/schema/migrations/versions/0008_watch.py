"""What the watchdog saw last of the work of this node."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "rf_watch",
        sa.Column("work", sa.Text(), primary_key=True, comment="sealer, sink NAME, intake NAME, source NODE"),
        sa.Column("pending", sa.BigInteger(), nullable=False, comment="how much of it waited"),
        sa.Column("mark", sa.Text(), nullable=False, comment="another one whenever some of it was done"),
        sa.Column("oldest_us", sa.BigInteger(), comment="since when the oldest of it waited"),
        sa.Column("still_us", sa.BigInteger(), comment="since when nothing of it was done; null: nothing waited"),
        sa.Column("looked_us", sa.BigInteger(), nullable=False),
        comment="What the watchdog saw last of the work of this node.",
    )
