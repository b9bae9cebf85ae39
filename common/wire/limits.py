"""What every way in takes at most, so that no sender can fill this node's memory."""

from dataclasses import dataclass

_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on what is read. All sizes in bytes, after decompression."""

    max_part_bytes: int = 64 * _MIB
    max_change_bytes: int = 512 * _MIB
    """One change put together from its chunks."""
    max_stream_bytes: int = 64 * 1024 * _MIB
    """One file."""
    max_message_bytes: int = 128 * _MIB
    """One message: it is in memory as a whole. What nodes send is one part, or some small batches."""
    max_ratio: int = 1_000
    """Decompressed to compressed, looked at above 16 MiB."""
    max_parts: int = 100_000
    max_unfinished_txs: int = 100
    """Txs of one source of which some parts are still missing."""


DEFAULT_LIMITS = Limits()
UNBOUNDED = Limits(max_ratio=10**9)
"""For what this node compressed itself after it was let in."""
