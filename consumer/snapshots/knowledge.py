"""What a snapshot knows beside rows: marks, dedup, dead letters, conflicts that wait, choices, horizons."""

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from common.ports.dialect import ApplySession, TableShape
from common.runtime.node import Node
from common.schema import tables as rf
from common.schema.main_node import known_main
from common.versions import Version
from common.wire.snapshot import (
    AppliedLine,
    ChoiceLine,
    ConflictLine,
    HorizonLine,
    LetterLine,
    Line,
    MarkLine,
    PartLine,
)
from consumer import watermark
from consumer.conflict.choices import Choice, remember
from consumer.horizon import raise_horizon
from consumer.snapshots.preflight import Found
from consumer.statements import insert_missing
from consumer.watermark import Mark

_FORGOTTEN = (
    rf.applied_tx,
    rf.tx_part,
    rf.choice,
    rf.stepped_back,
    rf.claim,
    rf.standing_mark,
    rf.horizon,
    rf.attempt,
    rf.purge_tombstone,
    rf.purge_round,
)


class Knowledge:
    """Within one applying transaction."""

    def __init__(self, session: ApplySession, node: Node, found: Found, shapes: Mapping[str, TableShape]) -> None:
        self._session = session
        self._connection = session.connection
        self._node = node
        self._found = found
        self._shapes = shapes
        self._marks: list[Mark] = []
        self._rows: dict[sa.Table, list[dict[str, Any]]] = {}
        self._conflicts: list[ConflictLine] = []
        self._choices: list[ChoiceLine] = []
        self._horizons: list[HorizonLine] = []

    def forget(self) -> None:
        """Forget what the rows that stood here went by. This node's own log, its own letters, and what was settled
        stay."""
        own = self._node.facts.node_id
        for table in _FORGOTTEN:
            self._connection.execute(sa.delete(table))
        for statement in (
            sa.delete(rf.sync_state).where(rf.sync_state.c.direction == "in"),
            sa.delete(rf.dead_letter).where(rf.dead_letter.c.source_node != own),
            sa.delete(rf.conflict).where(rf.conflict.c.state == "waiting"),
            sa.delete(rf.request).where(rf.request.c.direction == "out"),
        ):
            self._connection.execute(statement)

    def take(self, line: Line) -> None:
        """Take one line that is none of a row."""
        match line:
            case MarkLine(source_node=source) if source != self._node.facts.node_id:
                self._marks.append(Mark(source, line.incarnation, line.last_lsn, line.last_tx_id, line.highest_lsn))
            case AppliedLine(source_node=source) if source != self._node.facts.node_id:
                now_us = self._node.clock.now_us()
                self._add(rf.applied_tx, {**_fields(line), "applied_us": now_us})
            case LetterLine(source_node=source) if source != self._node.facts.node_id:
                self._add(rf.dead_letter, {**_fields(line), "broker_copy": False})
            case PartLine():
                self._add(rf.tx_part, _fields(line))
            case ConflictLine():
                self._conflicts.append(line)
            case ChoiceLine():
                self._choices.append(line)
            case HorizonLine():
                self._horizons.append(line)
            case _:
                # What this node itself wrote is in its own log.
                pass

    def write(self, now_us: int) -> None:
        """Write all of it, once the rows are there."""
        for table, rows in self._rows.items():
            insert_missing(self._connection, table, rows)
        watermark.store(self._connection, self._marks, now_us)
        self._write_conflicts()
        self._write_choices(now_us)
        self._write_horizons()
        self._pin_main(now_us)

    def _write_conflicts(self) -> None:
        rows = []
        for line in self._conflicts:
            # None there meant: as the table is where the snapshot comes from.
            meta = self._found.metas[line.table_name].model_dump_json()
            metas = {"our_meta": line.our_meta or meta, "their_meta": line.their_meta or meta}
            (key,) = self._keys(line.table_name, [line.pk.encode()])
            rows.append({**_fields(line), **metas, "row_key": key})
        if rows:
            self._connection.execute(sa.insert(rf.conflict), rows)

    def _write_choices(self, now_us: int) -> None:
        choices = []
        for line in self._choices:
            (key,) = self._keys(line.table, [bytes(line.pk)])
            choices.append(Choice(line.table, key, line.node_id, line.base, line.version, frozenset(line.resolves)))
        remember(self._connection, choices, now_us)

    def _write_horizons(self) -> None:
        rows = self._connection.exec_driver_sql("SELECT name, table_id FROM rf_table")
        numbers: dict[str, int] = {row[0]: row[1] for row in rows}
        gone: dict[int, Version] = {numbers[one.table]: one.version for one in self._horizons if one.table in numbers}
        raise_horizon(self._connection, gone)

    def _pin_main(self, now_us: int) -> None:
        main = self._found.header.main
        if main is None or known_main(self._connection, self._node.config) is not None:
            return
        its = [one for one in self._marks if one.source_node == main]
        if not its:
            return
        incarnation = max(its, key=lambda one: one.last_tx_id or "").incarnation
        seen = {"first_seen_us": now_us, "last_seen_us": now_us}
        peer = {"node_id": main, "role": "main", "incarnation": incarnation, "is_self": False, **seen}
        insert_missing(self._connection, rf.node, [peer])
        self._connection.execute(sa.update(rf.node).where(rf.node.c.node_id == main).values(role="main"))

    def _keys(self, table: str, pks: Sequence[bytes]) -> list[str]:
        shape, meta = self._shapes[table], self._found.metas[table]
        return [state.key for state in self._session.lock(shape, meta, pks)]

    def _add(self, table: sa.Table, row: dict[str, Any]) -> None:
        self._rows.setdefault(table, []).append(row)


def _fields(line: Line) -> dict[str, Any]:
    return {name: getattr(line, name) for name in line.__struct_fields__}
