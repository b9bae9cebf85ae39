"""What this node holds at one moment, written as a snapshot. Others write on meanwhile."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import sqlalchemy as sa
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from common.clock import to_iso
from common.errors import ConfigError, ContentionError
from common.ops.export_files import write_whole
from common.ops.incarnation import settle_incarnation
from common.ops.table_making import describe
from common.ports.dialect import TableShape
from common.ports.snapshot import FrozenLook, FrozenRow
from common.runtime.node import Node
from common.schema import tables as rf
from common.schema.main_node import known_main
from common.versions import Version
from common.wire.snapshot import (
    AppliedLine,
    ChoiceLine,
    ConflictLine,
    Described,
    Header,
    HorizonLine,
    LetterLine,
    Line,
    MarkLine,
    PartLine,
    RowLine,
    Writing,
)
from consumer import audit, watermark
from consumer.apply.committing import Committing
from consumer.conflict.record import State, read_version
from consumer.inbox import STANDS_APART
from consumer.snapshots.own_state import above_mark, own_ends, refuse_unseen
from consumer.standing.store import Copies
from consumer.statements import writing

_TRIES = 20
_ROWS_AT_ONCE = 1_000


@dataclass(slots=True)
class Exported:
    """What was written."""

    file: str
    source_node: str
    incarnation: str
    last_lsn: int
    tables: int = 0
    rows: int = 0
    tombstones: int = 0
    stepped_back: int = 0
    dead_letters: int = 0
    waiting_conflicts: int = 0
    sha256: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return it as `--json` prints it."""
        return asdict(self)


def export_snapshot(node: Node, path: Path, actor: str, advance: Callable[[int], None]) -> Exported:
    """Write all that this node has sealed and applied. Raises UsageError, OutageError, RowferryError."""
    refuse_unseen(node)
    facts = settle_incarnation(node.database, node.facts, node.clock)
    node = replace(node, facts=facts)
    again = Retrying(
        retry=retry_if_exception_type(ContentionError),
        wait=wait_random_exponential(multiplier=0.05, max=2),
        stop=stop_after_attempt(_TRIES),
        reraise=True,
    )
    done: Exported = again(_try_once, node, path, advance)
    detail = {name: value for name, value in done.as_dict().items() if name != "source_node"}
    line = audit.Line("snapshot-exported", facts.node_id, None, actor, detail)
    writing(node.database, lambda connection: audit.write(connection, [line], node.clock.now_us()))
    return done


def _try_once(node: Node, path: Path, advance: Callable[[int], None]) -> Exported:
    """Seal, look, write. Raises ContentionError where too much was written, or altered, between the first two."""
    Committing(node).seal()
    tables = node.captured_tables()
    with node.database.snapshots().look(node.facts, list(tables.values())) as look:
        if node.captured_tables() != tables:
            raise ContentionError("a table was altered a moment ago")
        export = _Export(node, look, tables, advance)
        done = export.begin(path)
        write_whole(path, partial(export.write, done))
    return done


