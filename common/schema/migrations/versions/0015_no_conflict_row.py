"""An index that nothing is found by any more: a row's conflicts are looked for by its key in row_key."""

from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.drop_index("rf_conflict_row", table_name="rf_conflict")
