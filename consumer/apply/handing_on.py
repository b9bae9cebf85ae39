"""Other nodes' batches are kept for who gets them from this node, in the commit that applies or sets them aside.

Their numbers are given under a lock that ends with the commit: what a reader sees below a number is all there is."""

from collections.abc import Sequence
from pathlib import Path

import sqlalchemy as sa

from common.config.model import Config
from common.errors import Reason
from common.schema import tables as rf
from common.transports.directory.names import is_place_in_folder
from common.wire.compress import compress
from common.wire.records import BatchHeader
from consumer.dedup import BROKEN_REASONS
from consumer.incoming import Incoming, Outcome, Result
from consumer.statements import insert_missing

_SINGLE = (
    "seq",
    "part",
    "parts",
    "source_node",
    "tx_id",
    "incarnation",
    "from_lsn",
    "to_lsn",
    "header",
    "payload",
    "bytes",
    "by_directory",
    "received_us",
)
A_PULLER = sa.select(sa.literal(1)).where(rf.token.c.revoked_us.is_(None), rf.token.c.scopes.contains("pull")).limit(1)
_NEXT = sa.update(rf.relay_head).values(seq=rf.relay_head.c.seq + sa.bindparam("txs", type_=sa.BigInteger))

NOT_FOR_OTHERS = BROKEN_REASONS | {Reason.CONTENT, Reason.SOURCE}
"""Why a batch is handed on to nobody: it can't be read, is not what was sent, or nobody knows by whom."""


def always_keeps(config: Config) -> bool:
    """Tell whether whatever comes is kept for somebody."""
    has_folder = config.directory is not None and config.broker is None
    return config.forwards and (has_folder or bool(config.peers))


def needs_readers(config: Config) -> bool:
    """Tell whether something is kept just where there is `A_PULLER`."""
    return config.forwards and not always_keeps(config)


class HandingOn:
    """Keeps batches for other nodes, within one transaction."""

    def __init__(self, connection: sa.Connection, config: Config, now_us: int) -> None:
        self._connection = connection
        self._config = config
        self._now_us = now_us

    def keep(self, results: Sequence[Result]) -> None:
        """Keep what was verified, whatever it came to here: others may be able to apply what this node can't."""
        if not self._config.forwards:
            return
        wanted = [result.incoming for result in results if _is_for_others(result)]
        if wanted and not self._has_readers():
            wanted = [one for one in wanted if self._is_for_the_folder(one)]
        if not wanted:
            return
        self._connection.execute(_NEXT, {"txs": len(wanted)})
        last = self._connection.execute(sa.select(rf.relay_head.c.seq)).scalar_one()
        numbered = list(enumerate(wanted, start=last - len(wanted) + 1))
        insert_missing(
            self._connection, rf.relay, [self._row(seq, one) for seq, one in numbered if one.raw is not None]
        )
        for seq, one in numbered:
            if one.in_parts:
                self._keep_parts(seq, one)

    def _has_readers(self) -> bool:
        return bool(self._config.peers) or self._connection.execute(A_PULLER).first() is not None

    def _is_for_the_folder(self, incoming: Incoming) -> bool:
        is_sink = self._config.directory is not None and self._config.broker is None
        return is_sink and not self._came_by_directory(incoming)

    def _came_by_directory(self, incoming: Incoming) -> bool:
        directory = self._config.directory
        if directory is None:
            return False
        # Whoever reads the folder names a file by its place there; a file that is imported by hand has its whole path.
        return is_place_in_folder(incoming.origin) or Path(incoming.origin).is_relative_to(directory.path)

    def _row(self, seq: int, incoming: Incoming) -> dict[str, object]:
        header, raw = _header(incoming), incoming.raw or b""
        line_end = raw.index(b"\n") + 1
        values = (
            seq,
            1,
            1,
            header.source_node,
            header.tx_id,
            header.incarnation,
            header.from_lsn,
            header.to_lsn,
            raw[:line_end].decode("utf-8"),
            compress(raw[line_end:], "zstd"),
            len(raw),
            self._came_by_directory(incoming),
            self._now_us,
        )
        return dict(zip(_SINGLE, values, strict=True))

    def _keep_parts(self, seq: int, incoming: Incoming) -> None:
        """Copy a large tx inside the database, unless it is kept already."""
        header, part, kept = _header(incoming), rf.tx_part, rf.relay
        is_kept = sa.exists().where(
            kept.c.source_node == part.c.source_node, kept.c.tx_id == part.c.tx_id, kept.c.part == part.c.part
        )
        stored = sa.select(
            sa.literal(seq, sa.BigInteger),
            part.c.part,
            part.c.parts,
            part.c.source_node,
            part.c.tx_id,
            sa.literal(header.incarnation, sa.Text),
            sa.literal(header.from_lsn, sa.BigInteger),
            sa.literal(header.to_lsn, sa.BigInteger),
            part.c.header,
            part.c.payload,
            part.c.bytes,
            sa.literal(self._came_by_directory(incoming), sa.Boolean),
            sa.literal(self._now_us, sa.BigInteger),
        ).where(part.c.source_node == header.source_node, part.c.tx_id == header.tx_id, ~is_kept)
        self._connection.execute(sa.insert(kept).from_select(_SINGLE, stored))


def _is_for_others(result: Result) -> bool:
    """Whether a tx was verified, came from who it says, and is not known to be a rewound node's."""
    if result.incoming.header is None or result.reason in NOT_FOR_OTHERS:
        return False
    if result.incoming.raw is not None and result.incoming.payload is None:
        return False
    return result.outcome in (Outcome.APPLIED, Outcome.DEAD, Outcome.EARLY)


def _header(incoming: Incoming) -> BatchHeader:
    if incoming.header is None:
        raise TypeError("what is handed on has a header")
    return incoming.header
