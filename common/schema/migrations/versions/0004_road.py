"""Which road a node's changes take while its broker can't be used."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "rf_road",
        sa.Column("sink", sa.Text(), nullable=False),
        sa.Column("failing_since_us", sa.BigInteger(), nullable=True, comment="null: it can be used"),
        sa.Column("error", sa.Text(), nullable=True, comment="why it can't be used"),
        sa.Column("fallback_since_us", sa.BigInteger(), nullable=True, comment="since when files are written instead"),
        sa.Column("fallback_error", sa.Text(), nullable=True, comment="why files can't be written either"),
        sa.Column("updated_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("sink"),
        comment="Whether the broker can be used, and since when files are written in its place.",
    )
