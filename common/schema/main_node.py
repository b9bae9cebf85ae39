"""Which node is main, as far as this one knows: the one that the configuration names, else the one that was pinned."""

import sqlalchemy as sa

from common.config.model import Config
from common.schema import tables as rf


def known_main(connection: sa.Connection, config: Config) -> str | None:
    """Return the main node's id; None where nobody is known to be."""
    return named_main(config) or pinned_main(connection)


def role_of(node_id: str, main: str | None) -> str | None:
    """Return a node's role; None while nobody is known to be main. `main`: as `known_main` returns it."""
    return None if main is None else "main" if node_id == main else "branch"


def named_main(config: Config) -> str | None:
    """Return the one that the configuration names: this node itself where it is main."""
    return config.node.id if config.node.role == "main" else config.node.main


def pinned_main(connection: sa.Connection) -> str | None:
    """Return the first node that wrote as main; it is kept."""
    query = sa.select(rf.node.c.node_id).where(rf.node.c.role == "main").order_by(rf.node.c.first_seen_us)
    return connection.execute(query.limit(1)).scalar_one_or_none()
