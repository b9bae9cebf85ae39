"""What a peer said last, word for word: a hub hands it on to those who meet nobody else."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("rf_node", sa.Column("said", sa.Text(), comment="its last heartbeat, as it came"))
