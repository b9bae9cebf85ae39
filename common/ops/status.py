"""What `status` knows: where the node stands with each sink and source, what waits, and what needs a person."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from common.clock import to_iso
from common.console import listed
from common.ops.peers import PeerStanding
from common.ops.rewinding import Rewound
from common.ops.stalls import OF_SINK, OF_SOURCE, SEALER, still_looks, told
from common.ops.status_words import (
    coming,
    counted,
    heals,
    missing,
    not_applied,
    not_come,
    not_whole,
    out_of_date,
    place,
)
from common.ports.dialect import NodeFacts
from common.visible import as_argument, resume_command

LETTERS_COMMAND = " (rowferry dlq list)"
CONFLICTS_COMMAND = " (rowferry conflicts list --state waiting)"


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
            "later ones. Correct whichever clock is wrong"
        )


@dataclass(frozen=True, slots=True)
class ClashingKeys:
    """A table whose keys are shared out among nodes, and in which one key was given twice within a day."""

    table: str
    conflicts: int

    def __str__(self) -> str:
        keys = counted(self.conflicts, "key", "keys")
        return (
            f"{keys} of {self.table} assigned by two nodes within a day: do two nodes have the same node.number? "
            f"(rowferry conflicts list --table {as_argument(self.table)})"
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
    rewound: Rewound | None = None
    """What is known of this node's being put back; None where it is not."""
    own_keys: tuple[str, ...] = ()
    """Tables that number their own keys while no setting says whose are whose."""

    for_rights: int = 0
    """Txs of state `early` that wait until somebody gives this node's account a right."""

    new_tables: tuple[str, ...] = ()
    """Those of `drifted` that were never captured."""

    verified: Mapping[str, int] = field(default_factory=dict)
    """Nodes whose tables were equal to this one's by `rowferry verify`, and when that was found last: microseconds
    since the epoch. Not those that were found to differ since."""

    run_seen_us: int | None = None
    """When a `run` on this node looked at its work last."""

    queued: tuple[Mapping[str, Any], ...] = ()
    """What waits in the broker's queue of a node that is not running, as `unapplied` of the consumer's share."""

    @property
    def is_running(self) -> bool:
        """Whether a `rowferry run` is active on this node, as far as its watchdog shows."""
        return still_looks(self.run_seen_us, self.at_us)

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
    def gaps(self) -> Sequence[Mapping[str, Any]]:
        """What is missing of sources' logs while later things of them have come."""
        found: Sequence[Mapping[str, Any]] = self.shares.get("gaps", ())
        return found

    @property
    def unfinished(self) -> Sequence[Mapping[str, Any]]:
        """Sources of whose large transactions parts are missing."""
        found: Sequence[Mapping[str, Any]] = self.shares.get("unfinished", ())
        return found

    def behind(self, peer: str) -> list[int]:
        """Return how many changes of a peer have come and are not applied, by each way of counting them."""
        come = [one.behind for one in self.sources if one.peer == peer]
        return come + [one["changes"] for one in self.unfinished if one["peer"] == peer]

    @property
    def attention(self) -> list[str]:
        """What a person has to look at."""
        letters = self.dead_letters
        found = [
            self._rewound,
            *out_of_date(self.drifted, self.new_tables),
            *map(told, self.stalled),
            # Before who is silent: where this node has no way to them that is why it hears nobody.
            self.broker_trouble,
            self.folder_trouble,
            *self.http_troubles(),
            *(peer.silence for peer in self.peers),
            counted(letters.get("dead", 0), "dead letter", "dead letters", LETTERS_COMMAND),
            counted(letters.get("forked", 0), "batch of a rewound node", "batches of rewound nodes", LETTERS_COMMAND),
            counted(self.for_rights, "transaction waits for a right", "transactions wait for a right", LETTERS_COMMAND),
            counted(
                self.conflicts.get("waiting", 0),
                "conflict waits for a choice",
                "conflicts wait for a choice",
                CONFLICTS_COMMAND,
            ),
            *map(str, self.clocks_ahead),
            *map(str, self.clashing_keys),
            *(reason for peer in self.peers for reason in peer.attention),
            *(self.disagreement(peer) for peer in self.peers),
            *self.told,
            *(
                f"{name} has been paused since {to_iso(since_us)}, its changes stay here ({resume_command(name)})"
                for name, since_us in self.paused.items()
            ),
        ]
        return [reason for reason in found if reason] + [missing(gap) for gap in self.gaps if not heals(gap)]

    def disagreement(self, peer: PeerStanding) -> str:
        """Say in what a peer is set up otherwise; nothing while this node's own capture is what is out of date."""
        return "" if self.drifted else peer.disagreement

    @property
    def _rewound(self) -> str:
        if self.rewound is None:
            return ""
        of, here = self.rewound, self.rewound.lsn
        had = [] if here is None else [f"its log up to LSN {here}"]
        had += [
            f"a log of it that is not here (incarnation {name}) up to LSN {lsn}" for name, lsn in of.elsewhere.items()
        ]
        others = f": others have received {listed(had)}" if had else ""
        return (
            f"this node was restored to an earlier state, or runs twice (seen {to_iso(of.since_us)}){others}; "
            "see who reported it (rowferry audit --action rewound, or --action restored), then run rowferry rejoin"
        )

    def http_troubles(self, peer: str | None = None) -> list[str]:
        """Return what keeps this node from its HTTP peers, or from one of them."""
        return [
            f"{one['peer']} has been unusable over HTTP since {one['unusable_since']}: {one['error']}"
            for one in self.shares.get("http_peers", ())
            if one["unusable_since"] and peer in (None, one["peer"])
        ]

    @property
    def folder_trouble(self) -> str:
        """Say that the shared folder can't be used, where it is the only way."""
        road = self.shares.get("road") or {}
        since = road.get("folder_unusable_since")
        return (
            f"the shared folder has been unusable since {since}: {road['error']}; changes wait in the log"
            if since
            else ""
        )

    @property
    def broker_trouble(self) -> str:
        """Say that the broker can't be used, and which way the changes take meanwhile."""
        road = self.shares.get("road") or {}
        since = road.get("broker_unusable_since")
        if since is None:
            return f"broker unreachable: {self.queues.error}" if self.queues.error else ""
        found = f"the broker has been unusable since {since}: {road['error']}"
        if road["fallback_error"]:
            return f"{found}; files can't be written either: {road['fallback_error']}"
        if road["fallback_since"]:
            return f"{found}; since {road['fallback_since']} changes are sent as files in the shared folder"
        return f"{found}; changes wait in the log"

    @property
    def waiting(self) -> list[str]:
        """What is on its way and needs nobody: what stands still is told by `attention`."""
        stalled = {one["work"] for one in self.stalled}
        unsealed = 0 if SEALER in stalled else self.shares.get("unsealed_changes", 0)
        found = (
            [counted(unsealed, "captured change is", "captured changes are") + " not sealed yet"] if unsealed else []
        )
        found += [
            f"{counted(one['lag_changes'], 'change', 'changes')} not yet sent to {place(one['sink'])}"
            for one in self.lagging_sinks
            if f"{OF_SINK}{one['sink']}" not in stalled
        ]
        found += [coming(gap) for gap in self.gaps if heals(gap)]
        torn = {gap["peer"] for gap in self.gaps}
        torn.update(name.removeprefix(OF_SOURCE) for name in stalled if name.startswith(OF_SOURCE))
        found += [not_applied(one.behind, one.peer) for one in self.sources if one.behind and one.peer not in torn]
        torn.update(one.peer for one in self.sources if one.behind)
        found += [not_come(one) for one in self.peers if one.missing and not one.is_silent and one.node not in torn]
        found += [
            f"{counted(depth, 'message', 'messages')} in {name}" for name, depth in self.queues.depths.items() if depth
        ]
        early = self.dead_letters.get("early", 0) - self.for_rights
        found += (
            [counted(early, "transaction waits", "transactions wait") + " for rows that have not arrived yet"]
            if early
            else []
        )
        return found + [not_whole(one, one["peer"]) for one in self.unfinished]

    @property
    def state(self) -> State:
        if self.attention:
            return State.NEEDS_ATTENTION
        return State.BEHIND if self.waiting else State.UP_TO_DATE
