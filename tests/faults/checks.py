"""The invariants of SPEC 9, by counting. Pure: what was found on the nodes goes in, what is wrong comes out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.faults.ledger import Journal

Rows = list[tuple[Any, ...]]


@dataclass
class Found:
    """What one node holds once everything has come to rest."""

    node: str
    log: dict[str, list[str]]
    """The ids of `entry` that each sealed tx of its own inserts, by tx_id."""
    tables: dict[str, Rows]
    applied: Counter[tuple[str, str]] = field(default_factory=Counter)
    """How often the audit says that a tx of another node was applied, by source and tx_id."""
    letters: dict[tuple[str, str], str] = field(default_factory=dict)
    """Reasons of open dead letters, by source and tx_id."""
    witnessed: Counter[str] | None = None
    """How often each id of `entry` was written, where the database can tell."""
    halves: Sequence[str] = ()
    """What a reader saw in part at some moment."""


def violations(
    journals: Mapping[str, Journal], found: Mapping[str, Found], expected_letters: Iterable[str] = ()
) -> list[str]:
    """Return everything that is wrong. `expected_letters`: reasons for which a batch may have been set aside."""
    allowed = set(expected_letters)
    wrong: list[str] = []
    for journal in journals.values():
        wrong += _own_log(journal, found[journal.node])
    for one in found.values():
        wrong += _wholes(one)
        wrong += one.halves
        wrong += _letters(one, allowed)
        for source in found.values():
            if source is not one:
                wrong += _applied(one, source)
                wrong += _arrived(one, source, journals[source.node])
    wrong += _equal(list(found.values()))
    return wrong


def _own_log(journal: Journal, found: Found) -> Iterator[str]:
    """Each committed write is in its node's log exactly once, whole, in one tx; what was refused is not."""
    places: dict[str, list[str]] = {}
    for tx_id, ids in found.log.items():
        for one in ids:
            places.setdefault(one, []).append(tx_id)
    expected: set[str] = set()
    for number, parts in journal.tried.items():
        ids = [f"{journal.node}-{number}-{part}" for part in range(parts)]
        expected.update(ids)
        many = [len(places.get(one, ())) for one in ids]
        if number in journal.committed and many != [1] * parts:
            yield f"{journal.node}: committed tx {number} is {many} times in the log"
        elif number in journal.refused and many != [0] * parts:
            yield f"{journal.node}: tx {number} was never committed, and is in the log"
        elif many not in ([0] * parts, [1] * parts):
            yield f"{journal.node}: tx {number} is {many} times in the log"
        if len({tx_id for one in ids for tx_id in places.get(one, ())}) > 1:
            yield f"{journal.node}: tx {number} is torn over several txs of the log"
    for one in places.keys() - expected:
        yield f"{journal.node}: the log has {one}, which nobody wrote"


def _applied(found: Found, source: Found) -> Iterator[str]:
    """Each tx of the source's log was applied once, or stands in a dead letter."""
    for tx_id in source.log:
        many = found.applied[source.node, tx_id]
        is_letter = (source.node, tx_id) in found.letters
        if many > 1 or (many == 0 and not is_letter):
            yield f"{found.node}: {source.node}'s tx {tx_id} was applied {many} times"
    for of, tx_id in found.applied:
        if of == source.node and tx_id not in source.log:
            yield f"{found.node}: {of}'s tx {tx_id} was applied, and is not in its log"


def _arrived(found: Found, source: Found, journal: Journal) -> Iterator[str]:
    """Each committed write of the source is in the tables, or in a dead letter."""
    here = {row[0] for row in found.tables["entry"]}
    aside = {one for tx_id, ids in source.log.items() if (source.node, tx_id) in found.letters for one in ids}
    for number in journal.committed:
        missing = {f"{journal.node}-{number}-{part}" for part in range(journal.tried[number])} - here - aside
        if missing:
            yield f"{found.node}: {journal.node}'s committed tx {number} is lost: {sorted(missing)}"


def _wholes(found: Found) -> Iterator[str]:
    """Rows of a tx are all there, and what comes to nothing comes to nothing; nothing was written twice."""
    txs: dict[tuple[str, int], list[tuple[int, int]]] = {}
    for _, node, number, parts, amount in found.tables["entry"]:
        txs.setdefault((node, number), []).append((parts, amount))
    for (node, number), rows in txs.items():
        if {parts for parts, _ in rows} != {len(rows)} or sum(amount for _, amount in rows):
            yield f"{found.node}: {node}'s tx {number} is there in part: {rows}"
    sums: Counter[str] = Counter()
    for _, node, amount in found.tables["account"]:
        sums[node] += amount
    for node, total in sums.items():
        if total:
            yield f"{found.node}: the accounts of {node} come to {total}"
    if found.witnessed is not None:
        for one, many in found.witnessed.items():
            if many != 1:
                yield f"{found.node}: {one} was written {many} times"


def _letters(found: Found, allowed: set[str]) -> Iterator[str]:
    for (source, tx_id), reason in found.letters.items():
        if reason not in allowed:
            yield f"{found.node}: {source}'s tx {tx_id} was set aside ({reason})"


def _equal(found: Sequence[Found]) -> Iterator[str]:
    """All nodes hold the same rows, but for those of dead letters, which are named."""
    aside = {
        one for at in found for source in found for tx_id, ids in source.log.items()
        if (source.node, tx_id) in at.letters for one in ids
    }  # fmt: skip
    has_letters = any(one.letters for one in found)
    for table in found[0].tables:
        if has_letters and table != "entry":
            # A tx that is set aside leaves the others' accounts and shared rows as they are.
            continue
        first = {row for row in found[0].tables[table] if row[0] not in aside}
        for other in found[1:]:
            differing = first ^ {row for row in other.tables[table] if row[0] not in aside}
            if differing:
                some = sorted(differing, key=repr)[:4]
                yield f"{table}: {found[0].node} and {other.node} differ in {len(differing)} rows, like {some}"
