"""Which revision the `rf_*` tables are of, told without Alembic: each command asks, and importing that takes long."""

import re
from functools import cache
from importlib import resources

import sqlalchemy as sa

_FILE = re.compile(r"(\d{4})_\w+\.py")
_STANDS = sa.text("SELECT version_num FROM rf_alembic_version")


@cache
def newest() -> str:
    """Return the newest revision that this release knows: its file's number."""
    files = resources.files("common.schema").joinpath("migrations", "versions").iterdir()
    return max(found.group(1) for file in files if (found := _FILE.fullmatch(file.name)))


def standing(connection: sa.Connection) -> str | None:
    """Return the revision that stands in a migrated database."""
    return connection.execute(_STANDS).scalar_one_or_none()
