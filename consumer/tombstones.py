"""Forgetting deleted rows: once they are old enough, and every peer that counts has passed what deleted them.

Tombstones that are old enough at one moment make a round. Who has passed what the logs held at that moment has passed
all of them; and once this node has everything that such a peer had written until then, nothing older can come any more
by the usual ways. What comes by another way all the same meets the horizon (`consumer.horizon`)."""

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any

import sqlalchemy as sa

from common.config.model import Policy
from common.ops.ages import DAY_US, Ages
from common.ops.passed import OriginKey, live_peers, note_passed, passed_in_folder, read_passed
from common.ops.purging import OWN_LOG, Pieces, note_purged, read_purged
from common.ports.retention import Purged
from common.retry import in_transaction
from common.runtime.node import Node
from common.schema import tables as rf
from common.versions import Version
from consumer.conflict.choices import forget
from consumer.horizon import raise_horizon
from consumer.statements import by_index, selective, upsert, writing
from consumer.watermark import read_all

WHAT = "tombstones"
_LOOK_ROWS = 2_000
_MOST_ROUNDS = 8
_FIRST_KEY = (-1, "")
# In the order of the index: only tombstones are read, in pieces that hold no writer up.
_LOOK = sa.text(
    "SELECT table_id, key, main_epoch, hlc, node_id FROM rf_row_version"
    " WHERE deleted AND (table_id, key) > (:table_id, :key) ORDER BY table_id, key LIMIT :most"
)
_DROP = sa.text(
    "DELETE FROM rf_row_version WHERE table_id = :table_id AND key = :key AND hlc = :hlc AND node_id = :node_id"
    " AND main_epoch = 0 AND deleted"
)


@dataclass(frozen=True, slots=True)
class Old:
    """A tombstone that is old enough."""

    table_id: int
    key: str
    hlc: int
    node_id: str


@dataclass(frozen=True, slots=True)
class Round:
    """Tombstones of one moment."""

    number: int
    began_us: int
    choice_id: int
    wanted: Mapping[OriginKey, int]
    passed: Mapping[str, tuple[str, int]]
    """Peers that have passed it, with incarnation and end of their log when they said so."""


def purge_tombstones(
    node: Node, ages: Ages | None = None, *, dry_run: bool = False, stop: threading.Event | None = None
) -> Purged:
    """Forget what nobody needs any more. Can be killed anywhere and repeated. Raises OutageError, ContentionError."""
    ages = ages or Ages(node.clock.now_us())
    now_us, cutoff_us = ages.now_us, ages.before(node.config.limits.tombstone_days)
    if dry_run:
        return _tried(node, cutoff_us)
    if node.config.directory is not None:
        _hear_from_folder(node, now_us)
    pieces = Pieces(node.database, stop or threading.Event())
    _collect(node, pieces, cutoff_us, ages)
    rows = 0
    waits: list[str] = []
    for one in in_transaction(node.database, _rounds):
        against = _against(node, one)
        if against:
            waits += against
            continue
        gone: list[int] = []
        pieces.run(partial(_sweep, one=one, now_us=now_us, tally=gone), versions=True)
        rows += sum(gone)
        if not pieces.stop.is_set():
            writing(node.database, partial(_end, one=one, node=node))
    return Purged(WHAT, rows, cutoff_us, tuple(dict.fromkeys([*waits, *_kept(node, cutoff_us)])))


def _tried(node: Node, cutoff_us: int) -> Purged:
    ready = {one.number for one in in_transaction(node.database, _rounds) if not _against(node, one, note=False)}
    waits = [text for one in in_transaction(node.database, _rounds) for text in _against(node, one, note=False)]
    marked = rf.purge_tombstone.c
    query = sa.select(sa.func.count()).where(marked.round.in_(ready))
    rows = in_transaction(node.database, lambda connection: connection.scalar(query)) or 0
    return Purged(WHAT, rows, cutoff_us, tuple(dict.fromkeys([*waits, *_kept(node, cutoff_us)])))


def _collect(node: Node, pieces: Pieces, cutoff_us: int, ages: Ages) -> None:
    """Mark what is old enough; then note how far the logs are: no tombstone that was marked is above that."""
    if len(in_transaction(node.database, _rounds)) >= _MOST_ROUNDS:
        # Some peer is away: what grows old meanwhile will do with one round once it is back.
        return
    number = in_transaction(node.database, _next_round)
    for page in _pages(node, cutoff_us):
        if pieces.stop.is_set():
            return
        writing(node.database, partial(_mark, olds=page, number=number))
    writing(node.database, partial(_begin, node=node, number=number, ages=ages))


