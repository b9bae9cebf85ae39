"""The tables that batches may write here, and how a sender's description of one fits."""

import threading
from dataclasses import dataclass

from common.config.model import Policy
from common.errors import PoisonError, Reason
from common.ports.dialect import TableShape
from common.runtime.node import Node
from common.wire.records import TableMeta
from common.wire.row_form import RowForm, row_form

_MOST_METAS_KNOWN = 1_000
_UseKey = tuple[str, tuple[str, ...], tuple[tuple[str, str], ...]]


@dataclass(frozen=True, slots=True, eq=False)
class TableUse:
    """One table as one kind of sender describes it. Compared by identity: `Tables` makes one for each description."""

    name: str
    """The table's name on the wire."""
    shape: TableShape
    meta: TableMeta
    key_names: frozenset[str]
    column_names: frozenset[str]
    form: RowForm | None = None
    """Tells at one look that a row is as `meta` says; None where there can be no such thing."""
    append_only: bool = False
    """Its policy: rows come and never change."""


def use_of(shape: TableShape, meta: TableMeta | None, *, append_only: bool = False) -> TableUse:
    """Return a use of `shape` as `meta` describes it; None: as the table is here. Who has it knows that it fits."""
    meta = meta or shape.meta
    names = frozenset(meta.pk), frozenset(meta.columns)
    return TableUse(shape.name, shape, meta, *names, row_form(meta), append_only)


class Tables:
    """The configured tables as they were at the last look, kept, since looking costs queries. Any thread may ask."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._shapes: dict[str, TableShape] | None = None
        self._uses: dict[_UseKey, TableUse] = {}
        self._by_meta: dict[tuple[str, int], tuple[TableMeta, TableUse]] = {}
        """By identity: headers with the same description share one object."""
        self._may_look = True
        self._lock = threading.RLock()
        self.generation = 0
        """Another number whenever a look found other tables than the one before."""

    def begin(self) -> None:
        """Allow one new look at the database until the next `begin`, should something not fit."""
        self._may_look = True

    def shapes(self) -> dict[str, TableShape]:
        """Return the configured tables by name."""
        with self._lock:
            if self._shapes is None:
                self._shapes = self._node.captured_tables()
            return self._shapes

    def look_again(self) -> bool:
        """Look at the database, once a round; True when something has changed."""
        with self._lock:
            if not self._may_look:
                return False
            self._may_look = False
            before = self._shapes
            self._shapes = self._node.captured_tables()
            if before == self._shapes:
                return False
            self._uses.clear()
            self._by_meta.clear()
            self.generation += 1
            return True

    def use(self, name: str, meta: TableMeta) -> TableUse:
        """Return the table `name` as `meta` describes it. Raises PoisonError when it doesn't fit."""
        known = self._by_meta.get((name, id(meta)))
        if known is not None and known[0] is meta:
            return known[1]
        key = (name, meta.pk, tuple(meta.columns.items()))
        with self._lock:
            found = self._uses.get(key)
            if found is None:
                found = self._uses[key] = self._fit(name, meta)
            if len(self._by_meta) >= _MOST_METAS_KNOWN:
                self._by_meta.clear()
            self._by_meta[name, id(meta)] = meta, found
            return found

    def _fit(self, name: str, meta: TableMeta) -> TableUse:
        error = self._misfit(name, meta)
        if error is not None and self.look_again():
            error = self._misfit(name, meta)
        if error is not None:
            raise error
        append_only = self._node.config.tables.policy_for(name) is Policy.APPEND_ONLY
        return use_of(self.shapes()[name], meta, append_only=append_only)

    def _misfit(self, name: str, meta: TableMeta) -> PoisonError | None:
        shape = self.shapes().get(name)
        if shape is None:
            text = f"table {name!r} is not among the configured tables of this database"
            if self._node.config.tables.wants(name):
                text = f"there is no table {name!r} here, or it has no primary key"
            return PoisonError(Reason.UNKNOWN_TABLE, text, table=name)
        known = {column.name for column in shape.written}
        unknown = [column for column in meta.columns if column not in known]
        if unknown:
            text = f"table {name!r} has no column {unknown[0]!r} that can be written here"
            return PoisonError(Reason.UNKNOWN_COLUMN, text, table=name)
        if set(meta.pk) != set(shape.pk):
            text = (
                f"table {name!r} has the key {_names(shape.pk)} here, and {_names(meta.pk)} where the batch comes from"
            )
            return PoisonError(Reason.TYPE, text, table=name)
        return None


def _names(columns: tuple[str, ...]) -> str:
    return f"({', '.join(columns)})"
