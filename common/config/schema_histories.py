"""Tables that frameworks make for the schema changes of one database. `*` does not take them in.

What they note there is true of one database alone: on another node the framework would take a change of its schema for
done. What they copy rows into is another table in a moment, and stays behind where the change failed."""

_NAMES = frozenset(
    {
        "alembic_version",
        "aerich",
        "databasechangelog",
        "databasechangeloglock",
        "django_migrations",
        "doctrine_migration_versions",
        "flyway_schema_history",
        "goose_db_version",
        "knex_migrations",
        "knex_migrations_lock",
        "migratehistory",
        "phinxlog",
        "refinery_schema_history",
        "schema_migrations",
        "sequelizemeta",
        "_prisma_migrations",
        "_sqlx_migrations",
        "_yoyo_migration",
        "__diesel_schema_migrations",
        "__drizzle_migrations",
        "__efmigrationshistory",
    }
)
_COPIES = "_alembic_tmp_"
_ONLY_NAMED = "captured only when tables.include names it"


def why_left_out(table: str) -> str | None:
    """Tell why `*` leaves out a table with this name on the wire, in whatever schema; None where it does not."""
    name = table.rsplit(".", 1)[-1].lower()
    if name in _NAMES:
        return f"records the schema changes of this database only; {_ONLY_NAMED}"
    return f"a migration's copy of another table; {_ONLY_NAMED}" if name.startswith(_COPIES) else None
