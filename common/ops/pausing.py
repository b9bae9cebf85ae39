"""`pause` and `resume`: capture off a table for its owner's own surgery, and on again with nothing missed."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from common.clock import Clock
from common.config.model import Config
from common.errors import UsageError
from common.ops.sealing import in_turn, seal_all
from common.ports.dialect import Capture, Database, NodeFacts, TableShape
from common.retry import in_transaction
from common.schema import tables as rf


@dataclass(frozen=True, slots=True)
class PauseReport:
    """What `pause` did."""

    paused: tuple[str, ...]
    already: tuple[str, ...]
    """Were paused before."""


@dataclass(frozen=True, slots=True)
class ResumeReport:
    """What `resume` did."""

    resumed: tuple[str, ...]
    not_paused: tuple[str, ...]
    gone: tuple[str, ...]
    """Of those that were resumed: no longer in the database, or no longer among the configured tables."""
    sealed: int
    """How many changes were sealed, with what other tables had waiting."""


class Pausing:
    """Pauses and resumes tables of one node, for `actor`. Killed anywhere, the same call again brings it to its end."""

    def __init__(self, database: Database, config: Config, facts: NodeFacts, clock: Clock, actor: str) -> None:
        self._database = database
        self._config = config
        self._facts = facts
        self._clock = clock
        self._actor = actor

    def pause(self, names: Sequence[str]) -> PauseReport:
        """Seal what is captured and take capture off. Raises UsageError for a name that is not captured here.

        Raises ContentionError where a transaction that is still open holds a table."""
        tables = self._wanted()
        chosen = [self._table(tables, name) for name in dict.fromkeys(names)]
        self._bring_up_to_date(tables, chosen)
        seal_all(self._database, self._facts)
        capture = self._capture()
        fresh = in_turn(self._database, lambda: capture.pause(chosen, self._clock.now_us(), self._actor))
        # What was written until the triggers went: its owner may be about to drop columns of it.
        seal_all(self._database, self._facts)
        if fresh:
            self._audit("pause", {"tables": fresh})
        return PauseReport(tuple(fresh), tuple(shape.name for shape in chosen if shape.name not in fresh))

    def resume(self, names: Sequence[str]) -> ResumeReport:
        """Put capture back and seal what was written meanwhile. Raises UsageError for a name that is nothing here.

        Raises ContentionError where a transaction that is still open holds a table."""
        paused, tables = paused_tables(self._database), self._wanted()
        asked = list(dict.fromkeys(names))
        resumed = [name for name in asked if name in paused]
        for name in asked:
            if name not in paused:
                self._table(tables, name)
        self._refuse_keyless(resumed)
        before = self._head()
        if resumed:
            capture = self._capture()
            in_turn(self._database, lambda: capture.resume(resumed, list(tables.values())))
        seal_all(self._database, self._facts)
        sealed = self._head() - before
        if resumed:
            self._audit("resume", {"tables": resumed, "sealed": sealed})
        return ResumeReport(
            resumed=tuple(resumed),
            not_paused=tuple(name for name in asked if name not in paused),
            gone=tuple(name for name in resumed if name not in tables),
            sealed=sealed,
        )

    def _capture(self) -> Capture:
        return self._database.capture(self._config.rules)

    def _wanted(self) -> dict[str, TableShape]:
        tables = self._database.catalog().tables
        return {name: shape for name, shape in tables.items() if self._config.tables.wants(name)}

    def _table(self, tables: Mapping[str, TableShape], name: str) -> TableShape:
        if name not in tables:
            raise UsageError(
                f"{name}: no table with that name is captured here; `rowferry migrate` lists those that are"
            )
        return tables[name]

    def _refuse_keyless(self, names: Iterable[str]) -> None:
        keyless = self._database.catalog().keyless
        for name in names:
            if name in keyless and self._config.tables.wants(name):
                raise UsageError(f"{name} no longer has a primary key: add one, then resume it; it stays paused")

    def _bring_up_to_date(self, tables: Mapping[str, TableShape], chosen: Sequence[TableShape]) -> None:
        """What capture has missed until now must not pass for unchanged."""
        drifted = self._capture().drifted(chosen)
        if drifted and not self._config.node.auto_migrate:
            raise UsageError(f"capture is out of date on {', '.join(drifted)}: run `rowferry migrate` first")
        if drifted:
            in_turn(self._database, lambda: self._capture().install(list(tables.values())))

    def _head(self) -> int:
        return self._database.log(self._facts).head().lsn

    def _audit(self, action: str, detail: Mapping[str, object]) -> None:
        line = {
            "at_us": self._clock.now_us(),
            "actor": self._actor,
            "action": action,
            "detail": json.dumps(detail),
        }
        in_transaction(self._database, lambda connection: connection.execute(sa.insert(rf.audit).values(line)))


def paused_tables(database: Database) -> dict[str, int]:
    """Return the paused tables by name, and since when: microseconds since the epoch."""
    query = sa.select(rf.paused.c.table_name, rf.paused.c.since_us).order_by(rf.paused.c.table_name)
    with database.engine.connect() as connection:
        return {row.table_name: row.since_us for row in connection.execute(query)}
