"""The first schema: the shared tables, then what is each dialect's own (log, versions, shapes, locks)."""

from importlib import resources

from alembic import op
from sqlalchemy.schema import CreateIndex, CreateTable

from common.schema.tables import metadata

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    for table in metadata.sorted_tables:
        op.execute(CreateTable(table))
        for index in sorted(table.indexes, key=lambda one: str(one.name)):
            op.execute(CreateIndex(index))
    name = f"{op.get_context().dialect.name}_0001.sql"
    script = resources.files("common.schema").joinpath("migrations", "sql", name).read_text(encoding="utf-8")
    for statement in script.split("\n;;\n"):
        if statement.strip().removesuffix(";;").strip():
            op.execute(statement.strip().removesuffix(";;"))
