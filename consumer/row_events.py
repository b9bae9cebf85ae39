"""What became of changes of one row that others made, and of those that met: from conflicts, choices, dead letters."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import sqlalchemy as sa

from common.errors import PoisonError
from common.ports.row_history import RowAsked, RowEvent, changed
from common.runtime.node import Node
from common.schema import tables as rf
from common.versions import NEVER, Version
from common.visible import as_argument
from common.wire.changes import TxReader
from common.wire.records import Change
from consumer.audit import APPLIER
from consumer.conflict.record import BETWEEN_ROWS, Kind, State, read_version
from consumer.dead_letters.loading import load
from consumer.dead_letters.states import LetterState
from consumer.dead_letters.table_store import Letter, every_letter
from consumer.dedup import TxKey
from consumer.inbox import stored_payloads
from consumer.incoming import Incoming
from consumer.readable import readable
from consumer.statements import reading

MOST_LETTERS = 5_000
"""So many dead letters are looked into at most, the newest."""


@dataclass(frozen=True, slots=True)
class _Found:
    """A change of the row in a dead letter."""

    letter: Letter
    change: Change


def others_events(node: Node, asked: RowAsked) -> Sequence[RowEvent]:
    """Return the events of a row's changes that came in, and of its conflicts."""
    with reading(node.database) as connection:
        conflicts = _conflicts(connection, asked)
        letters, left_out = _letters(node, connection, asked)
        came = {(row.source_node, row.tx_id): (row.lsn, read_version(row.their_version)) for row in conflicts}
        came |= {(one.letter.source_node, one.letter.tx_id): (one.change.lsn, one.change.version) for one in letters}
        stepped_back = {read_version(row.their_version) for row in conflicts if row.winner != "theirs" or _waited(row)}
        events = list(_applied(connection, came, stepped_back))
        events += [event for row in conflicts for event in _met(row)]
        events += [event for one in letters for event in _set_aside(one)]
        events += _chosen(connection, asked, node.facts.node_id, {row.id: row for row in conflicts})
        events += _stepped_back(connection, asked)
    events += _standing(node, asked, {version for _, version in came.values()})
    if left_out and events:
        todo = f"{left_out} older dead letters were not searched"
        events.append(RowEvent("left-out", None, node.facts.node_id, detail={"letters": left_out}, todo=todo))
    return events


def _conflicts(connection: sa.Connection, asked: RowAsked) -> list[Any]:
    table = rf.conflict.c
    same = sa.or_(table.row_key == asked.look.key, table.pk == asked.pk.decode())
    query = sa.select(rf.conflict).where(table.table_name == asked.table.name, same).order_by(table.id)
    return list(connection.execute(query))


def _met(row: Any) -> Iterator[RowEvent]:
    """A conflict: when it was met, and when somebody decided it."""
    ours, theirs = read_version(row.our_version), read_version(row.their_version)
    # No policy decided about a row that nobody had written here.
    rule = "adopt" if row.kind == Kind.FIRST_SYNC else row.rule
    detail: dict[str, Any] = {"conflict": row.id, "kind": row.kind, "rule": rule, "with": row.source_node}
    brought = {} if row.their_image is None else {"brought": readable(row.their_image)}
    same: dict[str, Any] = {"tx_id": row.tx_id, "lsn": row.lsn}
    if _waited(row) or row.settled_us is not None:
        waits = row.state == State.WAITING
        todo = f"conflict {row.id} waits for a choice: rowferry conflicts show {row.id}" if waits else None
        event = "waits" if _waited(row) else "met"
        detail |= {"ours": list(ours), "theirs": list(theirs), **brought}
        yield RowEvent(event, row.recorded_us, theirs.node_id, version=theirs, detail=detail, todo=todo, **same)
    else:
        loser, winner = (ours, theirs) if row.winner == "theirs" else (theirs, ours)
        detail |= {"to": winner.node_id, "to_version": list(winner)}
        if loser == ours:
            # The transaction on record is the winner's.
            detail["to_tx_id"], same = row.tx_id, {}
        else:
            detail |= brought
        yield RowEvent("lost", row.recorded_us, loser.node_id, version=loser, detail=detail, **same)
    if row.settled_us is not None:
        settled = {"conflict": row.id, "stands": row.winner, "by": row.settled_by, "note": row.settled_note}
        yield RowEvent("resolved", row.settled_us, theirs.node_id, version=theirs, detail=settled, **same)


