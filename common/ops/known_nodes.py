"""How many nodes are kept: whoever may send in others' names can make up names, and each would stand here for good."""

import sqlalchemy as sa

from common.schema import tables as rf

MOST_NODES = 10_000
"""Those that the configuration names come on top."""


def is_full(connection: sa.Connection) -> bool:
    """Tell whether there is no room for a node that nobody has heard of."""
    return connection.execute(sa.select(sa.func.count()).select_from(rf.node)).scalar_one() >= MOST_NODES
