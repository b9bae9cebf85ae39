"""One `tx_id`, one content: within the files, and against what the node has seen."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice

from common.preflight.contents import TxSeen
from common.preflight.findings import Check, Finding
from common.preflight.known import NodeKnowledge

_PAGE = 1_000


@dataclass(slots=True)
class Known:
    """What of the files is no news."""

    already_applied: int = 0
    findings: list[Finding] = field(default_factory=list)


def same_tx(first: TxSeen, other: TxSeen) -> Finding | None:
    """Return the finding when a tx_id stands twice in the files with two contents. How it was cut is no content."""
    if _content(first) == _content(other):
        return None
    text = f"tx {other.tx_id} of {other.source_node} stands in {first.file}, line {first.line} with another content"
    return Finding(Check.DUPLICATE, True, text, other.file, other.line, other.tx_id)


def _content(tx: TxSeen) -> tuple[object, ...]:
    return tx.sha256, tx.incarnation, tx.prev_lsn, tx.from_lsn, tx.to_lsn


def compare_with_node(txs: Iterable[TxSeen], node: NodeKnowledge) -> Known:
    """Count what the node has applied already, and find what it knows with another content."""
    result = Known()
    for page in _pages(txs):
        by_source: dict[str, list[TxSeen]] = {}
        for tx in page:
            by_source.setdefault(tx.source_node, []).append(tx)
        for source_node, ours in by_source.items():
            known = node.known(source_node, [tx.tx_id for tx in ours])
            for tx in ours:
                if (found := known.get(tx.tx_id)) is None:
                    continue
                if found.sha256 != tx.sha256:
                    text = f"tx {tx.tx_id} of {tx.source_node} is known here with another content"
                    result.findings.append(Finding(Check.DUPLICATE, True, text, tx.file, tx.line, tx.tx_id))
                else:
                    result.already_applied += found.applied
    return result


def _pages(txs: Iterable[TxSeen]) -> Iterator[list[TxSeen]]:
    rest = iter(txs)
    while page := list(islice(rest, _PAGE)):
        yield page
