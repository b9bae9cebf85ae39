"""The rows of a snapshot: written set-based with their versions, those that have stepped back kept aside."""

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from common.errors import PoisonError, PreflightError
from common.ports.dialect import ApplySession, RowWrite
from common.ports.standing import Proposal
from common.wire.snapshot import Reading, RowLine
from consumer.snapshots.preflight import Found
from consumer.standing.store import Copies
from consumer.standing.theory import RowId
from consumer.tables import Tables, TableUse

_ROWS_AT_ONCE = 1_000
_BYTES_AT_ONCE = 8 * 1024 * 1024


class RowsWriter:
    """Writes within one applying transaction into tables that are empty."""

    def __init__(
        self, session: ApplySession, tables: Tables, found: Found, path: Path, advance: Callable[[int], None]
    ) -> None:
        self._session = session
        self._tables = tables
        self._found = found
        self._path = path
        self._advance = advance
        self._pending: list[RowLine] = []
        self._bytes = 0
        self._aside: list[RowLine] = []
        self._number = 0

    def take(self, number: int, line: object) -> bool:
        """Take a line; False where it is none of a row."""
        if not isinstance(line, RowLine):
            return False
        if line.aside is not None:
            self._aside.append(line)
            return True
        full = len(self._pending) >= _ROWS_AT_ONCE or self._bytes >= _BYTES_AT_ONCE
        if self._pending and (full or self._pending[0].table != line.table):
            self._write()
        self._number = number
        self._pending.append(line)
        self._bytes += len(bytes(line.after))
        return True

    def end(self, now_us: int) -> int:
        """Write the rest; return how many rows have stepped back."""
        self._write()
        for some in _pieces(self._aside):
            with self._refusing(some[0].table):
                self._keep(some, now_us)
        return len(self._aside)

    def _write(self) -> None:
        lines, self._pending, self._bytes = self._pending, [], 0
        if not lines:
            return
        use = _use(self._tables, self._found, lines[0].table)
        with self._refusing(use.name):
            self._session.write(use.shape, use.meta, self._writes(use, lines))
        self._advance(len(lines))

    def _writes(self, use: TableUse, lines: list[RowLine], *, aside: bool = False) -> list[RowWrite]:
        pks = [bytes(line.pk) for line in lines]
        states = self._session.lock(use.shape, use.meta, pks)
        if any(state.known for state in states) or len({state.key for state in states}) < len(states):
            raise PreflightError(f"{self._path}: a row of {use.name} up to line {self._number} comes twice")
        return [
            RowWrite(state.key, pk, line.image, line.version, line.base, aside=aside)
            for line, pk, state in zip(lines, pks, states, strict=True)
        ]

    def _keep(self, lines: list[RowLine], now_us: int) -> None:
        use = _use(self._tables, self._found, lines[0].table)
        writes = self._writes(use, lines, aside=True)
        proposals = [Proposal(one.key, one.pk, one.image) for one in writes if one.image is not None]
        look = self._session.look(self._tables.shapes())
        facts = {one.key: one for one in look.examine(use.shape, use.meta, proposals)}
        self._session.write(use.shape, use.meta, writes)
        copies = [
            (RowId(use.name, one.key), one.version, facts[one.key], use.shape.meta, line.aside or "")
            for line, one in zip(lines, writes, strict=True)
        ]
        Copies(self._session.connection).put(copies, now_us)

    @contextmanager
    def _refusing(self, table: str) -> Iterator[None]:
        """Make of a row that can't be written here a snapshot that is refused."""
        try:
            yield
        except PoisonError as error:
            where = f"{self._path}: the rows of {table} up to line {self._number}"
            raise PreflightError(f"{where} can't be written here: {error}") from error


def check_references(session: ApplySession, tables: Tables, found: Found, file: Reading, path: Path) -> None:
    """Look at the declared foreign keys of all rows, once all are there. Raises PreflightError."""
    with_references = {name for name in found.metas if tables.shapes()[name].foreign_keys}
    if not with_references:
        return
    for some in _pieces(_standing(file, with_references)):
        use = _use(tables, found, some[0].table)
        pks = [bytes(line.pk) for line in some]
        states = session.lock(use.shape, use.meta, pks)
        writes = [
            RowWrite(state.key, pk, line.image, line.version, line.base)
            for line, pk, state in zip(some, pks, states, strict=True)
        ]
        broken = session.broken_references(use.shape, use.meta, writes, [])
        if broken:
            one = broken[0]
            raise PreflightError(
                f"{path}: {one.table} {one.child_pk} points to a row of {one.parent} that is not in it ({one.detail}):"
                ' mend it where it comes from and export again, or set tables.foreign_keys = "ignore"'
            )


def _standing(file: Reading, tables: Collection[str]) -> Iterator[RowLine]:
    for _, line in file:
        if isinstance(line, RowLine) and line.table in tables and line.aside is None and line.image is not None:
            yield line


def _use(tables: Tables, found: Found, name: str) -> TableUse:
    return tables.use(name, found.metas[name])


def _pieces(lines: Iterable[RowLine]) -> Iterator[list[RowLine]]:
    """Yield lines of one table each, in their order."""
    piece: list[RowLine] = []
    for line in lines:
        if piece and (len(piece) >= _ROWS_AT_ONCE or piece[0].table != line.table):
            yield piece
            piece = []
        piece.append(line)
    if piece:
        yield piece
