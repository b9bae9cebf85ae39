"""Indexes by which what is asked again and again costs the same however many letters, lines and batches there are."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("rf_dead_letter_table", "rf_dead_letter", ["state", "table_name", "last_failed_us"])
    op.create_index("rf_dead_letter_reason", "rf_dead_letter", ["state", "reason", "last_failed_us"])
    op.create_index("rf_dead_letter_first", "rf_dead_letter", ["state", "first_failed_us"])
    op.create_index("rf_dead_letter_copy", "rf_dead_letter", ["broker_copy", "state", "last_failed_us"])
    capture = sa.text("action = 'capture'")
    op.create_index("rf_audit_capture", "rf_audit", ["at_us"], postgresql_where=capture, sqlite_where=capture)
    op.create_index("rf_relay_log", "rf_relay", ["source_node", "incarnation", "to_lsn", "seq"])
