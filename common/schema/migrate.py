"""Brings the `rf_*` tables to the newest revision, shows what that would run, and takes them away again."""

import io
from importlib import resources

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

VERSION_TABLE = "rf_alembic_version"


def current_revision(engine: sa.Engine) -> str | None:
    """Return the revision that stands in the database, None before the first `upgrade`."""
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
        return context.get_current_revision()


def newest_revision() -> str:
    """Return the newest revision that this release knows."""
    newest = ScriptDirectory.from_config(_config()).get_current_head()
    if newest is None:
        raise RuntimeError("the package holds no migrations: install it anew")
    return newest


def upgrade(engine: sa.Engine, target: str | None = None) -> bool:
    """Create or upgrade the tables in one transaction; False when they stood already.

    `target`: a revision other than the newest."""
    target = target or newest_revision()
    if current_revision(engine) == target:
        return False
    config = _config()
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, target)
    return True


def pending_sql(engine: sa.Engine) -> str:
    """Return the SQL that `upgrade` would run now; empty when all stands."""
    before = current_revision(engine)
    if before == newest_revision():
        return ""
    out = io.StringIO()
    config = _config(out)
    config.attributes["dialect_name"] = engine.dialect.name
    command.upgrade(config, f"{before or 'base'}:head", sql=True)
    return out.getvalue()


def remove(engine: sa.Engine) -> list[str]:
    """Drop every `rf_*` table in the default schema. Returns their names. Capture must be off already."""
    inspector = sa.inspect(engine)
    names = [name for name in inspector.get_table_names() if name.startswith("rf_")]
    reflected = sa.MetaData()
    with engine.begin() as connection:
        for name in names:
            sa.Table(name, reflected).drop(connection)
    return names


def _config(output: io.StringIO | None = None) -> Config:
    config = Config(output_buffer=output) if output is not None else Config()
    location = resources.files("common.schema").joinpath("migrations")
    config.set_main_option("script_location", str(location).replace("%", "%%"))
    return config
