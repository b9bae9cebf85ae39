"""Lines of an answer taken in, held against the question: a peer can't fill this node's memory, nor tell of rows that
nobody asked for."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from common.errors import PoisonError, Reason
from common.wire.digests import Asked, AskedTable, ChunkLine, Digested, Head, Line, RowLine, TableLine
from common.wire.row_digests import Chunk, RowForm, chunk_of

MOST_ROWS = 200_000
"""Of one answer. Ten times what is asked for, for what was written meanwhile."""
_MOST_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Chunks:
    """One table's chunks."""

    bits: int
    chunks: Mapping[int, Chunk]

    @property
    def rows(self) -> int:
        """How many rows stand in the table."""
        return sum(chunk.rows for chunk in self.chunks.values())

    @property
    def keys(self) -> int:
        """How many rows stand, or are known to be gone."""
        return self.rows + sum(chunk.gone for chunk in self.chunks.values())


Rows = Mapping[bytes, RowLine]
"""By the digests of their keys."""


def collect_chunks(lines: Iterable[Line], asked: Asked, *, any_cut: bool = False) -> dict[str, Chunks]:
    """Return the chunks of the tables that were asked for. `any_cut`: a file has its own. Raises PoisonError."""
    found: dict[str, dict[int, Chunk]] = {name: {} for name in asked.tables}
    ended: dict[str, Chunks] = {}
    for line in lines:
        match line:
            case ChunkLine(table=table) if table in found and table not in ended:
                if line.chunk in found[table]:
                    raise _fault(f"chunk {line.chunk} of {table} comes twice")
                found[table][line.chunk] = Chunk(line.rows, line.gone, line.sum)
            case TableLine(table=table) if table in found and table not in ended:
                is_coarse = line.bits < asked.tables[table].bits and not any_cut
                if is_coarse or any(one >> line.bits for one in found[table]):
                    raise _fault(f"{table} is cut otherwise than was asked for")
                ended[table] = Chunks(line.bits, found[table])
            case ChunkLine() | TableLine():
                raise _fault(f"{line.table}: nobody asked for that, or it comes twice")
            case _:
                pass
    missing = [name for name in found if name not in ended]
    if missing:
        raise _fault(f"{missing[0]} is missing")
    return ended


def collect_rows(lines: Iterable[Line], asked: Asked, head: Head, *, picks: bool = False) -> dict[str, Rows]:
    """Return the rows that were asked for. `picks`: the lines hold others too, which are left. Raises PoisonError."""
    found: dict[str, dict[bytes, RowLine]] = {name: {} for name in asked.tables}
    wanted = {name: _Wanted(one, _table(head, name)) for name, one in asked.tables.items()}
    count = size = 0
    for line in lines:
        if not isinstance(line, RowLine):
            continue
        if line.table not in wanted:
            if picks:
                continue
            raise _fault(f"{line.table}: nobody asked for that")
        key = wanted[line.table].key(line)
        if not wanted[line.table].has(key):
            if picks:
                continue
            raise _fault(f"a row of {line.table} that nobody asked for")
        if key in found[line.table]:
            raise _fault(f"a row of {line.table} comes twice: {bytes(line.pk)[:200].decode(errors='replace')}")
        count, size = count + 1, size + len(bytes(line.pk)) + len(bytes(line.after))
        if count > MOST_ROWS or size > _MOST_BYTES:
            raise PoisonError(Reason.LIMIT, "it has more rows than could be")
        found[line.table][key] = line
    return {**found}


class _Wanted:
    """The rows of one table that were asked for."""

    def __init__(self, asked: AskedTable, table: Digested) -> None:
        self._form = RowForm(table.pk, table.columns, asked.forms)
        self._chunks = frozenset(asked.chunks or ())
        self._keys = frozenset(map(bytes.fromhex, asked.keys or ()))
        self._bits = asked.bits

    def key(self, line: RowLine) -> bytes:
        """Return the digest of a row's key, and see that the line is one. Raises PoisonError."""
        if line.state == "stands" and line.sum is None:
            raise _fault(f"a row of {line.table} stands and has no digest")
        if line.state != "stands" and (line.sum is not None or line.image is not None):
            raise _fault(f"a row of {line.table} is {line.state} and has values")
        if line.image is not None and self._form.values(line.image).hex() != line.sum:
            raise _fault(f"a row of {line.table} is not the one that its digest is of")
        return self._form.key(bytes(line.pk))

    def has(self, key: bytes) -> bool:
        """Tell whether a row was asked for."""
        return key in self._keys or (bool(self._chunks) and chunk_of(key, self._bits) in self._chunks)


def _table(head: Head, name: str) -> Digested:
    table = head.tables.get(name)
    if table is None or table.unfit is not None:
        raise _fault(f"{name} can't be compared any more")
    return table


def _fault(what: str) -> PoisonError:
    return PoisonError(Reason.FORMAT, what)
