"""What `status` knows: where the node stands with each sink and source, what waits, and what needs a person."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from common.clock import to_iso
from common.config.model import Config, KeyRule
from common.errors import ConfigError, OutageError
from common.ops.agreement import agreement
from common.ops.pausing import paused_tables
from common.ops.peers import PeerStanding, read_peers
from common.ops.purging import read_purged
from common.ops.rewinding import own_rewinding
from common.ops.stalls import Seen, Work, is_fresh, read_seen, told, waits
from common.ops.table_choice import own_keys
from common.ports.dialect import Database, NodeFacts
from common.schema import tables as rf

BROKER_PATIENCE_SECONDS = 3.0
_A_DAY_US = 86_400_000_000
_NEWS_US = 7 * _A_DAY_US
_PATIENT_ASKS = 3
"""So often a source is asked for what is missing before a person is told."""
OPEN_DEAD_LETTERS = ("dead", "early", "forked")


class State(StrEnum):
    """The one word that an operator reads first."""

    UP_TO_DATE = "up to date"
    """Nothing waits here. Whether rows from before the first `migrate` are the same everywhere nobody has compared."""
    BEHIND = "behind"
    NEEDS_ATTENTION = "needs attention"


@dataclass(frozen=True, slots=True)
class SourceStanding:
    """How far this node has applied another one's changes."""

    peer: str
    incarnation: str
    watermark: int
    highest_lsn: int
    behind: int
    last_tx_id: str | None
    updated_us: int


@dataclass(frozen=True, slots=True)
class ClockAhead:
    """A node whose clock was ahead of this one's by more than `limits.future_seconds`."""

    node: str
    ahead_us: int
    seen_us: int
    """When that was seen last; nothing that it wrote since shows that it was set right."""

    def __str__(self) -> str:
        return (
            f"the clock of {self.node} is {self.ahead_us / 1_000_000:,.0f} s ahead of this node's: its writes win over "
            "later ones. Set right whichever is wrong"
        )


@dataclass(frozen=True, slots=True)
class ClashingKeys:
    """A table whose keys are shared out among nodes, and in which one key was given twice within a day."""

    table: str
    conflicts: int

    def __str__(self) -> str:
        keys = _counted(self.conflicts, "key", "keys", "")
        return (
            f"{keys} of {self.table} given by two nodes within a day: do two have the same node.number? "
            f"(rowferry conflicts list --table {self.table})"
        )


