"""Rows that step back for others: each kept whole, what it claims, and how far own changes were looked through."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_id = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "rf_stepped_back",
        sa.Column("table_name", sa.Text(), nullable=False),
        sa.Column("key", _id, nullable=False, comment="as in rf_row_version"),
        sa.Column("version", sa.Text(), nullable=False, comment="the copy counts as long as the row has this version"),
        sa.Column(
            "facts", sa.Text(), nullable=False, comment="JSON: key, image, unique values and references of the row"
        ),
        sa.Column("meta", sa.Text(), nullable=False, comment="JSON: the table as its columns are named in the image"),
        sa.Column("kind", sa.Text(), nullable=False, comment="unique or foreign-key: why it does not stand"),
        sa.Column("stepped_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("table_name", "key"),
        comment="Rows that do not stand in their table: they clash with one of higher rank, or their parent is gone.",
    )
    op.create_table(
        "rf_claim",
        sa.Column("rule", _id, nullable=False, comment="a unique key, or a reference from either side"),
        sa.Column("token", _id, nullable=False, comment="equal values have equal ones"),
        sa.Column("table_name", sa.Text(), nullable=False),
        sa.Column("key", _id, nullable=False),
        sa.PrimaryKeyConstraint("rule", "token", "table_name", "key"),
        comment="What the rows in rf_stepped_back claim, point to, and are pointed to by.",
    )
    op.create_index("rf_claim_row", "rf_claim", ["table_name", "key"], unique=False)
    op.create_table(
        "rf_standing_mark",
        sa.Column("incarnation", _id, nullable=False),
        sa.Column("lsn", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("incarnation"),
        comment="How far this node's own sealed changes were looked through for what they let stand.",
    )
