"""What peers say of themselves in their heartbeats."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_id = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    for column in (
        sa.Column("heard_us", sa.BigInteger(), comment="its last heartbeat; of this node: when it listened last"),
        sa.Column("heartbeat_us", sa.BigInteger(), comment="that heartbeat by the peer's clock"),
        sa.Column("every_us", sa.BigInteger(), comment="how often it sends one"),
        sa.Column("head_incarnation", _id, comment="what the LSNs of its heartbeats count in"),
        sa.Column("head_lsn", sa.BigInteger(), comment="the end of its log"),
        sa.Column("head_tx_id", _id),
        sa.Column("sent_lsn", sa.BigInteger(), comment="up to here the broker has confirmed its log"),
        sa.Column("clock_us", sa.BigInteger(), comment="its clock before this node's, by its last heartbeat"),
        sa.Column("clock_steady", sa.Boolean(), comment="the heartbeat before that said the same"),
        sa.Column("release", sa.Text()),
        sa.Column("schema_sha256", sa.Text(), comment="of the tables that travel"),
        sa.Column("policies_sha256", sa.Text()),
        sa.Column("rewound_us", sa.BigInteger(), comment="since when its log is another one than it was"),
    ):
        op.add_column("rf_node", column)