def _pages(node: Node, cutoff_us: int) -> Iterator[list[Old]]:
    kept = _manual_tables(node)
    after = _FIRST_KEY
    while True:
        given = {"table_id": after[0], "key": after[1], "most": _LOOK_ROWS}
        rows = in_transaction(node.database, partial(_look, given=given))
        olds = [
            Old(row.table_id, row.key, row.hlc, row.node_id)
            for row in rows
            if row.hlc <= cutoff_us and row.main_epoch == 0 and row.table_id not in kept
        ]
        if olds:
            yield olds
        if len(rows) < _LOOK_ROWS:
            return
        after = rows[-1].table_id, rows[-1].key


def _look(connection: sa.Connection, given: Mapping[str, object]) -> Sequence[sa.Row[Any]]:
    by_index(connection)
    return connection.execute(_LOOK, given).all()


def _manual_tables(node: Node) -> set[int]:
    policies = node.config.tables.policy
    names = [name for name, policy in policies.items() if policy is Policy.MANUAL]
    query = sa.text("SELECT table_id, name FROM rf_table")
    rows = in_transaction(node.database, lambda connection: connection.execute(query).all())
    return {row.table_id for row in rows if row.name in names}


def _kept(node: Node, cutoff_us: int) -> list[str]:
    """Say how many are kept for what they alone know: main's word in a `main-wins` table, a question in a `manual` one.

    A write that has not seen them would else stand on some nodes and not on others."""
    manual = ", ".join(map(str, sorted(_manual_tables(node)))) or "NULL"
    query = sa.text(
        "SELECT count(*) FROM rf_row_version"
        f" WHERE deleted AND hlc <= :hlc AND (main_epoch > 0 OR table_id IN ({manual}))"
    )
    kept = in_transaction(node.database, lambda connection: connection.scalar(query, {"hlc": cutoff_us})) or 0
    return [f"{kept} of main-wins and manual tables are kept for good"] if kept else []


def _next_round(connection: sa.Connection) -> int:
    greatest = [
        connection.scalar(sa.select(sa.func.max(column))) or 0
        for column in (rf.purge_round.c.round, rf.purge_tombstone.c.round)
    ]
    return max(greatest) + 1


def _mark(connection: sa.Connection, olds: Sequence[Old], number: int) -> int:
    """Mark those that are not marked at this version. A round that was not begun to its end is begun anew."""
    marked = rf.purge_tombstone.c
    begun = set(connection.execute(sa.select(rf.purge_round.c.round)).scalars())
    query = sa.select(marked.round, marked.table_id, marked.key, marked.hlc, marked.node_id)
    known = set()
    by_index(connection)
    for table_id, group in groupby(olds, lambda one: one.table_id):
        keys = [one.key for one in group]
        # Table by table: of a range over both columns PostgreSQL without statistics expects a third of all rows.
        of_table = selective(connection.dialect.name, marked.table_id == table_id)
        these = query.where(of_table, marked.key >= keys[0], marked.key <= keys[-1])
        known |= {Old(*one) for number, *one in connection.execute(these) if number in begun}
    fresh = [one for one in olds if one not in known]
    upsert(
        connection,
        rf.purge_tombstone,
        [
            {"table_id": one.table_id, "key": one.key, "hlc": one.hlc, "node_id": one.node_id, "round": number}
            for one in fresh
        ],
    )
    return len(fresh)


def _begin(connection: sa.Connection, node: Node, number: int, ages: Ages) -> None:
    marked = connection.scalar(sa.select(sa.func.count()).where(rf.purge_tombstone.c.round == number)) or 0
    choice = rf.choice.c
    before_us = ages.before(node.config.retention.conflict_days)
    old_choices = sa.select(sa.func.max(choice.id)).where(choice.chosen_us < before_us)
    choice_id = connection.scalar(old_choices) or 0
    if not marked and not choice_id:
        return
    wanted = {key: mark.highest_lsn for key, (mark, _) in read_all(connection).items()}
    for incarnation, lsn in _own_ends(connection).items():
        wanted[node.facts.node_id, incarnation] = lsn
    row = {"round": number, "began_us": ages.now_us, "choice_id": choice_id, "passed": "{}"}
    row["wanted"] = json.dumps([[*key, lsn] for key, lsn in sorted(wanted.items()) if lsn])
    connection.execute(sa.insert(rf.purge_round).values(row))


def _own_ends(connection: sa.Connection) -> dict[str, int]:
    """Return up to where this node's own logs go: of earlier incarnations' too a peer may lack the end."""
    tx = rf.tx.c
    # Of a log that was purged to its end the last LSN stands there alone.
    ends = {name: row.until_lsn or 0 for name, row in read_purged(connection, OWN_LOG).items()}
    least, last = sa.select(sa.func.min(tx.incarnation)), sa.select(sa.func.max(tx.to_lsn))
    # One probe of the primary key each, however long the log is.
    name = connection.scalar(least)
    while name is not None:
        lsn = connection.scalar(last.where(tx.incarnation == name)) or 0
        ends[name] = max(lsn, ends.get(name, 0))
        name = connection.scalar(least.where(tx.incarnation > name))
    return ends


