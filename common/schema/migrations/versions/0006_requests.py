"""Stretches of logs that were asked for once more."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_id = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "rf_request",
        sa.Column("peer", _id, nullable=False),
        sa.Column("direction", sa.Text(), nullable=False, comment="out: this node asked; in: the peer asked this node"),
        sa.Column("incarnation", _id, nullable=False),
        sa.Column("after_lsn", sa.BigInteger(), nullable=False),
        sa.Column("until_lsn", sa.BigInteger(), nullable=False),
        sa.Column("asked", sa.Integer(), nullable=False, comment="how often"),
        sa.Column("first_asked_us", sa.BigInteger(), nullable=False),
        sa.Column("last_asked_us", sa.BigInteger(), nullable=False),
        sa.Column(
            "gone_until_lsn", sa.BigInteger(), nullable=True, comment="out: up to here its source has it no more"
        ),
        sa.CheckConstraint("direction IN ('in', 'out')", name="rf_request_direction"),
        sa.PrimaryKeyConstraint("peer", "direction", "incarnation"),
        comment="Stretches of logs asked for once more: by this node, and of this node until they are answered.",
    )
