"""The sealer: committed transactions get their LSNs, tx_id and versions, once.

What is new is the difference of two snapshots, so no row of the log is written again, and a transaction that stays open
keeps nobody else's waiting. docs/reference/capture-postgresql.md tells the order of locks."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, NamedTuple

import sqlalchemy as sa

from common.clock import Clock, SystemClock, to_iso
from common.crash_points import CrashPoint, reach
from common.dialects.postgresql import sealing_sql as sql
from common.dialects.postgresql.arrays import number_array, text_array
from common.dialects.postgresql.chains import mend_chains
from common.dialects.postgresql.connection import SERVER_IDENTITY, driver
from common.dialects.postgresql.errors import translated
from common.dialects.postgresql.lookout import Look, Lookout, ended
from common.dialects.postgresql.narrowing import narrow
from common.dialects.postgresql.prepared import Answer, Prepared
from common.dialects.postgresql.rebase import begin_again, is_continued
from common.dialects.postgresql.shape_cache import ShapeCache
from common.dialects.postgresql.snapshots import Snapshot
from common.errors import IncarnationEndedError
from common.ids import TxIds
from common.ports.dialect import NodeFacts, SealReport

_FIRST_STEP, _LONGEST_STEP = 500, 5_000
"""Changes. More than the longest step is a backlog: the first of it is on its way soon, while the rest is sealed in
growing steps; between two of them appliers get their turn."""


class _Step(NamedTuple):
    """How many changes are sealed at most."""

    at_once: int
    """If that is all there is."""
    first: int
    """Of more."""


@dataclass(frozen=True, slots=True)
class _State:
    """What the last step remembered, brought up to the server and the incarnation of now."""

    snapshot: str
    """Of what it shows as ended, all is sealed or pending."""
    now: str
    identity: str
    incarnation: str
    era: int
    last_lsn: int
    last_tx_id: str | None


class _OvertakenError(Exception):
    """Another sealer was at work between the look and the lock."""


class _EndedTx(NamedTuple):
    """One transaction to be sealed."""

    last_seq: int
    xid: int
    changes: int
    captured_us: int
    bytes: int
    shapes: list[int]


class PostgresSealer:
    """One step a call, in one transaction under the lock of `rf_seal`. For one thread."""

    def __init__(self, engine: sa.Engine, reading: sa.Engine, node: NodeFacts, clock: Clock | None = None) -> None:
        """`reading`: without transactions, for looks."""
        self._engine = engine
        self._node = node
        self._clock = clock or SystemClock()
        self._shapes = ShapeCache()
        self._lookout = Lookout(reading, node.incarnation)
        self._next_step = _FIRST_STEP

    def seal(self, max_changes: int = _LONGEST_STEP) -> SealReport:
        """Seal what is committed now; one short transaction. Raises ContentionError, OutageError."""
        step = _Step(max_changes, min(max_changes, self._next_step))
        with translated():
            try:
                report = self._in_transaction(step, in_one_go=True)
            except _OvertakenError:
                report = self._in_transaction(step, in_one_go=False)
        self._next_step = min(2 * self._next_step, _LONGEST_STEP) if report.more else _FIRST_STEP
        return report

    def is_quiet(self) -> bool:
        """Compare snapshots: what ended between two shows by their numbers. Any transaction of the cluster does."""
        return self._lookout.is_quiet()

    def _in_transaction(self, step: _Step, *, in_one_go: bool) -> SealReport:
        try:
            with self._engine.begin() as connection:
                return self._take_step(Prepared(driver(connection)), step, in_one_go)
        except BaseException:
            self._lookout.forget()
            raise

    def _take_step(self, prepared: Prepared, step: _Step, in_one_go: bool) -> SealReport:
        look, is_idle = self._lookout.look(prepared)
        if is_idle:
            return SealReport(0, 0, look.last_lsn)
        if in_one_go and look.only_goes_on(self._node.incarnation):
            state, found = self._locked_and_found(prepared, look, step)
        else:
            state = self._begin(prepared)
            txs = [_EndedTx(*row) for row in prepared.execute(sql.TAKE_PENDING, {"most": step.first})]
            if txs:
                return self._seal_txs(prepared, state, txs, more=True)
            found = _ended(prepared, state.snapshot, state.now, step).fetchall()
        if not found:
            return SealReport(0, 0, state.last_lsn)
        txs = [_EndedTx(*row[:-1]) for row in found]
        more = found[0][-1]
        return self._seal_txs(prepared, replace(state, snapshot=state.now), txs, more=more)

    def _locked_and_found(self, prepared: Prepared, look: Look, step: _Step) -> tuple[_State, list[Any]]:
        """Take the lock, and find what ended up to the look. All in one round trip: what follows the lock reads as it
        is when the lock is there. Raises _OvertakenError where the look is no longer true."""
        with prepared.together():
            lock = prepared.execute(sql.LOCK)
            ends = prepared.execute(sql.HAS_ANOTHER, (self._node.incarnation,))
            found_there = _ended(prepared, look.before, look.now, step)
        locked, found = lock.fetchone(), found_there.fetchall()
        self._check_incarnation(ends)
        if locked is None:
            raise LookupError("rf_seal has no row: run `rowferry migrate`")
        snapshot, identity, incarnation, era, last_lsn, last_tx_id = locked
        if (snapshot, identity, incarnation, last_lsn) != (look.before, look.identity, look.incarnation, look.last_lsn):
            raise _OvertakenError
        return _State(snapshot, look.now, identity, incarnation, era or 0, last_lsn, last_tx_id), found

    def _begin(self, prepared: Prepared) -> _State:
        # A statement of its own: one that had to wait for the lock would read the log as it was before.
        locked = prepared.execute(sql.LOCK).fetchone()
        self._check_incarnation(prepared.execute(sql.HAS_ANOTHER, (self._node.incarnation,)))
        seen = prepared.execute(f"SELECT pg_current_snapshot()::text, ({SERVER_IDENTITY})".encode()).fetchone()
        if locked is None or seen is None:
            raise LookupError("rf_seal has no row: run `rowferry migrate`")
        known = _State(
            snapshot=locked[0],
            now=seen[0],
            identity=seen[1],
            incarnation=locked[2],
            era=locked[3] or 0,
            last_lsn=locked[4],
            last_tx_id=locked[5],
        )
        state = self._brought_up(prepared, known, locked[1])
        if (state, locked[1]) != (known, known.identity):
            _remember(prepared, state)
        return state

    def _check_incarnation(self, has_another: Answer) -> None:
        if has_another.fetchone() == (True,):
            raise IncarnationEndedError(self._node.incarnation)

    def _brought_up(self, prepared: Prepared, known: _State, identity: str) -> _State:
        state = known
        if not is_continued(identity, known.identity, Snapshot.parse(known.snapshot), Snapshot.parse(known.now)):
            begin_again(prepared.raw)
            state = replace(state, snapshot=known.now)
        if known.incarnation != self._node.incarnation:
            incarnation = {"incarnation": self._node.incarnation}
            era = prepared.execute(sql.NEW_ERA, incarnation).fetchone()
            last = prepared.execute(sql.LAST_OF_ERA, incarnation).fetchone() or (0, None)
            state = replace(state, **incarnation, era=era[0] if era else 0, last_lsn=last[0], last_tx_id=last[1])
        return state

    def _seal_txs(self, prepared: Prepared, state: _State, found: Sequence[_EndedTx], *, more: bool) -> SealReport:
        txs = self._with_one_shape_a_table(prepared, found)
        shapes = {number for tx in txs for number in tx.shapes}
        self._shapes.load(prepared.raw, shapes)
        given: dict[str, Any] = {
            "xids": number_array([tx.xid for tx in txs]),
            "table_ids": self._shapes.table_ids(shapes),
            "last_lsn": state.last_lsn,
            "era": state.era,
            "node": self._node.node_id,
            "main_wins": self._shapes.ids_of(shapes, self._node.main_wins),
        }
        last_lsn = state.last_lsn + sum(tx.changes for tx in txs)
        with prepared.together():
            sealed = prepared.execute(sql.SEAL, given)
            last_tx_id = self._add_txs(prepared, state, txs)
            remembered = _remember(prepared, replace(state, last_lsn=last_lsn, last_tx_id=last_tx_id))
        changes, may_be_tangled = sealed.fetchone() or (0, None)
        if changes != last_lsn - state.last_lsn:
            raise LookupError(f"{changes} log rows stand where {last_lsn - state.last_lsn} were counted")
        if may_be_tangled:
            (tangled,) = prepared.execute(sql.TANGLED, given).fetchone() or (None,)
            if tangled:
                mend_chains(prepared.raw, state.era, given["xids"], tangled)
        (own,) = remembered.fetchone() or (0,)
        self._lookout.sealed(state.snapshot, own, more=more)
        reach(CrashPoint.SEALING)
        return SealReport(len(txs), changes, last_lsn, more)

    def _with_one_shape_a_table(self, prepared: Prepared, txs: Sequence[_EndedTx]) -> list[_EndedTx]:
        self._shapes.load(prepared.raw, (number for tx in txs for number in tx.shapes))
        return [
            tx if self._shapes.agree(tx.shapes) else tx._replace(shapes=narrow(prepared.raw, tx.xid, tx.shapes))
            for tx in txs
        ]

    def _add_txs(self, prepared: Prepared, state: _State, txs: Sequence[_EndedTx]) -> str:
        now_us = self._clock.now_us()
        ends = list(accumulate((tx.changes for tx in txs), initial=state.last_lsn))
        tx_ids = TxIds(state.last_tx_id).take(len(txs), now_us)
        tables: dict[str, int] = {}
        described = [tables.setdefault(self._shapes.header_tables(tx.shapes), len(tables) + 1) for tx in txs]
        prepared.execute(
            sql.ADD_TXS,
            {
                "incarnation": self._node.incarnation,
                "exported_at": to_iso(now_us),
                "to_lsns": number_array(ends[1:]),
                "from_lsns": number_array([end + 1 for end in ends[:-1]]),
                "tx_ids": text_array(tx_ids),
                "tables": list(tables),
                "described": number_array(described),
                "bytes": number_array([tx.bytes for tx in txs]),
                "captured": number_array([tx.captured_us for tx in txs]),
            },
        )
        return tx_ids[-1]


def _ended(prepared: Prepared, before: str, now: str, step: _Step) -> Answer:
    bin_changes = max(1, min(sql.PENDING_BIN, step.first // 4))
    given = {"before": before, "at_once": step.at_once, "most": step.first, "bin": bin_changes}
    return prepared.execute(sql.ENDED.encode(), {**ended(before, now), **given})


def _remember(prepared: Prepared, state: _State) -> Answer:
    return prepared.execute(
        sql.REMEMBER,
        {
            "snapshot": state.snapshot,
            "identity": state.identity,
            "incarnation": state.incarnation,
            "era": state.era,
            "last_lsn": state.last_lsn,
            "last_tx_id": state.last_tx_id,
        },
    )
