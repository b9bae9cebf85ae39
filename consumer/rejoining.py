"""A node that was put back to an earlier state begins anew, and loses nothing of its own or of others in silence.

What it had sent before and has no more is fetched from where it still is: the shared folder, and peers over HTTP that
hand batches on. What it wrote under LSNs that others know as something else ("only here") is written anew under a new
incarnation, as the rows stand, on top of the versions that they have. Run again after a kill, it goes on."""

import json
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import sqlalchemy as sa

from common.ops.incarnation import renew_incarnation
from common.ops.rewinding import own_rewinding
from common.ports.dialect import ApplySession, RowWrite
from common.preflight.format import read_file
from common.runtime.node import Node
from common.schema import tables as rf
from common.transports.directory.acks import Acks, write_acks
from common.transports.directory.own_files import files_of, own_acks
from common.transports.files import storage_outage
from common.wire.decode import Broken
from common.wire.proving import part_fault
from common.wire.records import Change, Part, TableMeta
from consumer import audit
from consumer.apply.committing import Committing
from consumer.apply.group import Applier
from consumer.apply.rows import UnsealedError
from consumer.arrivals import whole
from consumer.conflict.choices import Choice, remember
from consumer.inbox import Inbox
from consumer.incoming import Incoming, Outcome
from consumer.other_lives import OtherLife, own_logs, passed_in_folder, settle
from consumer.put_back import look_into_folder
from consumer.standing.logical import LogicalSession
from consumer.statements import reading, writing
from consumer.tables import Tables, use_of

log = logging.getLogger(__name__)

_A_READ_BYTES = 4 * 1024 * 1024
_ROWS_A_COMMIT = 500
_change = msgspec.json.Decoder(Change)


@dataclass(slots=True)
class Rejoined:
    """What a rejoin did, in numbers."""

    from_incarnation: str
    to_incarnation: str
    seen_lsn: int
    """Up to where others have the log, as far as this node was told."""
    fork_lsn: int | None
    """From here on its own log and theirs differ; None where they don't, or nobody can tell."""
    fetched_txs: int = 0
    fetched_changes: int = 0
    missing_changes: int = 0
    """Of its own: others have had them, and they are nowhere to be found."""
    only_here_txs: int = 0
    only_here_rows: int = 0
    """Rows that are written anew; of the others somebody wrote later."""
    others_missing: dict[str, int] = field(default_factory=dict)
    """By peer: changes that this node had and has no more, as far as the shared folder tells."""
    unreadable_files: list[str] = field(default_factory=list)
    peers_not_asked: list[str] = field(default_factory=list)
    """Over HTTP, each with the reason: what only they have is not fetched."""
    is_told: bool = True
    """Whether anybody has said what others have of its log. On a broker alone that takes heartbeats."""

    def add(self, other: "Rejoined") -> None:
        """Take in what was done for one more log."""
        self.to_incarnation = other.to_incarnation
        self.fetched_txs += other.fetched_txs
        self.fetched_changes += other.fetched_changes
        self.missing_changes += other.missing_changes
        self.only_here_txs += other.only_here_txs
        self.only_here_rows += other.only_here_rows
        self.unreadable_files += other.unreadable_files
        self.peers_not_asked = sorted({*self.peers_not_asked, *other.peers_not_asked})

    def as_dict(self) -> dict[str, Any]:
        """Return it as `--json` prints it."""
        return {name: getattr(self, name) for name in self.__slots__}


