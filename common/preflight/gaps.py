"""LSNs that are missing between what the node has and what the files bring, and parts that are missing in a tx."""

from collections.abc import Iterable, Iterator

from common.preflight.contents import Contents, TxSeen
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
            text = f"lsn {reached[key] + 1} to {tx.prev_lsn} of {tx.source_node} are missing"
            yield Finding(Check.GAP, strict, text, tx.file, tx.line, tx.tx_id)
        reached[key] = max(reached[key], tx.to_lsn)


def find_missing_parts(contents: Contents, node: NodeKnowledge) -> Iterator[Finding]:
    """Yield a finding for each tx that is neither whole in the files nor made whole by parts that wait here."""
    for tx in contents.txs():
        if tx.parts == 1:
            continue
        missing = set(range(1, tx.parts + 1)) - contents.parts_of(tx)
        if missing and (missing := missing - node.stored_parts(tx.source_node, tx.tx_id)):
            text = f"tx {tx.tx_id} has {tx.parts} parts, and part {min(missing)} is missing"
            yield Finding(Check.FORMAT, True, text, tx.file, tx.line, tx.tx_id)
