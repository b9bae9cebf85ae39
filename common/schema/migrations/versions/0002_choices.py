"""Conflicts that wait for a choice: what is needed to write either image again, and which versions a choice settles."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_id = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    for name, comment in (
        ("row_key", "the dialect's canonical key; null in records of before"),
        ("our_meta", "JSON: key and columns of our_image; null: as the table is here"),
        ("their_meta", "JSON: key and columns of their_image; null: as the table is here"),
        ("settled_by", None),
        ("settled_note", None),
    ):
        op.add_column("rf_conflict", sa.Column(name, sa.Text(), nullable=True, comment=comment))
    op.add_column("rf_conflict", sa.Column("settled_us", sa.BigInteger(), nullable=True))
    op.create_index("rf_conflict_key", "rf_conflict", ["table_name", "row_key", "state"])
    op.create_table(
        "rf_choice",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("table_name", sa.Text(), nullable=False),
        sa.Column("row_key", sa.Text(), nullable=False),
        sa.Column("node_id", _id, nullable=False, comment="who chose"),
        sa.Column("base", sa.Text(), nullable=False, comment="the highest of the versions that it settles"),
        sa.Column("version", sa.Text(), nullable=True, comment="null: this node's own, not sealed when it was made"),
        sa.Column("resolves", sa.Text(), nullable=False, comment="JSON list of the versions that it settles"),
        sa.Column("chosen_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        comment="Choices that settled conflicts, this node's and others'.",
    )
    op.create_index("rf_choice_row", "rf_choice", ["table_name", "row_key"])
    if op.get_context().dialect.name == "postgresql":
        op.execute('ALTER TABLE rf_change_log ADD COLUMN resolves text COLLATE "C"')
        op.execute(
            "COMMENT ON COLUMN rf_change_log.resolves IS 'JSON list of versions: this change is a choice between them.'"
        )
