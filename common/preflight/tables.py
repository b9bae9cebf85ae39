"""Tables and columns that this database doesn't have. Such a tx becomes a dead letter; the rest goes on."""

from collections.abc import Collection, Iterator

from common.ports.dialect import TableShape
from common.preflight.findings import Check, Finding
from common.wire.records import BatchHeader


class TableCheck:
    """Looks at headers; each unknown name is told once."""

    def __init__(self, tables: dict[str, TableShape]) -> None:
        self._columns = {name: {column.name for column in shape.written} for name, shape in tables.items()}
        self._told: set[tuple[str, str | None]] = set()

    def check(self, header: BatchHeader, made_here: Collection[str], file: str, line: int) -> Iterator[Finding]:
        """Yield what is unknown. `made_here`: tables that DDL of the same input makes or changes."""
        for name, meta in header.tables.items():
            if name in made_here:
                continue
            known = self._columns.get(name)
            unknown = [None] if known is None else [column for column in meta.columns if column not in known]
            for column in unknown:
                if (name, column) not in self._told:
                    self._told.add((name, column))
                    what = f"table {name!r}" if column is None else f"column {column!r} of table {name!r}"
                    text = f"{what} is not known here: its txs become dead letters"
                    yield Finding(Check.TABLE, False, text, file, line, header.tx_id)
