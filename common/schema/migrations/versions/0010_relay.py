"""Batches of other nodes that are handed on, and how far their readers are; where this node is in others' answers."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

_id = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "rf_relay",
        sa.Column("seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("part", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("parts", sa.Integer(), nullable=False),
        sa.Column("source_node", _id, nullable=False),
        sa.Column("tx_id", _id, nullable=False),
        sa.Column("incarnation", _id, nullable=False),
        sa.Column("from_lsn", sa.BigInteger(), nullable=False),
        sa.Column("to_lsn", sa.BigInteger(), nullable=False),
        sa.Column("header", sa.Text(), nullable=False),
        sa.Column("payload", sa.LargeBinary(), nullable=False, comment="everything after the header line, zstd"),
        sa.Column("bytes", sa.BigInteger(), nullable=False, comment="of its lines, uncompressed"),
        sa.Column("by_directory", sa.Boolean(), nullable=False, comment="it came by the shared folder"),
        sa.Column("received_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("seq", "part"),
        comment="Other nodes' batches as they came, in the order in which they were committed here, to be handed on.",
    )
    op.create_index("rf_relay_tx", "rf_relay", ["source_node", "tx_id", "part"], unique=True)
    op.create_index("rf_relay_age", "rf_relay", ["received_us", "bytes"])
    head = op.create_table(
        "rf_relay_head",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        comment="One row: the last number given in rf_relay. Locked until the commit, so numbers follow commits.",
    )
    op.bulk_insert(head, [{"id": 1, "seq": 0}])
    op.create_table(
        "rf_relay_reader",
        sa.Column("reader", _id, nullable=False, comment="pull:NODE, push:PEER or directory"),
        sa.Column("era", _id, nullable=False, comment="this node's incarnation when the numbers were given"),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("updated_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("reader"),
        comment="How far each reader has durably taken rf_relay.",
    )
    op.create_table(
        "rf_pull",
        sa.Column("peer", _id, nullable=False),
        sa.Column("cursor", sa.Text(), nullable=False, comment="the peer's own mark; only it can read it"),
        sa.Column("updated_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("peer"),
        comment="Where this node is in the answers of the peers that it pulls from.",
    )
