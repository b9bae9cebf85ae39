"""Sealed txs to envelopes: under a backlog many small ones share a message, parts of a large one travel alone."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from common.config.model import Config
from common.ports.dialect import SealedLog, WritesBatches
from common.ports.sink import Envelope
from common.wire.encode import EncodedPart, encode_tx, small_batch
from common.wire.records import SealedTx, SmallTx, TxHeader
from common.wire.signing import Signer


@dataclass(frozen=True, slots=True)
class Packing:
    """How txs become messages. Sizes in bytes."""

    max_batch_bytes: int
    message_bytes: int
    """About where a message with many small txs is full."""
    signer: Signer | None = None
    """Who signs each batch."""

    @classmethod
    def of(cls, config: Config) -> "Packing":
        """Return how this node packs what it says."""
        return cls(config.limits.max_batch_bytes, config.limits.message_bytes, config.signer())


_BULK_BYTES = 2 * 1024 * 1024


def bulky(packing: Packing) -> Packing:
    """Return packing for a sink that waits for an answer to each message."""
    return replace(packing, message_bytes=max(packing.message_bytes, _BULK_BYTES))


def read_packed(log: SealedLog, after_lsn: int, limit_bytes: int, packing: Packing) -> Iterator[Envelope | SealedTx]:
    """Yield the txs after `after_lsn` for `pack`, as `SealedLog.read` does. A database has no key to sign with."""
    if packing.signer is None and isinstance(log, WritesBatches):
        return log.read_packed(after_lsn, limit_bytes, packing.message_bytes, packing.max_batch_bytes)
    return log.read(after_lsn, limit_bytes)


def pack(txs: Iterable[Envelope | SealedTx], packing: Packing) -> Iterator[Envelope]:
    """Yield the envelopes of `txs` in order. What is there is packed; nothing waits for more to come. Envelopes among
    them pass as they are.

    Holds about one message and one part of a large tx in memory."""
    message = _Message()
    for tx in txs:
        if isinstance(tx, Envelope):
            if message.bodies:
                yield message.envelope()
                message = _Message()
            yield tx
            continue
        for body, part in _bodies(tx, packing):
            if message.bodies and (part is not None or message.size + len(body) > packing.message_bytes):
                yield message.envelope()
                message = _Message()
            if part is not None:
                yield _alone(part)
            else:
                message.add(tx.header, body)
    if message.bodies:
        yield message.envelope()


def _bodies(tx: SealedTx, packing: Packing) -> Iterator[tuple[bytes, EncodedPart | None]]:
    """Yield the batches of `tx`; a part of several, which travels alone, as such."""
    body = small_batch(tx, packing.max_batch_bytes, packing.signer) if isinstance(tx, SmallTx) else None
    if body is not None:
        yield body, None
        return
    for part in encode_tx(tx, packing.max_batch_bytes, packing.signer):
        yield part.body, part if part.parts > 1 else None


@dataclass(slots=True)
class _Message:
    """Whole txs that will share one envelope."""

    bodies: list[bytes] = field(default_factory=list)
    headers: list[TxHeader] = field(default_factory=list)
    size: int = 0

    def add(self, header: TxHeader, body: bytes) -> None:
        self.headers.append(header)
        self.bodies.append(body)
        self.size += len(body)

    def envelope(self) -> Envelope:
        first, last = self.headers[0], self.headers[-1]
        return Envelope(
            body=b"".join(self.bodies),
            source_node=first.source_node,
            incarnation=first.incarnation,
            from_lsn=first.from_lsn,
            to_lsn=last.to_lsn,
            tx_id=first.tx_id,
            txs=len(self.bodies),
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
