"""The node's incarnation: within one, LSNs count on; where the database's server is another one, they can't."""

import json
import logging
from dataclasses import dataclass, replace

import sqlalchemy as sa

from common.clock import Clock
from common.ids import new_incarnation
from common.ports.dialect import Database, NodeFacts
from common.retry import in_transaction
from common.schema import tables as rf

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Known:
    """What the database says of itself."""

    incarnation: str
    server_identity: str | None


def has_moved(database: Database, facts: NodeFacts) -> bool:
    """Tell whether the node needs a new incarnation, or has been given one by another process."""
    known = _known(database, facts.node_id)
    return known.incarnation != facts.incarnation or known.server_identity not in (None, database.server_identity())


def settle_incarnation(database: Database, facts: NodeFacts, clock: Clock) -> NodeFacts:
    """Return the facts to go on with: a new incarnation when this is not the server that was sealed on before.

    After dump and restore, upgrade or failover the LSNs of before may have gone on elsewhere. What was sealed under
    the old incarnation stays in the log and is still sent under its old name."""
    identity = database.server_identity()
    known = _known(database, facts.node_id)
    if known.server_identity == identity:
        return replace(facts, incarnation=known.incarnation)
    if known.server_identity is None:
        _remember(database, facts.node_id, identity)
        return replace(facts, incarnation=known.incarnation)
    cause = f"the database's server changed from {known.server_identity} to {identity}"
    return renew_incarnation(database, replace(facts, incarnation=known.incarnation), clock, cause)


def renew_incarnation(database: Database, facts: NodeFacts, clock: Clock, cause: str) -> NodeFacts:
    """Give the node a new incarnation, logged and audited. Of two processes that do so at once the first one wins."""
    fresh, identity = new_incarnation(), database.server_identity()
    renew = (
        sa.update(rf.node)
        .where(rf.node.c.node_id == facts.node_id, rf.node.c.incarnation == facts.incarnation)
        .values(incarnation=fresh, server_identity=identity)
    )
    detail = {"cause": cause, "from": facts.incarnation, "to": fresh}

    def work(connection: sa.Connection) -> bool:
        # Whatever is sealed under the old one is there when this ends, and nothing comes after it.
        database.hold_sealing(connection)
        if not connection.execute(renew).rowcount:
            return False
        line = {
            "at_us": clock.now_us(),
            "actor": "rowferry",
            "action": "incarnation",
            "source_node": facts.node_id,
            "detail": json.dumps(detail),
        }
        connection.execute(sa.insert(rf.audit).values(line))
        return True

    if in_transaction(database, work):
        log.warning("node.new_incarnation", extra=detail)
    return replace(facts, incarnation=_known(database, facts.node_id).incarnation)


def _known(database: Database, node_id: str) -> _Known:
    query = sa.select(rf.node.c.incarnation, rf.node.c.server_identity).where(rf.node.c.node_id == node_id)
    row = in_transaction(database, lambda connection: connection.execute(query).one())
    return _Known(row.incarnation, row.server_identity)


def _remember(database: Database, node_id: str, identity: str) -> None:
    values = {"server_identity": identity}
    statement = sa.update(rf.node).where(rf.node.c.node_id == node_id, rf.node.c.server_identity.is_(None))
    in_transaction(database, lambda connection: connection.execute(statement.values(values)))
