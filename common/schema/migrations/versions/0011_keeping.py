"""What is kept for how long: peers that were retired, what each has passed, what was purged, and tombstones to go."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_id = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.add_column("rf_node", sa.Column("retired_us", sa.BigInteger(), comment="nothing is kept for it since then"))
    op.add_column("rf_node", sa.Column("returned_us", sa.BigInteger(), comment="it was retired, and spoke again then"))
    op.create_table(
        "rf_passed",
        sa.Column("peer", _id, nullable=False),
        sa.Column("origin", _id, nullable=False),
        sa.Column("incarnation", _id, nullable=False),
        sa.Column("lsn", sa.BigInteger(), nullable=False, comment="up to here the peer has seen all of the origin's"),
        sa.Column("said_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("peer", "origin", "incarnation"),
        comment="What peers have said of how far they are; with themselves as origin the end of their own log.",
    )
    op.create_table(
        "rf_purged",
        sa.Column("what", sa.Text(), nullable=False),
        sa.Column("name", _id, nullable=False, comment="the incarnation of a log, the node of an override; else empty"),
        sa.Column("until_lsn", sa.BigInteger()),
        sa.Column("until_us", sa.BigInteger(), comment="what is gone is older than this"),
        sa.Column("purged_us", sa.BigInteger(), nullable=False),
        sa.Column("rows", sa.BigInteger(), nullable=False, comment="how many in all"),
        sa.PrimaryKeyConstraint("what", "name"),
        comment="What is no longer here, so that nobody takes it for never having been.",
    )
    op.create_table(
        "rf_horizon",
        sa.Column("table_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("main_epoch", sa.BigInteger(), nullable=False),
        sa.Column("hlc", sa.BigInteger(), nullable=False),
        sa.Column("node_id", _id, nullable=False),
        sa.PrimaryKeyConstraint("table_id"),
        comment="The highest version of the tombstones that were purged, by table: of what is older nothing is known.",
    )
    op.create_table(
        "rf_purge_round",
        sa.Column("round", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("began_us", sa.BigInteger(), nullable=False),
        sa.Column("choice_id", sa.BigInteger(), nullable=False, comment="choices up to this one go with the round"),
        sa.Column("wanted", sa.Text(), nullable=False, comment="JSON: what a peer must have passed"),
        sa.Column("passed", sa.Text(), nullable=False, comment="JSON: peers that have, and the end of their log then"),
        sa.PrimaryKeyConstraint("round"),
        comment="Tombstones that were old enough at one moment, and how far the logs were then.",
    )
    op.create_table(
        "rf_purge_tombstone",
        sa.Column("table_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("key", _id, nullable=False),
        sa.Column("hlc", sa.BigInteger(), nullable=False),
        sa.Column("node_id", _id, nullable=False),
        sa.Column("round", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("table_id", "key"),
        comment="Tombstones that go once every peer has passed their round.",
    )
    op.create_index("rf_purge_tombstone_round", "rf_purge_tombstone", ["round"], unique=False)
    # Without the clock: on PostgreSQL an index over what every write changes would make each of them dearer.
    op.execute('CREATE INDEX rf_row_version_deleted ON rf_row_version (table_id, "key") WHERE deleted')