def _waited(row: Any) -> bool:
    """Whether a conflict waits for a choice, or did so once."""
    return bool(row.state == State.WAITING or (row.rule == "manual" and row.settled_us is not None))


def _chosen(connection: sa.Connection, asked: RowAsked, own: str, conflicts: dict[int, Any]) -> Iterator[RowEvent]:
    table = rf.choice.c
    query = sa.select(rf.choice).where(table.table_name == asked.table.name, table.row_key == asked.look.key)
    for row in connection.execute(query.order_by(table.id)):
        version = read_version(row.version) if row.version else None
        detail = {"resolves": json.loads(row.resolves)}
        if row.node_id == own:
            detail |= _who_chose(connection, row, conflicts)
        yield RowEvent("chosen", row.chosen_us, row.node_id, version=version, detail=detail)


def _who_chose(connection: sa.Connection, choice: Any, conflicts: dict[int, Any]) -> dict[str, Any]:
    """Return who made a choice of this node, in which conflict, and what it changed: the audit was written with it."""
    line = rf.audit.c
    query = sa.select(rf.audit).where(line.at_us == choice.chosen_us, line.action.in_(("resolved", "undone")))
    # What came in and settled a conflict nobody chose here, also where this node wrote it before it was put back.
    query = query.where(line.actor != APPLIER)
    for row in connection.execute(query.order_by(line.id)):
        told = json.loads(row.detail) if row.detail else {}
        met = conflicts.get(told.get("conflict") or 0)
        if met is None or "winner" not in told or _settled(told["resolves"]) != _settled(json.loads(choice.resolves)):
            continue
        found = {"by": row.actor, "conflict": met.id, "stands": told["winner"], "undone": row.action == "undone"}
        found["between"] = [read_version(met.our_version).node_id, read_version(met.their_version).node_id]
        images = [readable(met.our_image), readable(met.their_image)]
        if told["winner"] in ("ours", "theirs") and met.kind not in BETWEEN_ROWS:
            # While it waited, what was here stood; whoever keeps that changes nothing here.
            new = images[told["winner"] == "theirs"]
            old = images[told["winner"] == "ours"] if row.action == "undone" else images[0]
            found["changed"] = changed(old, new)
        return found
    return {}


def _settled(versions: list[list[Any]]) -> set[tuple[Any, ...]]:
    return {tuple(version) for version in versions}


def _stepped_back(connection: sa.Connection, asked: RowAsked) -> Iterator[RowEvent]:
    """Why a row that has a version does not stand."""
    table = rf.stepped_back.c
    query = sa.select(rf.stepped_back).where(table.table_name == asked.table.name, table.key == asked.look.key)
    for row in connection.execute(query):
        version = read_version(row.version)
        if version != asked.look.version:
            # A copy of an earlier write: of no account any more.
            continue
        why = "another row has one of its unique values" if row.kind == "unique" else "what it points to is gone"
        look = f"rowferry conflicts list --table {as_argument(row.table_name)}"
        todo = f"it has stepped back, because {why}, and returns when that ends: {look}"
        detail = {"kind": row.kind}
        yield RowEvent("stepped-back", row.stepped_us, version.node_id, version=version, detail=detail, todo=todo)


