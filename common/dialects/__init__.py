"""The databases that Rowferry knows. A dialect is one package of differences behind `common.ports.dialect`."""

import sqlalchemy as sa

from common.errors import ConfigError
from common.ports.dialect import Database

_SUPPORTED = "sqlite:///FILE, postgresql://USER:PASSWORD@HOST/DATABASE"


def open_database(url: str, *, create: bool = True) -> Database:
    """Return the database behind an SQLAlchemy URL; nothing is read yet. Raises ConfigError that names what would do.

    `create`: a SQLite file that is not there is made, empty, at the first look; else that is a ConfigError here.

    A dialect is imported only when it is asked for, so that one database's driver need not be there for the other."""
    try:
        parsed = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError) as error:
        # It may hold a password all the same.
        told = "what is given there" if "@" in url else repr(url)
        raise ConfigError(f"node.database: {told} is not a database URL; supported are {_SUPPORTED}") from error
    if "@" in (parsed.host or ""):
        # Where the host begins is not clear: a part of the password would be looked up as its name.
        raise ConfigError("node.database: has more than one @; write an @ in a user or password as %40")
    match parsed.get_backend_name():
        case "sqlite":
            from common.dialects.sqlite import SqliteDatabase

            return SqliteDatabase(parsed, create=create)
        case "postgresql":
            from common.dialects.postgresql import PostgresDatabase

            return PostgresDatabase(url)
        case other:
            raise ConfigError(f"node.database: {other!r} is not supported; supported are {_SUPPORTED}")
