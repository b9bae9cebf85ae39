"""What `status` says of gaps and of what is on its way, in words that name the remedy."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from common.ops.peers import PeerStanding

A_COPY = "a copy of the data (rowferry snapshot export at a node that has it, snapshot import --replace)"
"""What helps where the log has something no more."""
NOR_HAVE_OTHERS = (
    "Nodes that had not received them lack them too, and nothing tells them so: run rowferry verify PEER --repair"
    " --overtake there, where PEER is a node that has them"
)
"""What is to be said beside it where a node lost changes of its own that some of the others had."""
_PATIENT_ASKS = 3
"""So often a source is asked for what is missing before a person is told."""


def place(sink: str) -> str:
    """Return where a way out leads, as an operator calls it. `sink`: `broker`, `directory`, `http-PEER`."""
    if sink == "directory":
        return "the shared folder"
    return f"{sink.removeprefix('http-')} over HTTP" if sink.startswith("http-") else f"the {sink}"


def came_by(origin: str, source: str) -> str:
    """Return which way a batch came, as an operator calls it. `origin`: as `rf_dead_letter` has it; `source`: whose
    batch it is."""
    if origin.startswith("http:"):
        peer = origin.removeprefix("http:")
        return f"over HTTP from {peer}" + ("" if peer == source else ", which handed it on")
    if origin.startswith("rowferry.node."):
        return f"by the broker, in its queue {origin}"
    if origin == "queue":
        return "by the broker, in one of its own copies"
    return f"in the file {origin}" if "/" in origin or "." in origin else f"by {origin}"


def heals(gap: Mapping[str, Any]) -> bool:
    """Whether nobody has to do anything about a gap, as it looks now."""
    return gap["heals"] and gap["asked"] < _PATIENT_ASKS and gap["gone_until_lsn"] is None


def coming(gap: Mapping[str, Any]) -> str:
    """Say what is missing and on its way."""
    peer, after = gap["peer"], gap["after_lsn"]
    asked = f"asked {peer} for them at {gap['asked_at']}" if gap["asked"] else f"rowferry run asks {peer} for them"
    return f"changes of {peer} after LSN {after} are missing, its log goes on to LSN {gap['highest_lsn']}; {asked}"


def missing(gap: Mapping[str, Any]) -> str:
    """Say what is missing and what fills it."""
    peer, after, gone = gap["peer"], gap["after_lsn"], gap["gone_until_lsn"]
    if gone is not None:
        return (
            f"changes of {peer} after LSN {after} are missing, and up to LSN {gone} its log no longer has them: this "
            f"node needs {A_COPY}"
        )
    asked = f"; asked {peer} {gap['asked']} times, last at {gap['asked_at']}" if gap["asked"] else ""
    return (
        f"changes of {peer} after LSN {after} are missing, its log goes on to LSN {gap['highest_lsn']} (at {peer}: "
        f"rowferry export-change-log --since {after} --out FILE; here: rowferry import-change-log FILE){asked}"
    )


def not_come(peer: PeerStanding) -> str:
    """Say how much of a peer's log is known of and has not come."""
    have = "has" if peer.missing == 1 else "have"
    return f"{counted(peer.missing, 'change', 'changes')} of {peer.node} {have} not arrived yet"


def not_applied(behind: int, peer: str) -> str:
    """Say how much of a source waits here."""
    return f"{counted(behind, 'change', 'changes')} of {peer} not yet applied"


def not_whole(unfinished: Mapping[str, Any], peer: str) -> str:
    """Say that parts of a source's large txs are missing."""
    txs = counted(unfinished["txs"], f"large transaction of {peer} has", f"large transactions of {peer} have")
    parts, changes = counted(unfinished["parts"], "part", "parts"), counted(unfinished["changes"], "change", "changes")
    return f"{txs} not arrived completely ({parts} so far, {changes} in all)"


def out_of_date(drifted: Sequence[str], new: Sequence[str]) -> Iterator[str]:
    """Say of which tables capture is out of date, and what helps. `new`: those that were never captured."""
    if new:
        many = "tables" if len(new) > 1 else "table"
        are = "are" if len(new) > 1 else "is"
        yield f"{many} {', '.join(new)} {are} new here and not captured yet: on this node run `rowferry migrate`"
    if changed := [name for name in drifted if name not in new]:
        yield f"capture is out of date on {', '.join(changed)}: on this node run `rowferry migrate`"


def counted(count: int, one: str, many: str, remedy: str = "") -> str:
    """Return a count in words, with what helps; nothing for none."""
    return f"{count} {one if count == 1 else many}{remedy}" if count else ""
