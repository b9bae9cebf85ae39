"""The first schema: the shared tables, then what is each dialect's own (log, versions, shapes, locks)."""

from importlib import resources

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_id = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    _make_shared_tables()
    name = f"{op.get_context().dialect.name}_0001.sql"
    script = resources.files("common.schema").joinpath("migrations", "sql", name).read_text(encoding="utf-8")
    for statement in script.split("\n;;\n"):
        if statement.strip().removesuffix(";;").strip():
            op.execute(statement.strip().removesuffix(";;"))


def _make_shared_tables() -> None:
    op.create_table(
        "rf_applied_tx",
        sa.Column("source_node", _id, nullable=False),
        sa.Column("tx_id", _id, nullable=False),
        sa.Column("incarnation", _id, nullable=False),
        sa.Column("prev_lsn", sa.BigInteger(), nullable=False),
        sa.Column("to_lsn", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False, comment="over the tx's change lines"),
        sa.Column("applied_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("source_node", "tx_id"),
        comment="Dedup: the txs of other nodes that were applied.",
    )
    op.create_index("rf_applied_tx_order", "rf_applied_tx", ["source_node", "incarnation", "prev_lsn"], unique=False)
    op.create_table(
        "rf_attempt",
        sa.Column("source_node", _id, nullable=False),
        sa.Column("tx_id", _id, nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("began_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("source_node", "tx_id"),
        comment="Txs begun one by one after a redelivery and not ended: one that kills the process is found by this.",
    )
    op.create_table(
        "rf_audit",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("at_us", sa.BigInteger(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("source_node", _id, nullable=True),
        sa.Column("tx_id", _id, nullable=True),
        sa.Column("detail", sa.Text(), nullable=True, comment="JSON object"),
        sa.PrimaryKeyConstraint("id"),
        comment="Who applied, rejected, replayed, discarded what, and when.",
    )
    op.create_index("rf_audit_at", "rf_audit", ["at_us"], unique=False)
    op.create_table(
        "rf_conflict",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("table_name", sa.Text(), nullable=False),
        sa.Column("pk", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False, comment="update, insert, delete, identity"),
        sa.Column("state", sa.Text(), nullable=False, comment="settled or waiting"),
        sa.Column("winner", sa.Text(), nullable=False, comment="ours or theirs"),
        sa.Column("rule", sa.Text(), nullable=False),
        sa.Column("source_node", _id, nullable=False),
        sa.Column("tx_id", _id, nullable=False),
        sa.Column("lsn", sa.BigInteger(), nullable=False),
        sa.Column("our_version", sa.Text(), nullable=False),
        sa.Column("their_version", sa.Text(), nullable=False),
        sa.Column("their_base", sa.Text(), nullable=True),
        sa.Column("our_image", sa.Text(), nullable=True),
        sa.Column("their_image", sa.Text(), nullable=True),
        sa.Column("recorded_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        comment="Changes whose base was not the version the row had here: both images, the winner and the rule.",
    )
    op.create_index("rf_conflict_row", "rf_conflict", ["table_name", "pk"], unique=False)
    op.create_index("rf_conflict_state", "rf_conflict", ["state", "recorded_us"], unique=False)
    op.create_table(
        "rf_cursor",
        sa.Column("sink", sa.Text(), nullable=False),
        sa.Column("incarnation", _id, nullable=False),
        sa.Column("lsn", sa.BigInteger(), nullable=False),
        sa.Column("updated_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("sink", "incarnation"),
        comment="How far each sink has durably taken the sealed log.",
    )
    op.create_table(
        "rf_dead_letter",
        sa.Column("source_node", _id, nullable=False),
        sa.Column("tx_id", _id, nullable=False),
        sa.Column("incarnation", _id, nullable=True),
        sa.Column("prev_lsn", sa.BigInteger(), nullable=True),
        sa.Column("from_lsn", sa.BigInteger(), nullable=True),
        sa.Column("to_lsn", sa.BigInteger(), nullable=True),
        sa.Column("exported_at", sa.Text(), nullable=True),
        sa.Column("changes", sa.Integer(), nullable=True),
        sa.Column("parts", sa.Integer(), server_default="1", nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False, comment="dead, early, forked; replayed, discarded"),
        sa.Column("table_name", sa.Text(), nullable=True),
        sa.Column("error", sa.Text(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("first_failed_us", sa.BigInteger(), nullable=False),
        sa.Column("last_failed_us", sa.BigInteger(), nullable=False),
        sa.Column("origin", sa.Text(), nullable=False, comment="queue or file it came by"),
        sa.Column(
            "sha256", sa.Text(), nullable=False, comment="over the tx's change lines, or over the bytes if unreadable"
        ),
        sa.Column(
            "body",
            sa.LargeBinary(),
            nullable=True,
            comment="the batch as it came, zstd; null when its parts stand in rf_tx_part",
        ),
        sa.Column(
            "applied_lsns",
            sa.Text(),
            nullable=True,
            comment="JSON ranges of LSNs: what was applied in pieces",
        ),
        sa.Column("broker_copy", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("settled_us", sa.BigInteger(), nullable=True),
        sa.Column("settled_by", sa.Text(), nullable=True),
        sa.Column("settled_note", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("source_node", "tx_id"),
        comment="Txs that could not be applied, each whole, with its reason.",
    )
    op.create_index("rf_dead_letter_order", "rf_dead_letter", ["source_node", "incarnation", "prev_lsn"], unique=False)
    op.create_index("rf_dead_letter_state", "rf_dead_letter", ["state", "last_failed_us"], unique=False)
    op.create_table(
        "rf_node",
        sa.Column("node_id", _id, nullable=False),
        sa.Column("role", sa.Text(), server_default="branch", nullable=False),
        sa.Column("incarnation", _id, nullable=False),
        sa.Column("is_self", sa.Boolean(), nullable=False),
        sa.Column("server_identity", sa.Text(), nullable=True),
        sa.Column("first_seen_us", sa.BigInteger(), nullable=False),
        sa.Column("last_seen_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("node_id"),
        comment="This node and the peers it has heard of.",
    )
    op.create_table(
        "rf_paused",
        sa.Column("table_name", sa.Text(), nullable=False),
        sa.Column("since_us", sa.BigInteger(), nullable=False),
        sa.Column("paused_by", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("table_name"),
        comment="Tables that capture is off by command, until they are resumed.",
    )
    op.create_table(
        "rf_sync_state",
        sa.Column("peer", _id, nullable=False),
        sa.Column(
            "direction", sa.Text(), nullable=False, comment="in: watermark of a source; out: what a client has taken"
        ),
        sa.Column("incarnation", _id, nullable=False),
        sa.Column("last_lsn", sa.BigInteger(), nullable=False),
        sa.Column("last_tx_id", _id, nullable=True),
        sa.Column(
            "highest_lsn",
            sa.BigInteger(),
            server_default="0",
            nullable=False,
            comment="the highest LSN seen, above gaps too",
        ),
        sa.Column("updated_us", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("direction IN ('in', 'out')", name="rf_sync_state_direction"),
        sa.PrimaryKeyConstraint("peer", "direction", "incarnation"),
        comment="Where this node stands with each peer.",
    )
    op.create_table(
        "rf_tx",
        sa.Column("incarnation", _id, nullable=False),
        sa.Column("to_lsn", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("from_lsn", sa.BigInteger(), nullable=False),
        sa.Column("prev_lsn", sa.BigInteger(), nullable=False),
        sa.Column("tx_id", _id, nullable=False),
        sa.Column("exported_at", sa.Text(), nullable=False),
        sa.Column("grouped", sa.Boolean(), nullable=False),
        sa.Column(
            "tables", sa.Text(), nullable=False, comment="JSON object: table name -> pk and columns, as in the header"
        ),
        sa.Column("bytes", sa.BigInteger(), nullable=False, comment="about what the change lines weigh"),
        sa.Column(
            "captured_us", sa.BigInteger(), nullable=False, comment="its oldest change: lag is counted from here"
        ),
        sa.PrimaryKeyConstraint("incarnation", "to_lsn"),
        sa.UniqueConstraint("tx_id"),
        comment="The sealed txs of this node, in LSN order.",
    )
    op.create_table(
        "rf_tx_part",
        sa.Column("source_node", _id, nullable=False),
        sa.Column("tx_id", _id, nullable=False),
        sa.Column("part", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("parts", sa.Integer(), nullable=False),
        sa.Column("tx_sha256", sa.Text(), nullable=False),
        sa.Column("header", sa.Text(), nullable=False),
        sa.Column("payload", sa.LargeBinary(), nullable=False, comment="change, chunk and end lines, zstd"),
        sa.Column("bytes", sa.BigInteger(), nullable=False, comment="of change and chunk lines, uncompressed"),
        sa.Column("received_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("source_node", "tx_id", "part"),
        comment="Parts of large txs until all are there; those of dead letters until they are replayed or discarded.",
    )