class Rejoining:
    """One rejoin of one node, for `actor`."""

    def __init__(self, node: Node, actor: str) -> None:
        self._node = node
        self._actor = actor
        self._trust = node.config.trust()

    def run(self, advance: Callable[[int], None]) -> Rejoined:
        """Do it. Raises OutageError."""
        node = self._node
        Committing(node).seal()
        lost_of_others = look_into_folder(node)
        with reading(node.database) as connection:
            told = own_rewinding(connection)
        of = (told.incarnation if told is not None else None) or node.facts.incarnation
        logs = own_logs(node)
        seen_lsn = (told.lsn if told is not None else None) or 0
        # Of a log that was empty when it was backed up nothing is here, though it is the one that was put back.
        seen_lsn = max([seen_lsn, *(life.seen_lsn for life in logs.other_lives if life.incarnation == of)])
        done = self._of_log(of, seen_lsn, logs.other_lives, advance)
        for short, lsn in logs.short.items():
            if short != of:
                # Put back once more before it was settled: each log has an end of its own.
                anew = replace(node, facts=replace(node.facts, incarnation=done.to_incarnation))
                done.add(Rejoining(anew, self._actor)._of_log(short, lsn, [], advance))
        done.others_missing = {one.peer: one.until_lsn - one.after_lsn for one in lost_of_others}
        done.is_told = told is not None or bool(node.config.directory or node.config.peers)
        return done

    def _of_log(self, of: str, seen_lsn: int, lives: list[OtherLife], advance: Callable[[int], None]) -> Rejoined:
        """Do it for one log that is here, which others were told to have up to `seen_lsn`, and for the others."""
        node, facts = self._node, self._node.facts
        with reading(node.database) as connection:
            evidence = connection.execute(sa.select(rf.node).where(rf.node.c.is_self)).one()
        own = _OwnLog.read(node, of)
        lost, unreadable = self._in_folder(of, own.tx_ids)
        done = Rejoined(facts.incarnation, facts.incarnation, 0, None, unreadable_files=unreadable)
        lost += self._at_peers(of, own, {tx.tx_id for tx in lost}, done)
        lives = [life for life in lives if life.incarnation != of]
        found = self._of_other_lives(lives, done)
        self._fetch([*found, *lost], done, advance)
        facts = renew_incarnation(node.database, facts, node.clock, f"rejoin by {self._actor}")
        done.to_incarnation = facts.incarnation
        # Only now nobody seals under the old one any more, `run` neither: this is all of that log.
        own = _OwnLog.read(node, of)
        fork_lsn = own.fork(lost, evidence.head_tx_id if evidence.head_incarnation == of else None)
        common_lsn = own.head_lsn if fork_lsn is None else fork_lsn - 1
        done.fork_lsn = fork_lsn
        done.seen_lsn = max(
            [common_lsn, seen_lsn]
            + [one.header.to_lsn for one in lost if one.header is not None]
            + [lsn.get(of, 0) for lsn in passed_in_folder(self._node).values()]
        )
        its = [one.header for one in lost if one.header is not None]
        missing = {of: max(0, done.seen_lsn - common_lsn - sum(one.lsns for one in its))}
        missing |= {life.incarnation: life.missing(found) for life in lives}
        done.missing_changes = sum(missing.values())
        if fork_lsn is not None:
            self._write_anew(replace(node, facts=facts), of, own, fork_lsn, done, advance)
        self._settle(of, own, fork_lsn, done, {life.incarnation: life.seen_lsn for life in lives}, missing)
        return done

    def _in_folder(self, incarnation: str, known: frozenset[str]) -> tuple[list[Incoming], list[str]]:
        """Return own txs that lie in the shared folder and are not in the log here, and the files that are torn."""
        directory = self._node.config.directory
        if directory is None or not directory.path.is_dir():
            return [], []
        unreadable: list[str] = []
        return self._whole(self._parts_in(directory.path, incarnation, unreadable), known), unreadable

    def _parts_in(self, folder: Path, incarnation: str, unreadable: list[str]) -> Iterator[tuple[str, Part]]:
        """Yield what the folder has of this node's own log, each part with its file; note the files that are torn."""
        for file in files_of(folder, self._node.facts.node_id):
            if file.incarnation != incarnation:
                continue
            for item in read_file(folder / file.writer / file.name):
                if isinstance(item, Broken) or part_fault(item, self._trust) is not None:
                    unreadable.append(str(file))
                elif item.header.source_node == self._node.facts.node_id:
                    yield str(file), item

    def _of_other_lives(self, lives: list[OtherLife], done: Rejoined) -> list[Incoming]:
        """Return what lies in the shared folder and at peers of logs that began and ended elsewhere."""
        found: list[Incoming] = []
        for life in lives:
            here, unreadable = self._in_folder(life.incarnation, frozenset())
            done.unreadable_files += unreadable
            nothing = _OwnLog(0, frozenset(), (), ())
            found += here + self._at_peers(life.incarnation, nothing, {tx.tx_id for tx in here}, done)
        return found

    def _at_peers(self, incarnation: str, own: "_OwnLog", known: set[str], done: Rejoined) -> list[Incoming]:
        """Return own txs that HTTP peers have kept and that are not in the log here."""
        if not self._node.config.peers:
            return []
        # Not at the top: it imports the client.
        from consumer.own_again import own_from_peers

        again = own_from_peers(self._node, incarnation, own.head_lsn, own.tx_ids)
        done.peers_not_asked = sorted({*done.peers_not_asked, *again.not_asked})
        return self._whole(again.parts, known)

    def _whole(self, parts: Iterable[tuple[str, Part]], known: Collection[str]) -> list[Incoming]:
        """Return the txs that are not among the `known` ids, each once, of parts and where they come from."""
        inbox, found = Inbox(self._node), dict[str, Incoming]()
        for origin, part in parts:
            if part.header.tx_id in known:
                continue
            tx = inbox.take(part, origin) if part.header.parts > 1 else whole(part, origin)
            if tx is not None:
                found.setdefault(tx.tx_id, tx)
        return list(found.values())

    def _fetch(self, lost: list[Incoming], done: Rejoined, advance: Callable[[int], None]) -> None:
        applier = Applier(self._node)
        for tx in lost:
            (result,) = applier.apply([tx])
            if result.outcome in (Outcome.APPLIED, Outcome.DUPLICATE) and tx.header is not None:
                done.fetched_txs += 1
                done.fetched_changes += tx.header.lsns
            advance(1)
        mine = sa.and_(rf.sync_state.c.peer == self._node.facts.node_id, rf.sync_state.c.direction == "in")
        # It is no source of itself.
        writing(self._node.database, lambda connection: connection.execute(sa.delete(rf.sync_state).where(mine)))

    def _write_anew(
        self,
        node: Node,
        incarnation: str,
        own: "_OwnLog",
        fork_lsn: int,
        done: Rejoined,
        advance: Callable[[int], None],
    ) -> None:
        """Write the rows of the fork as they stand, where they still stand as they were written there."""
        committing, tables = Committing(node), Tables(node)
        rows: dict[tuple[str, bytes], tuple[TableMeta, set[Any]]] = {}
        for change, meta in _changes(node, incarnation, fork_lsn):
            _, versions = rows.setdefault((change.table, bytes(change.pk)), (meta, set()))
            versions.add(change.version)
        done.only_here_txs = sum(from_lsn >= fork_lsn for from_lsn in own.from_lsns)
        names = list(rows)
        for start in range(0, len(names), _ROWS_A_COMMIT):
            piece = names[start : start + _ROWS_A_COMMIT]

            def work(session: ApplySession, piece: list[tuple[str, bytes]] = piece) -> int:
                return sum(self._again(session, tables, name, pk, *rows[name, pk]) for name, pk in piece)

            done.only_here_rows += committing.run(work, patiently=True)
            advance(len(piece))
        committing.seal()

    def _again(
        self, session: ApplySession, tables: Tables, name: str, pk: bytes, meta: TableMeta, versions: set[Any]
    ) -> bool:
        shape = tables.shapes().get(name)
        if shape is None:
            return False
        use = use_of(shape, meta if set(meta.columns) <= {one.name for one in shape.written} else None)
        (state,) = session.lock(shape, use.meta, [pk])
        if session.unsealed(shape, [state.key]):
            raise UnsealedError(f"own writes of {name} are not sealed yet")
        if state.version not in versions:
            return False
        (now,) = LogicalSession(session).images(shape, [pk], shape.meta)
        session.choose(shape, shape.meta, RowWrite(state.key, pk, now, state.version, state.base), [state.version])
        settled = frozenset({state.version})
        choice = Choice(name, state.key, self._node.facts.node_id, state.version, None, settled)
        remember(session.connection, [choice], self._node.clock.now_us())
        return True

    def _settle(
        self,
        of: str,
        own: "_OwnLog",
        fork_lsn: int | None,
        done: Rejoined,
        others: Mapping[str, int],
        missing: Mapping[str, int],
    ) -> None:
        """Close the fork: what stands in the log from there on is not sent any more: its rows are written anew."""
        now_us, node_id = self._node.clock.now_us(), self._node.facts.node_id

        def close(connection: sa.Connection) -> None:
            if fork_lsn is not None:
                forked = sa.and_(rf.tx.c.incarnation == of, rf.tx.c.from_lsn >= fork_lsn)
                connection.execute(sa.delete(rf.tx).where(forked))
                own_cursors = sa.and_(rf.cursor.c.incarnation == of, rf.cursor.c.lsn < own.head_lsn)
                connection.execute(sa.update(rf.cursor).where(own_cursors).values(lsn=own.head_lsn))
            values = {"rewound_us": None, "head_incarnation": None, "head_lsn": None, "head_tx_id": None}
            connection.execute(sa.update(rf.node).where(rf.node.c.is_self).values(values))
            settle(connection, {**others, of: done.seen_lsn}, missing, now_us)
            detail = json.loads(json.dumps(done.as_dict()))
            audit.write(connection, [audit.Line("rejoined", node_id, None, self._actor, detail)], now_us)

        self._read_anew()
        writing(self._node.database, close)

    def _read_anew(self) -> None:
        """Take back what this node has passed in the folder: everything there is read again, and kept until it is.

        What it had of others stays written: put back once more, it would not know otherwise that it ever had it."""
        directory, node_id = self._node.config.directory, self._node.facts.node_id
        if directory is not None and (directory.path / node_id).is_dir():
            had = own_acks(directory.path, node_id, self._trust).once_passed()
            had = {key: lsn for key, lsn in had.items() if key[0] != node_id}
            try:
                acks = Acks(node_id, had=had)
                write_acks(directory.path, acks, self._node.clock.now_us(), self._node.config.signer())
            except OSError as error:
                raise storage_outage(error, directory.path, "writing acks.json") from error


