"""Tables in which frameworks note the schema changes that one database has had. `*` does not take them in.

Such a row is true of one database alone: on another node the framework would take a change of its schema for done."""

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
WHY = "notes the schema changes of this database alone; captured only when tables.include names it"


def is_schema_history(table: str) -> bool:
    """Tell whether a table with this name on the wire is one of them, in whatever schema."""
    return table.rsplit(".", 1)[-1].lower() in _NAMES
