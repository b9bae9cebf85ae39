"""Reads what `status` tells: one look at the node as it stands now."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from common.clock import to_iso
from common.config.model import Config, KeyRule
from common.errors import ConfigError, OutageError, Reason
from common.ops.agreement import agreement
from common.ops.directories import alone
from common.ops.pausing import paused_tables
from common.ops.peers import read_peers
from common.ops.progress import OLDEST_EARLY
from common.ops.purging import FILES_MISSED, OWN_LOST, read_purged
from common.ops.queued import queued
from common.ops.rewinding import own_rewinding
from common.ops.sending import run_seen_us
from common.ops.status import ClashingKeys, ClockAhead, Queues, SourceStanding, Standing
from common.ops.status_words import A_COPY, NOR_HAVE_OTHERS, counted
from common.ops.table_choice import gone_tables, own_keys
from common.ports.dialect import Database, NodeFacts
from common.schema import tables as rf
from common.versions import NEVER, WEAKEST_HLC

BROKER_PATIENCE_SECONDS = 3.0
_A_DAY_US = 86_400_000_000
_NEWS_US = 7 * _A_DAY_US
_NEVER = json.dumps(NEVER, separators=(",", ":"))
"""The base of a key that never was, as it stands in a conflict."""
_FOR_RIGHTS = sa.select(sa.func.count()).where(
    rf.dead_letter.c.state == "early", rf.dead_letter.c.reason == Reason.RIGHTS.value
)


def read_standing(
    database: Database, config: Config, facts: NodeFacts, now_us: int, shares: Mapping[str, Any]
) -> Standing:
    """Look at the node as it stands now. The broker is given three seconds. Raises OutageError for the database."""
    paused = paused_tables(database)
    catalog = database.catalog()
    wanted = [shape for name, shape in catalog.tables.items() if config.tables.wants(name)]
    queues = read_queues(config)
    drifted = tuple(database.capture(config.rules).drifted(wanted))
    with database.engine.connect() as connection:
        ahead = _clocks_ahead(connection, config.limits.future_seconds)
        known = [one.node for one in ahead]
        return Standing(
            facts=facts,
            dialect=database.features.name,
            at_us=now_us,
            shares=shares,
            sources=_sources(connection),
            queues=queues,
            queued=_queued(connection, config, queues, now_us),
            dead_letters=_counts(connection, rf.dead_letter.c.state, rf.OPEN_DEAD_LETTERS),
            for_rights=connection.scalar(_FOR_RIGHTS) or 0,
            conflicts=_counts(connection, rf.conflict.c.state, ("settled", "waiting")),
            oldest_early_seconds=_oldest_early(connection, now_us),
            drifted=drifted,
            new_tables=never_captured(connection, drifted),
            paused=paused,
            clocks_ahead=ahead,
            peers=read_peers(connection, config, agreement(config, wanted), known),
            rewound=own_rewinding(connection),
            clashing_keys=_clashing_keys(connection, config, now_us),
            own_keys=own_keys(wanted, config.tables),
            told=(alone(connection, config), *gone_tables(catalog, config.tables), *_told(connection, now_us)),
            run_seen_us=run_seen_us(connection),
            verified=_verified(connection),
        )


def _verified(connection: sa.Connection) -> dict[str, int]:
    peer = rf.node.c
    query = sa.select(peer.node_id, peer.verified_us).where(peer.verified_us.is_not(None), peer.retired_us.is_(None))
    return {node_id: int(at_us) for node_id, at_us in connection.execute(query.order_by(peer.node_id))}


def _told(connection: sa.Connection, now_us: int) -> Iterator[str]:
    """Yield what was said once and is still news."""
    since_us = now_us - _NEWS_US
    went = read_purged(connection, "log-not-taken").values()
    for row in went:
        if row.purged_us >= since_us:
            yield (
                f"the log was purged up to LSN {row.until_lsn}, and {row.name} had not taken all of it "
                f"(retention.log_max_days): a node that lacks it needs {A_COPY}"
            )
    retired = set(connection.scalars(sa.select(rf.node.c.node_id).where(rf.node.c.retired_us.is_not(None))))
    for peer, row in read_purged(connection, FILES_MISSED).items():
        if peer not in retired:
            yield (
                f"{peer} had not read this node's files up to LSN {row.until_lsn} when they were deleted "
                f"(directory.keep_days): once it reads the folder again, it gets them from the log "
                f"(retention.log_max_days); for what is no longer there it needs {A_COPY}"
            )
    for row in read_purged(connection, OWN_LOST).values():
        if row.purged_us >= since_us:
            yield (
                f"{counted(row.rows, 'own change', 'own changes')} could no longer be recovered at the rejoin of "
                f"{to_iso(row.purged_us)}: others have what they wrote, and this node does not. Compare it with "
                f"another node; it needs {A_COPY}. {NOR_HAVE_OTHERS}"
            )
    node = rf.node.c
    query = sa.select(node.node_id, node.returned_us).where(node.returned_us >= since_us).order_by(node.node_id)
    for name, returned_us in connection.execute(query):
        yield (
            f"{name} was retired and has been back since {to_iso(returned_us)}: it may lack what was purged meanwhile. "
            "Compare it with another node, or retire it again"
        )


def never_captured(connection: sa.Connection, drifted: tuple[str, ...]) -> tuple[str, ...]:
    """Return those of these tables that capture has never been installed on."""
    known = set(connection.scalars(sa.text("SELECT name FROM rf_table"))) if drifted else set()
    return tuple(name for name in drifted if name not in known)


def _queued(connection: sa.Connection, config: Config, queues: Queues, now_us: int) -> tuple[Mapping[str, Any], ...]:
    depth = queues.depths.get(f"rowferry.node.{config.node.id}") or 0
    found = queued(connection, config.node.id, depth, now_us, config.limits.stall_seconds)
    return tuple(one.document(now_us) for one in found)


def _sources(connection: sa.Connection) -> tuple[SourceStanding, ...]:
    """Return each source's newest incarnation: older ones are history."""
    query = (
        sa.select(rf.sync_state)
        .where(rf.sync_state.c.direction == "in")
        .order_by(rf.sync_state.c.peer, rf.sync_state.c.updated_us)
    )
    newest = {row.peer: row for row in connection.execute(query)}
    return tuple(
        SourceStanding(
            peer=row.peer,
            incarnation=row.incarnation,
            watermark=row.last_lsn,
            highest_lsn=max(row.highest_lsn, row.last_lsn),
            behind=max(0, row.highest_lsn - row.last_lsn),
            last_tx_id=row.last_tx_id,
            updated_us=row.updated_us,
        )
        for row in newest.values()
    )


