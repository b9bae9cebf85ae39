"""The configured database, opened for one operation before (or without) the rest of the node."""

from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa

from common.config.model import Config
from common.dialects import open_database
from common.ports.dialect import Database


@contextmanager
def opened_database(config: Config) -> Iterator[Database]:
    """Open the database, close it at the end; a driver's error comes out as the RowferryError it calls for."""
    database = open_database(config.node.database)
    try:
        yield database
    except sa.exc.SQLAlchemyError as error:
        raise database.translate(error) from error
    finally:
        database.close()
