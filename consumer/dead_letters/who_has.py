"""Who else has the transaction of a dead letter, as far as this node knows: what peers have said themselves.

A peer says up to where it has passed each log without a gap: what lies below it has applied, or set aside as a dead
letter of its own. What it has not said it may have all the same."""

from collections.abc import Mapping, Sequence

from common.ops.passed import OriginKey, live_peers, read_passed
from common.ports.dialect import BY_SEALING
from common.runtime.node import Node
from consumer.apply.handing_on import NOT_FOR_OTHERS
from consumer.dead_letters.states import LetterState
from consumer.dead_letters.table_store import Letter
from consumer.statements import reading
from consumer.watermark import UNSURE

MOST_NAMES = 20
"""So many nodes are named in one sentence; the others are counted."""


def who_has(node: Node, letters: Sequence[Letter]) -> list[list[str]]:
    """Return sentences for each letter. Raises OutageError, ContentionError."""
    with reading(node.database) as connection:
        peers = live_peers(connection, node.config, node.facts)
        said = read_passed(connection, peers, {letter.source_node for letter in letters})
    return [_of_one(letter, [peer for peer in peers if peer != letter.source_node], said, node) for letter in letters]


def what_it_means(node: Node) -> str:
    """Say what those sentences rest on."""
    return (
        "Each node has said so itself, when it last spoke. A node that has it has applied it, or made a dead letter of "
        f"it there; one that has not said so may have it by now. {node.facts.node_id} can't know more."
    )


def _of_one(letter: Letter, peers: Sequence[str], said: Mapping[str, Mapping[OriginKey, int]], node: Node) -> list[str]:
    if letter.origin == BY_SEALING:
        return ["This node set its own rows aside before they were sent: no other node has them from here."]
    end, incarnation = letter.to_lsn, letter.incarnation
    if end is None or incarnation is None or _may_lie(letter):
        return ["It is not proven which transaction this is, so it is not known who has it."]
    if not peers:
        return [f"{node.facts.node_id} knows of no other node than {letter.source_node}."]
    up_to = {peer: said.get(peer, {}).get((letter.source_node, incarnation)) for peer in peers}
    having = [peer for peer, lsn in up_to.items() if lsn is not None and lsn >= end]
    found = [f"{_names(having)} {'has' if len(having) == 1 else 'have'} it."] if having else []
    behind = {peer: lsn for peer, lsn in up_to.items() if lsn is not None and lsn < end}
    for lsn in sorted(set(behind.values()), reverse=True)[:MOST_NAMES]:
        those = [peer for peer, at in behind.items() if at == lsn]
        has = "has" if len(those) == 1 else "have"
        found.append(f"{_names(those)} {has} {letter.source_node}'s log only up to LSN {lsn}; this ends at LSN {end}.")
    if unknown := [peer for peer, lsn in up_to.items() if lsn is None]:
        found.append(f"It is not known here whether {_names(unknown)} {'has' if len(unknown) == 1 else 'have'} it.")
    return found


def _may_lie(letter: Letter) -> bool:
    """Whether the numbers in it may be those of another transaction."""
    return letter.state is LetterState.FORKED or letter.reason in UNSURE or letter.reason in NOT_FOR_OTHERS


def _names(peers: Sequence[str]) -> str:
    more = len(peers) - MOST_NAMES
    return ", ".join(peers[:MOST_NAMES]) + (f" and {more:,} more" if more > 0 else "")