def _letters(node: Node, connection: sa.Connection, asked: RowAsked) -> tuple[list[_Found], int]:
    """Return the changes of the row in dead letters, open or settled, and how many letters were left out."""
    letters, trust = every_letter(connection), node.config.trust()
    found: list[_Found] = []
    for letter in letters[:MOST_LETTERS]:
        tx = load(connection, letter, trust)
        if tx.header is None or asked.table.name not in tx.header.tables:
            continue
        changes = [change for change in _changes(connection, tx) if change.table == asked.table.name]
        keys = _keys(node, asked, tx, changes)
        found += [_Found(letter, change) for change, key in zip(changes, keys, strict=True) if key == asked.look.key]
    return found, max(0, len(letters) - MOST_LETTERS)


def _changes(connection: sa.Connection, tx: Incoming) -> Iterable[Change]:
    if tx.header is None:
        return
    payloads = stored_payloads(connection, tx.key)() if tx.payload is None else [tx.payload]
    try:
        yield from TxReader(tx.header, payloads)
    except PoisonError:
        # It was set aside for that: what could be read until there counts.
        return


def _keys(node: Node, asked: RowAsked, tx: Incoming, changes: Sequence[Change]) -> list[str | None]:
    """Return the canonical key of each change; None for one that this database can't hold."""
    if tx.header is None or not changes:
        return []
    meta, history = tx.header.tables[asked.table.name], node.database.row_history(node.facts)
    pks = [bytes(change.pk) for change in changes]
    try:
        return [*history.keys(asked.table, meta, pks)]
    except PoisonError:
        return [asked.look.key if _same_json(pk, asked.pk) else None for pk in pks]


def _same_json(one: bytes, other: bytes) -> bool:
    try:
        return bool(msgspec.json.decode(one) == msgspec.json.decode(other))
    except (msgspec.DecodeError, RecursionError):
        return False


def _set_aside(one: _Found) -> Iterator[RowEvent]:
    letter, change = one.letter, one.change
    same: dict[str, Any] = {"tx_id": letter.tx_id, "lsn": change.lsn, "op": change.op, "version": change.version}
    node, is_applied = letter.source_node, change.lsn in letter.applied
    detail = {"state": letter.state.value, "reason": letter.reason, "error": letter.error, "attempts": letter.attempts}
    todo = None
    if letter.state is LetterState.EARLY:
        todo = f"a change of {node} waits ({letter.reason}): {letter.error}"
    elif letter.state.is_open and not is_applied:
        todo = f"a change of {node} is a dead letter ({letter.reason}): rowferry dlq show {letter.tx_id}"
    yield RowEvent("received", letter.first_failed_us, node, detail={"origin": letter.origin}, **same)
    yield RowEvent("dead-letter", letter.first_failed_us, node, detail=detail, todo=todo, **same)
    if letter.settled_us is not None:
        settled = {"by": letter.settled_by, "note": letter.settled_note}
        yield RowEvent(letter.state.value, letter.settled_us, node, detail=settled, **same)


def _applied(
    connection: sa.Connection, came: dict[TxKey, tuple[int, Version]], stepped_back: set[Version]
) -> Iterator[RowEvent]:
    """When the txs that are known by name were applied; what they held of this row may have lost, or waited."""
    table = rf.applied_tx
    for (source, tx_id), (lsn, version) in came.items():
        query = sa.select(table.c.applied_us).where(table.c.source_node == source, table.c.tx_id == tx_id)
        applied_us = connection.scalar(query)
        if applied_us is not None:
            event = "received" if version in stepped_back else "applied"
            yield RowEvent(event, applied_us, source, tx_id=tx_id, lsn=lsn, version=version)


def _standing(node: Node, asked: RowAsked, told: set[Version]) -> Iterator[RowEvent]:
    """The version that stands and the one before it, where another node made them and nothing else tells of it.

    Which tx brought it is not kept for each row."""
    look = asked.look
    for version in (look.base, look.version):
        if version != NEVER and version.node_id != node.facts.node_id and version not in told:
            op = "D" if look.deleted and version == look.version else None
            yield RowEvent("applied", None, version.node_id, op=op, version=version, order_us=version.hlc)
