"""Nodes whose clocks were seen ahead of this one's."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for name, comment in (
        ("ahead_us", "its clock before this node's; 0: in bounds"),
        ("ahead_seen_us", "when that was seen last"),
    ):
        column = sa.Column(name, sa.BigInteger(), nullable=False, server_default="0", comment=comment)
        op.add_column("rf_node", column)
