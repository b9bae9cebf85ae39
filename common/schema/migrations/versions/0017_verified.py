"""When a peer's tables were found equal to this node's by their digests."""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("rf_node", sa.Column("verified_us", sa.BigInteger(), comment="its tables were equal to ours last"))
