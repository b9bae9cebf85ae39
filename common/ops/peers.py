"""The peers as their heartbeats show them: who is silent, whose clock is off, who disagrees, who was rewound."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from common.clock import to_iso
from common.config.model import Config
from common.ops.agreement import Agreement
from common.schema import tables as rf

MISSED_HEARTBEATS = 3
_AWAY = {
    "broker": ", or whether it can no longer reach the broker",
    "folder": ", or whether the shared folder no longer delivers its files",
    "": "",
}


@dataclass(frozen=True, slots=True)
class PeerStanding:
    """What a peer said last. LSNs count in `incarnation`, instants are microseconds since the epoch."""

    node: str
    incarnation: str
    heard_us: int
    head_lsn: int
    head_tx_id: str | None
    missing: int
    """Changes of its log that this node has not, neither applied nor set aside."""
    clock_us: int
    """Its clock before this node's as far as that can be told: a message that took long makes it look behind."""
    clock_is_off: bool
    release: str
    is_silent: bool
    stuck: int
    """Changes of its log that have not come here at all."""
    road: str
    """What may be away between the two beside the line: `broker`, `folder`, or nothing."""
    is_signed: bool
    """What it says is taken by its signature alone."""
    schema_differs: bool
    policies_differ: bool
    rewound_us: int | None

    @property
    def silence(self) -> str:
        """Say since when it is silent, what is stuck there, and what to look at; nothing of one that speaks."""
        if not self.is_silent:
            return ""
        stuck = ""
        if self.stuck:
            changes = "change of it is" if self.stuck == 1 else "changes of it are"
            stuck = f"; {self.stuck} {changes} stuck there until it is back"
        refused = ", or whether what it says is refused here (control_refused in the log)" if self.is_signed else ""
        return (
            f"{self.node} has been silent since {to_iso(self.heard_us)}{stuck}: check whether its machine is on, its "
            f"network is up and `rowferry run` is running there{_AWAY[self.road]}{refused}"
        )

    @property
    def attention(self) -> Iterator[str]:
        """Yield what a person has to look at, but for its silence and what it is set up otherwise in."""
        if self.rewound_us is not None:
            yield (
                f"{self.node} was restored to an earlier state (its log ends at LSN {self.head_lsn}, this node has "
                f"received more or something else of it, seen {to_iso(self.rewound_us)}): run rowferry rejoin there"
            )
        if self.clock_is_off:
            side = "ahead of" if self.clock_us > 0 else "behind"
            yield f"the clock of {self.node} is {abs(self.clock_us) / 1_000_000:,.0f} s {side} this node's"

    @property
    def disagreement(self) -> str:
        """Say in what it is set up otherwise. Other tables have other policies with them: that is one cause."""
        if self.schema_differs:
            return f"{self.node} has different tables, keys or columns in sync than this node"
        return f"{self.node} has different policies than this node (tables.policy)" if self.policies_differ else ""

    @property
    def document(self) -> dict[str, Any]:
        """The peer as `status --json` gives it."""
        return {
            "node": self.node,
            "incarnation": self.incarnation,
            "heard_at": to_iso(self.heard_us),
            "head_lsn": self.head_lsn,
            "head_tx_id": self.head_tx_id,
            "missing": self.missing,
            "clock_seconds": self.clock_us / 1_000_000,
            "clock_is_off": self.clock_is_off,
            "release": self.release,
            "silent": self.is_silent,
            "schema_differs": self.schema_differs,
            "policies_differ": self.policies_differ,
            "rewound_since": None if self.rewound_us is None else to_iso(self.rewound_us),
        }


def read_peers(
    connection: sa.Connection, config: Config, agreed: Agreement, clocks_known: Iterable[str]
) -> tuple[PeerStanding, ...]:
    """Return the peers that have sent a heartbeat. `clocks_known`: whose clocks their writes tell of already."""
    peer, mark = rf.node, rf.sync_state
    is_its = sa.and_(
        mark.c.peer == peer.c.node_id, mark.c.incarnation == peer.c.head_incarnation, mark.c.direction == "in"
    )
    query = (
        sa.select(
            peer,
            sa.func.coalesce(mark.c.last_lsn, 0).label("watermark"),
            sa.func.coalesce(mark.c.highest_lsn, 0).label("came"),
        )
        .select_from(peer.outerjoin(mark, is_its))
        .where(peer.c.heard_us.is_not(None), peer.c.is_self.is_(False))
        .order_by(peer.c.node_id)
    )
    listened_us = connection.scalar(sa.select(peer.c.heard_us).where(peer.c.is_self)) or 0
    told, bound_us = set(clocks_known), config.limits.future_seconds * 1_000_000
    signers = {name.lower() for name in config.signers}
    return tuple(
        _standing(
            row,
            agreed,
            listened_us,
            bound_us,
            is_told=row["node_id"] in told,
            road=_road(config, row["node_id"]),
            is_signed=config.node.require_signed or row["node_id"].lower() in signers,
        )
        for row in connection.execute(query).mappings()
    )


def _road(config: Config, name: str) -> str:
    if name in config.peers:
        return ""
    if config.broker is not None:
        return "broker"
    return "folder" if config.directory is not None else ""


def _standing(
    row: Mapping[Any, Any],
    agreed: Agreement,
    listened_us: int,
    bound_us: float,
    *,
    is_told: bool,
    road: str,
    is_signed: bool,
) -> PeerStanding:
    clock_us = row["clock_us"]
    # What is ahead is so for sure; what looks behind may just have been long on its way, unless it is so each time.
    is_off = clock_us > bound_us or (clock_us < -bound_us and row["clock_steady"])
    return PeerStanding(
        node=row["node_id"],
        incarnation=row["head_incarnation"],
        heard_us=row["heard_us"],
        head_lsn=row["head_lsn"],
        head_tx_id=row["head_tx_id"],
        missing=max(0, row["head_lsn"] - row["watermark"]),
        clock_us=clock_us,
        clock_is_off=is_off and not (is_told and clock_us > 0),
        release=row["release"],
        # As of when this node itself listened last: a node that is stopped hears nobody.
        is_silent=listened_us - row["heard_us"] > MISSED_HEARTBEATS * row["every_us"],
        stuck=max(0, row["head_lsn"] - max(row["watermark"], row["came"])),
        road=road,
        is_signed=is_signed,
        schema_differs=row["schema_sha256"] != agreed.schema_sha256,
        policies_differ=row["policies_sha256"] != agreed.policies_sha256,
        rewound_us=row["rewound_us"],
    )