def _clocks_ahead(connection: sa.Connection, bound_seconds: float) -> tuple[ClockAhead, ...]:
    peer = rf.node.c
    # A heartbeat that came later and is not ahead shows that the clock was set right, as what is written later does.
    is_right = sa.and_(peer.heard_us > peer.ahead_seen_us, peer.clock_us <= bound_seconds * 1_000_000)
    query = (
        sa.select(peer.node_id, peer.ahead_us, peer.ahead_seen_us)
        .where(peer.ahead_us > 0, sa.not_(sa.func.coalesce(is_right, sa.false())))
        .order_by(peer.node_id)
    )
    return tuple(ClockAhead(*row) for row in connection.execute(query))


def _clashing_keys(connection: sa.Connection, config: Config, now_us: int) -> tuple[ClashingKeys, ...]:
    met = rf.conflict.c
    query = (
        sa.select(met.table_name, sa.func.count())
        .where(
            met.state.in_(("settled", "waiting")),
            met.recorded_us > now_us - _A_DAY_US,
            met.kind == "insert",
            # What is sent anew as an insert, on top of what the row was, was given its number before.
            sa.func.coalesce(met.their_base, _NEVER) == _NEVER,
            # A row from before the first sync was given its number long ago, and `adopt` settles whose it is.
            *(version.not_like(f'[%,{WEAKEST_HLC},"%') for version in (met.our_version, met.their_version)),
            met.table_name.in_(config.tables.with_keys(KeyRule.STRIDE)),
        )
        .group_by(met.table_name)
        .order_by(met.table_name)
    )
    return tuple(ClashingKeys(*row) for row in connection.execute(query))


def _counts(connection: sa.Connection, column: sa.Column[str], states: tuple[str, ...]) -> dict[str, int]:
    found = sa.select(column, sa.func.count()).where(column.in_(states)).group_by(column)
    return dict.fromkeys(states, 0) | {row[0]: row[1] for row in connection.execute(found)}


def _oldest_early(connection: sa.Connection, now_us: int) -> float | None:
    return _age(connection.scalar(OLDEST_EARLY), now_us)


def _age(since_us: int | None, now_us: int) -> float | None:
    return None if since_us is None else max(0.0, (now_us - since_us) / 1_000_000)


def read_queues(config: Config) -> Queues:
    """Ask the broker what is ready in this node's queues; it is given three seconds."""
    if config.broker is None or not config.broker.is_rabbitmq:
        return Queues()
    # Not at the top: pika takes a part of a second to import, and most nodes ask often.
    from common.transports.rabbitmq import queue_depths, settings_from

    settings = settings_from(config.node.id, config.broker)
    try:
        return Queues(queue_depths(replace(settings, connect_timeout_seconds=BROKER_PATIENCE_SECONDS)))
    except (OutageError, ConfigError) as error:
        return Queues(error=str(error))
