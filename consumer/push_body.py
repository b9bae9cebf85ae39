"""The body of a push: looked through whole before the first row is written, then cut into deliveries."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from common.errors import PoisonError, Reason
from common.http.callers import Caller
from common.http.encodings import in_chunks
from common.http.problems import ProblemError, refused_body
from common.http.scopes import Scope
from common.wire.compress import open_decompressed
from common.wire.decode import Broken, read_parts
from common.wire.limits import Limits
from common.wire.proving import part_fault
from common.wire.records import Part
from common.wire.signing import Trust
from consumer.dedup import TxKey

_MOST_DELIVERY_BYTES = 4 * 1024 * 1024
_MOST_TXS = 100_000
"""Each takes some KiB until it is answered."""


@dataclass(frozen=True, slots=True)
class Body:
    """One body, kept in memory or in a temporary file, wrapped as it travelled."""

    file: BinaryIO
    encoding: str | None
    limits: Limits
    trust: Trust

    def txs(self, caller: Caller) -> list[TxKey]:
        """Return its txs in order. Raises ProblemError where it is torn, altered, or not the caller's to send."""
        found: dict[TxKey, None] = {}
        try:
            for item in read_parts(self._opened(), self.limits, to_first_fault=True):
                if isinstance(item, Broken):
                    raise _refused(item.error, item.line)
                source = item.header.source_node
                if source != caller.node_id and Scope.FORWARD not in caller.scopes:
                    text = f"the token speaks for {caller.node_id}, not for {source}: that needs scope forward"
                    raise ProblemError(403, text, reason="source", line=item.line)
                self._check_own(item, source, caller)
                found[source, item.header.tx_id] = None
                if len(found) > _MOST_TXS:
                    raise _refused(PoisonError(Reason.LIMIT, f"more than {_MOST_TXS} txs in one body"), item.line)
        except PoisonError as error:
            raise _refused(error, None) from error
        return list(found)

    def _check_own(self, part: Part, source: str, caller: Caller) -> None:
        """Refuse what the caller itself has to sign, and has not. What it only hands on is set aside when its turn
        comes: one bad batch must not keep the others behind it waiting."""
        fault = part_fault(part, self.trust) if source == caller.node_id else None
        if fault is not None:
            raise ProblemError(
                403, f"{fault}; nothing of the body was applied", reason=fault.reason.value, line=part.line
            )

    def pieces(self) -> Iterator[bytes]:
        """Yield its batches again, some at a time. Memory is bounded by one piece or by one part of a large tx."""
        yield from in_chunks((item.raw for item in read_parts(self._opened(), self.limits)), _MOST_DELIVERY_BYTES)

    def _opened(self) -> BinaryIO:
        size = self.file.seek(0, os.SEEK_END)
        self.file.seek(0)
        return open_decompressed(self.file, self.encoding, size, self.limits)

    def close(self) -> None:
        self.file.close()


def _refused(error: PoisonError, line: int | None) -> ProblemError:
    return refused_body(error, "nothing of the body was applied", line=line)
