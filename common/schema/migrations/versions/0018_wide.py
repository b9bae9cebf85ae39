"""A shape is found by its table, so that it may be larger than what an index holds: tables of a thousand columns."""

from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    if op.get_bind().dialect.name != "postgresql":
        return
    # That no shape has two numbers is for the lock under which they are given: see the registry.
    op.execute("ALTER TABLE rf_shape DROP CONSTRAINT rf_shape_table_id_meta_key")
    op.execute("CREATE INDEX rf_shape_table_id ON rf_shape (table_id)")
