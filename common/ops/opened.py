"""The configured database, opened for one operation before (or without) the rest of the node."""

from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa

from common.config.model import Config
from common.dialects import open_database
from common.ports.dialect import Database


@contextmanager
def opened_database(config: Config, *, create: bool = True) -> Iterator[Database]:
    """Open the database, close it at the end; a driver's error comes out as the RowferryError it calls for.

    Without `create` a SQLite file that is not there is a ConfigError, and none is made."""
    database = open_database(config.node.database, create=create)
    try:
        yield database
    except sa.exc.SQLAlchemyError as error:
        raise database.translate(error) from error
    finally:
        database.close()