@dataclass(frozen=True, slots=True)
class _OwnLog:
    """The log of one incarnation as it is here."""

    head_lsn: int
    tx_ids: frozenset[str]
    from_lsns: tuple[int, ...]
    txs: tuple[tuple[int, int, str], ...]
    """From, to and id of each, in order."""

    @classmethod
    def read(cls, node: Node, incarnation: str) -> "_OwnLog":
        tx = rf.tx.c
        query = sa.select(tx.from_lsn, tx.to_lsn, tx.tx_id).where(tx.incarnation == incarnation).order_by(tx.to_lsn)
        with reading(node.database) as connection:
            rows = tuple((row.from_lsn, row.to_lsn, row.tx_id) for row in connection.execute(query))
        head = node.database.log(replace(node.facts, incarnation=incarnation)).head()
        return cls(head.lsn, frozenset(row[2] for row in rows), tuple(row[0] for row in rows), rows)

    def fork(self, lost: list[Incoming], seen_tx_id: str | None) -> int | None:
        """Return the first LSN of a tx that is only here: it stands where the lost ones stood, or is younger than what
        others had when this node was put back."""
        starts = [one.header.from_lsn for one in lost if one.header is not None]
        young = [from_lsn for from_lsn, _, tx_id in self.txs if seen_tx_id is not None and tx_id > seen_tx_id]
        beside = [from_lsn for from_lsn, to_lsn, _ in self.txs if starts and to_lsn >= min(starts)]
        return min(young + beside, default=None)


def _changes(node: Node, incarnation: str, from_lsn: int) -> Iterator[tuple[Change, TableMeta]]:
    sealed = node.database.log(replace(node.facts, incarnation=incarnation))
    after_lsn = from_lsn - 1
    while True:
        found = False
        for tx in sealed.read(after_lsn, _A_READ_BYTES):
            found, after_lsn = True, tx.header.to_lsn
            for line in tx.lines():
                change = _change.decode(line)
                yield change, tx.header.tables[change.table]
        if not found:
            return
