"""LSNs that are missing between what the node has and what the files bring."""

from collections.abc import Iterable, Iterator

from common.preflight.contents import TxSeen
from common.preflight.findings import Check, Finding
from common.preflight.known import NodeKnowledge


def find_gaps(txs: Iterable[TxSeen], node: NodeKnowledge, *, strict: bool) -> Iterator[Finding]:
    """Yield a finding for each stretch of LSNs that neither the node nor the files have. `txs` in log order."""
    reached: dict[tuple[str, str], int] = {}
    for tx in txs:
        key = tx.source_node, tx.incarnation
        if key not in reached:
            reached[key] = node.reached(*key, 0)
        if tx.prev_lsn > reached[key]:
            reached[key] = node.reached(*key, reached[key])
        if tx.prev_lsn > reached[key]:
            first, last = reached[key] + 1, tx.prev_lsn
            which = (
                f"lsn {last} of {tx.source_node} is"
                if first == last
                else f"lsn {first} to {last} of {tx.source_node} are"
            )
            yield Finding(Check.GAP, strict, f"{which} missing", tx.file, tx.line, tx.tx_id)
        reached[key] = max(reached[key], tx.to_lsn)
