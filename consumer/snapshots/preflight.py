"""A snapshot looked through before the first row of it is written."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from pydantic import ValidationError

from common.errors import PoisonError, PreflightError, RowferryError, UsageError
from common.ports.table_making import TablePlan
from common.runtime.node import Node
from common.schema.tables import OPEN_DEAD_LETTERS
from common.wire.records import TableMeta
from common.wire.snapshot import (
    AppliedLine,
    ConflictLine,
    Header,
    LetterLine,
    Line,
    MarkLine,
    Reading,
    RowLine,
)
from consumer.dedup import TxKey
from consumer.snapshots.line_checks import LineChecks
from consumer.tables import Tables
from consumer.watermark import SourceKey

_MOST_NAMED = 5
_ROWS_AT_ONCE = 1_000


@dataclass(slots=True)
class Found:
    """What a snapshot holds."""

    header: Header
    metas: dict[str, TableMeta]
    sha256: str = ""
    rows: int = 0
    tombstones: int = 0
    stepped_back: int = 0
    dead_letters: int = 0
    waiting_conflicts: int = 0
    own_lsns: dict[str, int] = field(default_factory=dict)
    """Up to where it holds what this node wrote, by incarnation."""
    marks: dict[SourceKey, int] = field(default_factory=dict)
    """Up to where it holds what each source wrote."""
    applied: set[TxKey] = field(default_factory=set)
    """What of the sources it holds above that."""
    own_letters: int = 0
    """Txs of this node that its exporter has set aside."""
    missing_tables: dict[str, TablePlan | None] = field(default_factory=dict)
    """Those that this database does not have, with how they can be made."""


@contextmanager
def opened(path: Path, node: Node) -> Iterator[Reading]:
    """Open a snapshot. Raises PreflightError, UsageError."""
    if not path.exists():
        raise UsageError(f"{path}: there is no such file")
    if not path.is_file():
        raise UsageError(f"{path} is not a regular file: it is read twice, so save it as a file first")
    try:
        with path.open("rb") as raw:
            yield Reading.opened(raw, path, node.config.trust())
    except OSError as error:
        raise RowferryError(f"{path}: can't be read: {error.strerror}") from error


def look_through(path: Path, node: Node, *, may_make_tables: bool, advance: Callable[[int], None]) -> Found:
    """Read all of a snapshot, and tell what it holds. Raises PreflightError where it is torn, altered or does not fit
    this node's tables, UsageError where it does not belong here."""
    with opened(path, node) as reading:
        header = reading.header
        _check_source(header, node)
        found = Found(header, _metas(header, path))
        _check_tables(found, path, node, may_make_tables=may_make_tables)
        checks = LineChecks(found.metas)
        for number, line in reading:
            try:
                checks.check(line)
            except PoisonError as error:
                raise PreflightError(f"{path}: line {number}: {error}") from error
            _count(found, line, node)
            if isinstance(line, RowLine) and (found.rows + found.tombstones) % _ROWS_AT_ONCE == 0:
                advance(_ROWS_AT_ONCE)
        found.sha256 = reading.sha256 or ""
    return found


def _metas(header: Header, path: Path) -> dict[str, TableMeta]:
    try:
        return {name: TableMeta(pk=one.pk, columns=one.columns) for name, one in header.tables.items()}
    except ValidationError as error:
        raise PreflightError(f"{path}: line 1: {error.errors()[0]['msg']}") from error


def _check_source(header: Header, node: Node) -> None:
    if header.source_node == node.facts.node_id:
        raise UsageError(
            f"it is a snapshot of {header.source_node} itself: to restore a node as it was, use `rowferry backup`"
            " and `rowferry restore`; a new node has its own id"
        )
    known = node.main()
    if header.main is not None and known not in (None, header.main):
        raise UsageError(f"the main node is {header.main} there and {known} here: correct [node] main, or role")


def _check_tables(found: Found, path: Path, node: Node, *, may_make_tables: bool) -> None:
    tables, there = Tables(node), node.database.catalog()
    unfit = []
    for name, meta in found.metas.items():
        if name not in there.tables and name not in there.keyless and node.config.tables.wants(name):
            found.missing_tables[name] = _plan(found.header, name, path)
            continue
        try:
            tables.use(name, meta)
        except PoisonError as error:
            unfit.append(str(error))
    if found.missing_tables and not may_make_tables:
        names = ", ".join(list(found.missing_tables)[:_MOST_NAMED])
        unfit.append(
            f"this database lacks {len(found.missing_tables)} tables of it ({names}): --create-tables makes them"
        )
    if unfit:
        raise PreflightError(f"{path}: {'; '.join(unfit[:_MOST_NAMED])}")


def _plan(header: Header, name: str, path: Path) -> TablePlan | None:
    raw = header.plans.get(name)
    try:
        return None if raw is None else msgspec.json.decode(raw, type=TablePlan)
    except msgspec.DecodeError as error:
        raise PreflightError(f"{path}: line 1: the description of {name} is none: {error}") from error


def _count(found: Found, line: Line, node: Node) -> None:
    match line:
        case RowLine():
            found.stepped_back += line.aside is not None
            found.tombstones += line.image is None
            found.rows += line.image is not None and line.aside is None
        case MarkLine():
            found.marks[line.source_node, line.incarnation] = line.last_lsn
            if line.source_node == node.facts.node_id:
                found.own_lsns[line.incarnation] = line.last_lsn
        case AppliedLine():
            found.applied.add((line.source_node, line.tx_id))
        case LetterLine():
            found.dead_letters += 1
            is_own = line.source_node == node.facts.node_id
            found.own_letters += is_own and line.state in OPEN_DEAD_LETTERS
        case ConflictLine():
            found.waiting_conflicts += 1
        case _:
            pass
