"""Alembic's entry: runs on the connection that `common.schema.migrate` gives, or writes SQL for its dialect."""

from alembic import context

from common.schema.tables import metadata

VERSION_TABLE = "rf_alembic_version"

if context.is_offline_mode():
    context.configure(
        dialect_name=context.config.attributes["dialect_name"],
        target_metadata=metadata,
        version_table=VERSION_TABLE,
        literal_binds=True,
        dialect_opts={"paramstyle": "named"},
    )
else:
    context.configure(
        connection=context.config.attributes["connection"],
        target_metadata=metadata,
        version_table=VERSION_TABLE,
    )

with context.begin_transaction():
    context.run_migrations()
