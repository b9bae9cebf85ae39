"""An opened node: configuration, database, and who it is."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import sqlalchemy as sa

from common.clock import Clock, SystemClock
from common.config.model import Config
from common.dialects import open_database
from common.errors import ConfigError, ContentionError, OutageError
from common.ports.dialect import Capture, Database, NodeFacts, TableShape
from common.retry import in_transaction
from common.runtime.recapture_rest import RecaptureRest
from common.schema import revision
from common.schema import tables as rf
from common.schema.main_node import known_main


@dataclass(frozen=True, slots=True)
class Node:
    """What every part of a running node is given."""

    config: Config
    database: Database
    facts: NodeFacts
    clock: Clock
    recapture_rest: RecaptureRest = field(default_factory=RecaptureRest, compare=False, repr=False)

    def capture(self) -> Capture:
        """Return what installs capture here, by the rules of the configuration."""
        return self.database.capture(self.config.rules)

    def captured_tables(self) -> dict[str, TableShape]:
        """Return the configured tables as they are now, by wire name."""
        shapes = self.database.catalog().tables
        return {name: shape for name, shape in shapes.items() if self.config.tables.wants(name)}

    def main(self) -> str | None:
        """Return the main node's id, named or pinned; None where nobody is known to be. Raises OutageError."""
        return in_transaction(self.database, lambda connection: known_main(connection, self.config))


@contextmanager
def open_node(config: Config, clock: Clock | None = None) -> Iterator[Node]:
    """Open the node's database and read who it is. Raises ConfigError before the first `migrate`."""
    # A mount that is not there must not look like a new, empty database.
    database = open_database(config.node.database, create=False)
    try:
        yield Node(config, database, read_facts(database, config), clock or SystemClock())
    finally:
        database.close()


def read_facts(database: Database, config: Config) -> NodeFacts:
    """Return the database's own `rf_node` row; it must be that of the configured node, in tables of this release."""
    query = sa.select(rf.node.c.node_id, rf.node.c.role, rf.node.c.incarnation).where(rf.node.c.is_self)
    try:
        with database.engine.connect() as connection:
            row = connection.execute(query).one_or_none()
            stands = revision.standing(connection)
    except sa.exc.SQLAlchemyError as error:
        # What holds the file, or is away, says nothing of what is in there.
        if isinstance(known := database.translate(error), (OutageError, ContentionError)):
            raise known from error
        raise ConfigError("this database has no rf_ tables yet; run `rowferry migrate` first") from error
    if row is None:
        raise ConfigError("the migration of this database never finished; run `rowferry migrate`")
    if row.node_id != config.node.id:
        raise ConfigError(
            f"node.id: the configuration says {config.node.id!r}, the database belongs to {row.node_id!r}; "
            "correct the id, or run `rowferry unmigrate` there first"
        )
    if stands != revision.newest():
        raise ConfigError(
            f"the rf_ tables of this database are at revision {stands}, this release works with {revision.newest()}: "
            "stop the node's other processes and run `rowferry migrate`, or use the newest release that has run here"
        )
    return NodeFacts(row.node_id, row.role, row.incarnation, config.tables.main_wins_as(row.role))