@dataclass(frozen=True, slots=True)
class Queues:
    """Messages ready in the broker's queues of this node; None for a queue that doesn't stand."""

    depths: Mapping[str, int | None] = field(default_factory=dict)
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Standing:
    """Everything that `status` tells, but for what the parts add."""

    facts: NodeFacts
    dialect: str
    at_us: int
    shares: Mapping[str, Any]
    """What the parts tell of themselves: `head_lsn` and `sinks` of the producer, `unfinished_txs` of the consumer."""
    sources: tuple[SourceStanding, ...]
    queues: Queues
    dead_letters: Mapping[str, int]
    conflicts: Mapping[str, int]
    oldest_early_seconds: float | None
    drifted: tuple[str, ...]
    """Captured tables whose shape or triggers are not those that `migrate` left."""
    paused: Mapping[str, int]
    """Tables that capture is off by command, and since when: microseconds since the epoch."""
    clocks_ahead: tuple[ClockAhead, ...] = ()
    clashing_keys: tuple[ClashingKeys, ...] = ()
    peers: tuple[PeerStanding, ...] = ()
    """Those that have sent a heartbeat."""
    told: tuple[str, ...] = ()
    """What happened lately that a person should know: a log that went before it was taken, a node that came back."""
    rewound: tuple[int, str | None, int | None] | None = None
    """Since when this node is known to be put back, and up to which LSN of which incarnation others have its log."""
    own_keys: tuple[str, ...] = ()
    """Tables that number their own keys while no setting says whose are whose."""

    queued: tuple[Mapping[str, Any], ...] = ()
    """What waits in the broker's queue of a node that is not running, as `unapplied` of the consumer's share."""

    @property
    def unpublished(self) -> list[Mapping[str, Any]]:
        """What of this node's own waits, and since when nothing of it was done."""
        return [*self.shares.get("unpublished", ())]

    @property
    def unapplied(self) -> list[Mapping[str, Any]]:
        """What of other nodes waits here, and since when nothing of it was done."""
        return [*self.shares.get("unapplied", ()), *self.queued]

    @property
    def stalled(self) -> list[Mapping[str, Any]]:
        """The work that waits and of which nothing was done for `limits.stall_seconds`."""
        return [one for one in (*self.unpublished, *self.unapplied) if one["stalled"]]

    @property
    def lagging_sinks(self) -> list[Mapping[str, Any]]:
        """The ways out that have not taken the whole log."""
        return [sink for sink in self.shares.get("sinks", ()) if sink["lag_changes"]]

    @property
    def _gaps(self) -> Sequence[Mapping[str, Any]]:
        found: Sequence[Mapping[str, Any]] = self.shares.get("gaps", ())
        return found

    @property
    def attention(self) -> list[str]:
        """What a person has to look at."""
        found = [
            self._rewound,
            *map(told, self.stalled),
            _counted(self.dead_letters.get("dead", 0), "dead letter", "dead letters"),
            _counted(self.dead_letters.get("forked", 0), "batch of a rewound node", "batches of rewound nodes"),
            _counted(
                self.conflicts.get("waiting", 0), "conflict waits for a choice", "conflicts wait for a choice", ""
            ),
            *map(str, self.clocks_ahead),
            *map(str, self.clashing_keys),
            *(reason for peer in self.peers for reason in peer.attention),
            *self.told,
            self._broker_trouble,
            *self._peer_troubles,
            f"capture is out of date on {', '.join(self.drifted)}: run rowferry migrate" if self.drifted else "",
            *(
                f"{name} is paused since {to_iso(since_us)}, its changes stay here (rowferry resume {name})"
                for name, since_us in self.paused.items()
            ),
        ]
        return [reason for reason in found if reason] + [_missing(gap) for gap in self._gaps if not _heals(gap)]

    @property
    def _rewound(self) -> str:
        if self.rewound is None:
            return ""
        since_us, _, lsn = self.rewound
        had = "" if lsn is None else f": others have had its log up to LSN {lsn}"
        return (
            f"this node was put back to an earlier state, or runs twice (seen {to_iso(since_us)}){had}; "
            "run rowferry rejoin"
        )

    @property
    def _peer_troubles(self) -> list[str]:
        """What keeps this node from its HTTP peers."""
        return [
            f"{one['peer']} can't be used over HTTP since {one['unusable_since']}: {one['error']}"
            for one in self.shares.get("http_peers", ())
            if one["unusable_since"]
        ]

    @property
    def _broker_trouble(self) -> str:
        """Say that the broker can't be used, and which way the changes take meanwhile."""
        road = self.shares.get("road") or {}
        since = road.get("broker_unusable_since")
        if since is None:
            return f"broker unreachable: {self.queues.error}" if self.queues.error else ""
        found = f"the broker can't be used since {since}: {road['error']}"
        if road["fallback_error"]:
            return f"{found}; files can't be written either: {road['fallback_error']}"
        if road["fallback_since"]:
            return f"{found}; since {road['fallback_since']} the changes travel as files in [directory]"
        return f"{found}; the changes wait in the log"

    @property
    def waiting(self) -> list[str]:
        """What is on its way and needs nobody."""
        unsealed = self.shares.get("unsealed_changes", 0)
        found = [f"{unsealed} captured changes wait for rowferry run"] if unsealed else []
        found += [f"{one['lag_changes']} changes not yet sent to the {one['sink']}" for one in self.lagging_sinks]
        found += [_coming(gap) for gap in self._gaps if _heals(gap)]
        torn = {gap["peer"] for gap in self._gaps}
        found += [_not_applied(one) for one in self.sources if one.behind and one.peer not in torn]
        torn.update(one.peer for one in self.sources if one.behind)
        found += [_not_come(one) for one in self.peers if one.missing and one.node not in torn]
        found += [f"{depth} messages in {name}" for name, depth in self.queues.depths.items() if depth]
        early, unfinished = self.dead_letters.get("early", 0), self.shares.get("unfinished_txs", 0)
        found += [f"{early} transactions wait for rows that have not come yet"] if early else []
        return found + ([f"{unfinished} large transactions have not come whole"] if unfinished else [])

    @property
    def state(self) -> State:
        if self.attention:
            return State.NEEDS_ATTENTION
        return State.BEHIND if self.waiting else State.UP_TO_DATE


def read_standing(
    database: Database, config: Config, facts: NodeFacts, now_us: int, shares: Mapping[str, Any]
) -> Standing:
    """Look at the node as it stands now. The broker is given three seconds. Raises OutageError for the database."""
    paused = paused_tables(database)
    wanted = [shape for name, shape in database.catalog().tables.items() if config.tables.wants(name)]
    queues = _queues(config)
    with database.engine.connect() as connection:
        ahead = _clocks_ahead(connection)
        known = [one.node for one in ahead]
        return Standing(
            facts=facts,
            dialect=database.features.name,
            at_us=now_us,
            shares=shares,
            sources=_sources(connection),
            queues=queues,
            queued=_queued(connection, config, queues, now_us),
            dead_letters=_counts(connection, rf.dead_letter.c.state, OPEN_DEAD_LETTERS),
            conflicts=_counts(connection, rf.conflict.c.state, ("settled", "waiting")),
            oldest_early_seconds=_oldest_early(connection, now_us),
            drifted=tuple(database.capture(config.rules).drifted(wanted)),
            paused=paused,
            clocks_ahead=ahead,
            peers=read_peers(connection, agreement(config, wanted), config.limits.future_seconds, known),
            rewound=own_rewinding(connection),
            clashing_keys=_clashing_keys(connection, config, now_us),
            own_keys=own_keys(wanted, config.tables),
            told=tuple(_told(connection, now_us)),
        )