class _Export:
    """One moment on its way into a file."""

    def __init__(
        self, node: Node, look: FrozenLook, tables: Mapping[str, TableShape], advance: Callable[[int], None]
    ) -> None:
        self._node = node
        self._look = look
        self._connection = look.connection
        self._advance = advance
        self._tables = tables
        self._plans = describe(node.database, list(self._tables.values()))
        self._ends = own_ends(look.connection, node.facts.incarnation)

    def begin(self, path: Path) -> Exported:
        facts = self._node.facts
        incarnation = sa.select(rf.node.c.incarnation).where(rf.node.c.is_self)
        if self._connection.execute(incarnation).scalar_one() != facts.incarnation:
            raise ConfigError("this node has begun another incarnation meanwhile; run this again")
        end = self._ends.get(facts.incarnation)
        return Exported(str(path), facts.node_id, facts.incarnation, end.lsn if end else 0, len(self._tables))

    def write(self, done: Exported, out: Callable[[bytes], object]) -> None:
        """Write everything, and count it in `done`."""
        into = Writing(out, done.file, self._node.config.signer())
        into.add(self._header())
        for line in self._knowledge(done):
            into.add(line)
        for name in sorted(self._tables):
            for row in self._rows(self._tables[name], done):
                into.add(row)
        done.sha256 = into.end()

    def _header(self) -> Header:
        facts = self._node.facts
        return Header(
            source_node=facts.node_id,
            incarnation=facts.incarnation,
            exported_at=to_iso(self._node.clock.now_us()),
            main=known_main(self._connection, self._node.config),
            tables={name: Described(shape.meta.pk, shape.meta.columns) for name, shape in self._tables.items()},
            plans={name: msgspec.Raw(msgspec.json.encode(plan)) for name, plan in self._plans.items()},
        )

    def _knowledge(self, done: Exported) -> Iterator[Line]:
        yield from self._marks()
        yield from self._applied()
        yield from self._horizons()
        for letter in self._letters():
            done.dead_letters += 1
            yield letter
        yield from self._parts()
        for conflict in self._conflicts():
            done.waiting_conflicts += 1
            yield conflict
        yield from self._choices()

    def _marks(self) -> Iterator[MarkLine]:
        for one, _ in watermark.read_all(self._connection).values():
            yield MarkLine(one.source_node, one.incarnation, one.last_lsn, one.last_tx_id, one.highest_lsn)
        for incarnation, end in sorted(self._ends.items()):
            yield MarkLine(self._node.facts.node_id, incarnation, end.lsn, end.tx_id, end.lsn)

    def _applied(self) -> Iterator[AppliedLine]:
        columns = [rf.applied_tx.c[name] for name in AppliedLine.__struct_fields__]
        query = sa.select(*columns).join_from(rf.sync_state, rf.applied_tx, above_mark(rf.applied_tx))
        for row in self._connection.execute(query):
            yield AppliedLine(*row)

    def _horizons(self) -> Iterator[HorizonLine]:
        query = "SELECT t.name, h.main_epoch, h.hlc, h.node_id FROM rf_horizon h JOIN rf_table t USING (table_id)"
        for name, *version in self._connection.exec_driver_sql(query):
            yield HorizonLine(name, Version(*version))

    def _letters(self) -> Iterator[LetterLine]:
        """Those that wait, and those above a mark: it goes over them once what is missing below has come."""
        letter = rf.dead_letter
        above = sa.exists().where(above_mark(letter))
        wanted = sa.or_(letter.c.state.in_(rf.OPEN_DEAD_LETTERS), above)
        # What this node could not send of its own stays its own.
        query = sa.select(letter).where(wanted, letter.c.source_node != self._node.facts.node_id)
        for row in self._connection.execute(query).mappings():
            yield LetterLine(**{name: row[name] for name in LetterLine.__struct_fields__})

    def _parts(self) -> Iterator[PartLine]:
        query = sa.select(*(rf.tx_part.c[name] for name in PartLine.__struct_fields__)).where(STANDS_APART)
        for row in self._connection.execute(query):
            yield PartLine(*row)

    def _conflicts(self) -> Iterator[ConflictLine]:
        stored = rf.conflict
        query = sa.select(stored).where(stored.c.state == State.WAITING.value).order_by(stored.c.id)
        for row in self._connection.execute(query).mappings():
            yield ConflictLine(**{name: row[name] for name in ConflictLine.__struct_fields__})

    def _choices(self) -> Iterator[ChoiceLine]:
        stored = rf.choice.c
        query = sa.select(rf.choice).where(stored.table_name.in_(list(self._tables))).order_by(stored.id)
        for row in self._connection.execute(query):
            yield ChoiceLine(
                row.table_name,
                msgspec.Raw(self._look.pk_of(self._tables[row.table_name], row.row_key)),
                row.node_id,
                read_version(row.base),
                None if row.version is None else read_version(row.version),
                tuple(Version(*one) for one in json.loads(row.resolves)),
                row.chosen_us,
            )

    def _rows(self, table: TableShape, done: Exported) -> Iterator[RowLine]:
        copies = Copies(self._connection)
        for row in self._look.rows(table):
            aside, image = None, row.image
            if image is None and not row.deleted:
                copy = copies.aside(table.name, row.key, row.version)
                if copy is None:
                    continue
                aside, image = copy.kind, _named(copy.facts.image.encode(), table)
            self._count(row, aside, done)
            after = msgspec.Raw(b"null" if image is None else image)
            yield RowLine(table.name, msgspec.Raw(row.pk), after, row.version, row.base, aside)

    def _count(self, row: FrozenRow, aside: str | None, done: Exported) -> None:
        done.stepped_back += aside is not None
        done.tombstones += row.deleted
        if row.image is not None:
            done.rows += 1
            if done.rows % _ROWS_AT_ONCE == 0:
                self._advance(_ROWS_AT_ONCE)


def _named(image: bytes, table: TableShape) -> bytes:
    """Return the columns that the table still has of a row that may have stepped back before some went."""
    fields = msgspec.json.decode(image, type=dict[str, msgspec.Raw])
    kept = {name: value for name, value in fields.items() if name in table.meta.columns}
    return image if len(kept) == len(fields) else msgspec.json.encode(kept)
