"""Tokens for HTTP."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_id = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "rf_token",
        sa.Column("id", _id, nullable=False),
        sa.Column("node_id", _id, nullable=False, comment="whom it speaks for"),
        sa.Column("scopes", sa.Text(), nullable=False, comment="of push,pull,forward,ops"),
        sa.Column("hash", sa.Text(), nullable=False, comment="scrypt, its costs, salt and sum"),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("expires_us", sa.BigInteger(), nullable=True, comment="null: never"),
        sa.Column("last_used_us", sa.BigInteger(), nullable=True, comment="to the minute"),
        sa.Column("revoked_us", sa.BigInteger(), nullable=True),
        sa.Column("revoked_by", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        comment="Tokens that nodes and people show over HTTP; their secrets are nowhere.",
    )