def _told(connection: sa.Connection, now_us: int) -> Iterator[str]:
    """Yield what was said once and is still news."""
    since_us = now_us - _NEWS_US
    went = read_purged(connection, "log-not-taken").values()
    for row in went:
        if row.purged_us >= since_us:
            yield (
                f"the log is purged up to LSN {row.until_lsn}, and {row.name} had not taken all of it "
                "(retention.log_max_days): who lacks it needs a copy of the data (rowferry snapshot)"
            )
    node = rf.node.c
    query = sa.select(node.node_id, node.returned_us).where(node.returned_us >= since_us).order_by(node.node_id)
    for name, returned_us in connection.execute(query):
        yield (
            f"{name} was retired and speaks again since {to_iso(returned_us)}: what was purged meanwhile it may lack. "
            "Compare it with another node, or retire it again"
        )


def _queued(connection: sa.Connection, config: Config, queues: Queues, now_us: int) -> tuple[Mapping[str, Any], ...]:
    """Return what waits in the node's queue while nobody takes it: since then, for AMQP does not tell."""
    name = f"rowferry.node.{config.node.id}"
    depth, seen = queues.depths.get(name) or 0, read_seen(connection).get("intake broker")
    if not depth or (seen is not None and is_fresh(seen, now_us)):
        return ()
    work = Work("intake broker", depth, f"messages wait in {name}, and nobody takes them (rowferry run)", "queue")
    before = {} if seen is None else {work.name: Seen(0, "", None, None, seen.looked_us)}
    return tuple(one.document(now_us) for one in waits([work], before, now_us, config.limits.stall_seconds))


def _heals(gap: Mapping[str, Any]) -> bool:
    """Whether nobody has to do anything about a gap, as it looks now."""
    return gap["heals"] and gap["asked"] < _PATIENT_ASKS and gap["gone_until_lsn"] is None


def _coming(gap: Mapping[str, Any]) -> str:
    peer, after = gap["peer"], gap["after_lsn"]
    asked = f"asked {peer} for them at {gap['asked_at']}" if gap["asked"] else f"rowferry run asks {peer} for them"
    return f"changes of {peer} after LSN {after} are missing, its log goes on to LSN {gap['highest_lsn']}; {asked}"


def _missing(gap: Mapping[str, Any]) -> str:
    """Say what is missing and what fills it."""
    peer, after, gone = gap["peer"], gap["after_lsn"], gap["gone_until_lsn"]
    if gone is not None:
        return (
            f"changes of {peer} after LSN {after} are missing, and up to LSN {gone} its log has them no more: this "
            "node needs a copy of the data (rowferry snapshot)"
        )
    asked = f"; asked {peer} {gap['asked']} times, last at {gap['asked_at']}" if gap["asked"] else ""
    return (
        f"changes of {peer} after LSN {after} are missing, its log goes on to LSN {gap['highest_lsn']} (at {peer}: "
        f"rowferry export-change-log --since {after}; here: rowferry import-change-log){asked}"
    )


def _not_come(peer: PeerStanding) -> str:
    return f"{peer.missing} changes of {peer.node} have not come yet"


def _not_applied(source: SourceStanding) -> str:
    return f"{source.behind} changes of {source.peer} not yet applied"


def _counted(count: int, one: str, many: str, remedy: str = " (rowferry dlq list)") -> str:
    return f"{count} {one if count == 1 else many}{remedy}" if count else ""


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


def _clocks_ahead(connection: sa.Connection) -> tuple[ClockAhead, ...]:
    peer = rf.node.c
    query = sa.select(peer.node_id, peer.ahead_us, peer.ahead_seen_us).where(peer.ahead_us > 0).order_by(peer.node_id)
    return tuple(ClockAhead(*row) for row in connection.execute(query))


def _clashing_keys(connection: sa.Connection, config: Config, now_us: int) -> tuple[ClashingKeys, ...]:
    met = rf.conflict.c
    query = (
        sa.select(met.table_name, sa.func.count())
        .where(
            met.state.in_(("settled", "waiting")),
            met.recorded_us > now_us - _A_DAY_US,
            met.kind == "insert",
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
    early = rf.dead_letter.c.state == "early"
    return _age(connection.scalar(sa.select(sa.func.min(rf.dead_letter.c.first_failed_us)).where(early)), now_us)


def _age(since_us: int | None, now_us: int) -> float | None:
    return None if since_us is None else max(0.0, (now_us - since_us) / 1_000_000)


def _queues(config: Config) -> Queues:
    if config.broker is None or not config.broker.is_rabbitmq:
        return Queues()
    # Not at the top: pika takes a part of a second to import, and most nodes ask often.
    from common.transports.rabbitmq import queue_depths, settings_from

    settings = settings_from(config.node.id, config.broker)
    try:
        return Queues(queue_depths(replace(settings, connect_timeout_seconds=BROKER_PATIENCE_SECONDS)))
    except (OutageError, ConfigError) as error:
        return Queues(error=str(error))
