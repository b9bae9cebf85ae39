"""Txs in parts: whether all parts are there, each with one content, and whether together they are what they say."""

from collections.abc import Iterator
from contextlib import closing

from common.errors import Reason
from common.preflight.changes import ChangesSeen, look_at_changes
from common.preflight.contents import Contents, Cut, PartSeen
from common.preflight.findings import Check, Finding
from common.preflight.known import NodeKnowledge
from common.wire.records import Part


def same_part(first: PartSeen, other: Part, sha256: str, file: str) -> Finding | None:
    """Return the finding when one part stands twice in the files with two contents."""
    if first.sha256 == sha256:
        return None
    header = other.header
    text = f"part {header.part} of tx {header.tx_id} stands in {first.file}, line {first.line} with another content"
    return Finding(Check.DUPLICATE, True, text, file, other.line, header.tx_id)


def look_at_parts(contents: Contents, node: NodeKnowledge) -> Iterator[Finding]:
    """Yield the faults of all txs that came in parts. One that came whole in any cut is not missed in another."""
    incomplete: list[tuple[Cut, list[PartSeen]]] = []
    whole: set[tuple[str, str]] = set()
    for cut in contents.cuts():
        parts = contents.parts_of(cut)
        first, *others = contents.headers_of(cut)
        if (odd := next((one for one in others if one.of_tx != first.of_tx), None)) is not None:
            yield _not_of_it(cut, next(part for part in parts if part.part == odd.part), first.part)
        elif len(parts) < cut.parts:
            incomplete.append((cut, parts))
            continue
        else:
            with closing(contents.payloads_of(cut)) as payloads:
                yield from _faults(cut, parts, look_at_changes(first, payloads))
        whole.add((cut.source_node, cut.tx_id))
    for cut, parts in incomplete:
        if (cut.source_node, cut.tx_id) not in whole:
            yield from _missing(cut, parts, node)


def _not_of_it(cut: Cut, part: PartSeen, first: int) -> Finding:
    said = "its LSNs, its tables or what it requires"
    text = f"parts {first} and {part.part} of tx {cut.tx_id} do not say the same of it: {said}"
    return Finding(Check.FORMAT, True, text, part.file, part.line, cut.tx_id)


def _faults(cut: Cut, parts: list[PartSeen], seen: ChangesSeen) -> Iterator[Finding]:
    if seen.fault is not None:
        number, line = seen.place
        as_a_whole = seen.fault.reason is Reason.CHECKSUM
        at = parts[0] if as_a_whole else parts[max(number, 1) - 1]
        check = Check.CHECKSUM if as_a_whole else Check.FORMAT
        yield Finding(check, True, str(seen.fault), at.file, at.line + (0 if as_a_whole else line), cut.tx_id)
    elif seen.ddl:
        text = "DDL in a tx that comes in parts is never applied"
        yield Finding(Check.DDL, True, text, parts[0].file, parts[0].line, cut.tx_id)


def _missing(cut: Cut, parts: list[PartSeen], node: NodeKnowledge) -> Iterator[Finding]:
    known = node.known(cut.source_node, [cut.tx_id]).get(cut.tx_id)
    if known is not None and known.applied:
        return
    missing = set(range(1, cut.parts + 1)) - {part.part for part in parts}
    if missing := missing - node.stored_parts(cut.source_node, cut.tx_id, cut.parts):
        text = f"tx {cut.tx_id} has {cut.parts} parts, and part {min(missing)} is missing"
        yield Finding(Check.FORMAT, True, text, parts[0].file, parts[0].line, cut.tx_id)