def _rounds(connection: sa.Connection) -> list[Round]:
    query = sa.select(rf.purge_round).order_by(rf.purge_round.c.round)
    return [
        Round(
            row.round,
            row.began_us,
            row.choice_id,
            {(origin, incarnation): lsn for origin, incarnation, lsn in json.loads(row.wanted)},
            {peer: (incarnation, lsn) for peer, (incarnation, lsn) in json.loads(row.passed).items()},
        )
        for row in connection.execute(query)
    ]


def _against(node: Node, one: Round, *, note: bool = True) -> list[str]:
    """Return what keeps a round, and note who has passed it by now."""

    def work(connection: sa.Connection) -> list[str]:
        peers = live_peers(connection, node.config, node.facts)
        said = read_passed(connection, peers)
        known = connection.execute(sa.select(rf.node.c.node_id, rf.node.c.incarnation))
        newest = {row.node_id: row.incarnation for row in known}
        passed = dict(one.passed)
        against = []
        for peer in peers:
            if peer in passed:
                continue
            missing = _missing(one, peer, said.get(peer, {}), newest, node.facts.node_id)
            end = [(incarnation, lsn) for (origin, incarnation), lsn in said.get(peer, {}).items() if origin == peer]
            current = [each for each in end if each[0] == newest.get(peer)] or end
            if missing is None and current:
                passed[peer] = current[-1]
            else:
                against.append(missing or f"{peer} has never said how far it is")
        if note and passed != one.passed:
            these = rf.purge_round.c.round == one.number
            connection.execute(sa.update(rf.purge_round).where(these).values(passed=json.dumps(passed)))
        marks = {key: mark.last_lsn for key, (mark, _) in read_all(connection).items()}
        for peer in peers:
            incarnation, lsn = passed.get(peer, ("", 0))
            if marks.get((peer, incarnation), 0) < lsn:
                against.append(f"what {peer} had written until it passed them has not come yet")
        return against

    return writing(node.database, work)


def _missing(one: Round, peer: str, said: Mapping[OriginKey, int], newest: Mapping[str, str], this: str) -> str | None:
    """Return what a peer has not passed; of nodes from which it takes nothing at all nothing is asked."""
    if not said:
        return f"{peer} has never said how far it is"
    takes_from = {origin for origin, _ in said} | {this}
    for (origin, incarnation), lsn in one.wanted.items():
        # Of an incarnation before its time it may never have had anything.
        is_its = incarnation == newest.get(origin) or (origin, incarnation) in said
        if origin != peer and origin in takes_from and is_its and said.get((origin, incarnation), 0) < lsn:
            return f"{peer} has not passed LSN {lsn} of {origin}"
    return None


def _hear_from_folder(node: Node, now_us: int) -> None:
    section = node.config.directory
    if section is None:
        return
    peers = in_transaction(node.database, lambda connection: live_peers(connection, node.config, node.facts))
    for peer, passed in passed_in_folder(section.path, peers, node.config.trust()).items():
        writing(node.database, partial(note_passed, peer=peer, passed=passed, now_us=now_us))


def _sweep(connection: sa.Connection, most: int, *, one: Round, now_us: int, tally: list[int]) -> int:
    """Forget some, and raise the horizon with the same commit. `tally` is told how many, and may be told once more
    where the commit is tried again."""
    marked = rf.purge_tombstone
    query = sa.select(marked.c.table_id, marked.c.key, marked.c.hlc, marked.c.node_id)
    olds = [Old(*row) for row in connection.execute(query.where(marked.c.round == one.number).limit(most))]
    gone: dict[int, Version] = {}
    rows = 0
    for old in olds:
        given = {"table_id": old.table_id, "key": old.key, "hlc": old.hlc, "node_id": old.node_id}
        # Written again since: it is no tombstone any more, or a later one.
        if connection.execute(_DROP, given).rowcount:
            rows += 1
            version = Version(0, old.hlc, old.node_id)
            gone[old.table_id] = max(version, gone.get(old.table_id, version))
        connection.execute(sa.delete(marked).where(marked.c.table_id == old.table_id, marked.c.key == old.key))
    raise_horizon(connection, gone)
    tally.append(rows)
    if rows:
        note_purged(connection, WHAT, now_us, rows, until_us=max(version.hlc for version in gone.values()))
    return len(olds)


def _end(connection: sa.Connection, one: Round, node: Node) -> None:
    """A round is over; choices that were old enough when it began go with it."""
    left = sa.select(sa.func.count()).where(rf.purge_tombstone.c.round == one.number)
    if connection.scalar(left):
        return
    connection.execute(sa.delete(rf.purge_round).where(rf.purge_round.c.round == one.number))
    forget(connection, one.choice_id, one.began_us - int(node.config.retention.conflict_days * DAY_US))
