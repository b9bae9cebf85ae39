"""Sealed txs to envelopes: under a backlog many small ones share a message, parts of a large one travel alone."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from common.ports.sink import Envelope
from common.wire.encode import EncodedPart, encode_tx
from common.wire.records import SealedTx


@dataclass(frozen=True, slots=True)
class Sizes:
    """How large things may become, in bytes."""

    max_batch_bytes: int
    message_bytes: int
    """About where a message with many small txs is full."""


_BULK_BYTES = 2 * 1024 * 1024


def bulky(sizes: Sizes) -> Sizes:
    """Return sizes for a sink that waits for an answer to each message."""
    return replace(sizes, message_bytes=max(sizes.message_bytes, _BULK_BYTES))


def pack(txs: Iterable[SealedTx], sizes: Sizes) -> Iterator[Envelope]:
    """Yield the envelopes of `txs` in order. What is there is packed; nothing waits for more to come.

    Holds about one message and one part of a large tx in memory."""
    message = _Message()
    for tx in txs:
        for part in encode_tx(tx, sizes.max_batch_bytes):
            if message.parts and (part.parts > 1 or message.size + len(part.body) > sizes.message_bytes):
                yield message.envelope()
                message = _Message()
            if part.parts > 1:
                yield _alone(part)
            else:
                message.add(part)
    if message.parts:
        yield message.envelope()


@dataclass(slots=True)
class _Message:
    """Whole txs that will share one envelope."""

    parts: list[EncodedPart] = field(default_factory=list)
    size: int = 0

    def add(self, part: EncodedPart) -> None:
        self.parts.append(part)
        self.size += len(part.body)

    def envelope(self) -> Envelope:
        first, last = self.parts[0].header, self.parts[-1].header
        return Envelope(
            body=b"".join(part.body for part in self.parts),
            source_node=first.source_node,
            incarnation=first.incarnation,
            from_lsn=first.from_lsn,
            to_lsn=last.to_lsn,
            tx_id=first.tx_id,
            txs=len(self.parts),
            closes_lsn=last.to_lsn,
        )


def _alone(part: EncodedPart) -> Envelope:
    header = part.header
    return Envelope(
        body=part.body,
        source_node=header.source_node,
        incarnation=header.incarnation,
        from_lsn=header.from_lsn,
        to_lsn=header.to_lsn,
        tx_id=header.tx_id,
        closes_lsn=header.to_lsn if part.is_last else None,
    )
