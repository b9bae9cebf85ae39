"""A snapshot into this node's database: all of it in one transaction, or nothing."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from common.crash_points import CrashPoint, reach
from common.errors import PoisonError, PreflightError
from common.ops.migration import migrate
from common.ops.table_making import make, statements
from common.ports.dialect import ApplySession
from common.ports.table_making import TablePlan
from common.runtime.node import Node
from consumer import audit
from consumer.apply.committing import Committing
from consumer.apply.rows import UnsealedError
from consumer.snapshots.fitting import check_fit
from consumer.snapshots.knowledge import Knowledge
from consumer.snapshots.preflight import Found, look_through, opened
from consumer.snapshots.rows import RowsWriter, check_references
from consumer.standing.refresh import Refresh
from consumer.standing.store import set_mark
from consumer.statements import reading
from consumer.tables import Tables

Advance = Callable[[int], None]


@dataclass(slots=True)
class Imported:
    """What was taken, or with `dry_run` would be."""

    source_node: str
    incarnation: str
    exported_at: str
    dry_run: bool
    tables: int
    rows: int
    tombstones: int
    stepped_back: int
    dead_letters: int
    waiting_conflicts: int
    sha256: str
    made_tables: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    """What these tables have where the snapshot comes from and not here: indexes, checks and the like."""
    replaced_rows: bool = False
    key_notes: list[str] = field(default_factory=list)
    """Sequences that still give numbers of rows that are there, each with its remedy."""

    @classmethod
    def of(cls, found: Found, *, dry_run: bool) -> "Imported":
        """Return what `found` comes to."""
        header = found.header
        return cls(
            header.source_node,
            header.incarnation,
            header.exported_at,
            dry_run,
            len(header.tables),
            found.rows,
            found.tombstones,
            found.stepped_back,
            found.dead_letters,
            found.waiting_conflicts,
            found.sha256,
            list(found.missing_tables),
            [f"{name}: {what}" for name, plan in found.missing_tables.items() if plan for what in plan.left_out],
        )

    def as_dict(self) -> dict[str, Any]:
        """Return it as `--json` prints it."""
        return asdict(self)


class SnapshotImport:
    """Takes one snapshot, for `actor`. `replace`: in the place of what stands here."""

    def __init__(self, node: Node, path: Path, actor: str, *, replace: bool) -> None:
        self._node = node
        self._path = path
        self._actor = actor
        self._replace = replace
        self._committing = Committing(node)

    def look(self, advance: Advance, *, may_make_tables: bool = False) -> Found:
        """Look through the file, and whether this node may take it. Raises PreflightError, UsageError."""
        found = look_through(self._path, self._node, may_make_tables=may_make_tables, advance=advance)
        if found.missing_tables:
            # That they can be made is known before anything is.
            statements(self._node.database, self._plans(found))
        self._committing.seal()
        with reading(self._node.database) as connection:
            check_fit(self._node, connection, found, replace=self._replace)
        return found

    def make_tables(self, found: Found) -> list[str]:
        """Make the tables that are missing, all or none, and capture them; return their names."""
        make(self._node.database, self._plans(found))
        migrate(self._node.database, self._node.config, self._node.clock)
        return list(found.missing_tables)

    def _plans(self, found: Found) -> dict[str, TablePlan]:
        without = [name for name, plan in found.missing_tables.items() if plan is None]
        if without:
            raise PreflightError(f"{self._path} does not say how to make {', '.join(without)}: create it first")
        return {name: plan for name, plan in found.missing_tables.items() if plan is not None}

    def apply(self, found: Found, advance: Advance) -> Imported:
        """Take what was looked through. Raises PreflightError where the file has changed since, or its rows can't be
        written here."""
        done = Imported.of(found, dry_run=False)
        done.replaced_rows = self._replace
        tables = Tables(self._node)

        def work(session: ApplySession) -> list[str]:
            return self._work(session, tables, found, advance)

        done.key_notes = self._committing.run(work, patiently=True)
        # What stands was decided where it comes from; this node may know more by now.
        Refresh(self._node).catch_up()
        return done

    def _work(self, session: ApplySession, tables: Tables, found: Found, advance: Advance) -> list[str]:
        node, every = self._node, list(tables.shapes().values())
        snapshots = node.database.snapshots()
        snapshots.hold(session, every)
        if node.database.log(node.facts).unsealed().changes:
            raise UnsealedError("something was written here a moment ago")
        check_fit(node, session.connection, found, replace=self._replace)
        knowledge = Knowledge(session, node, found, tables.shapes())
        checks = node.config.tables.foreign_keys == "check"
        dangling = snapshots.dangling(session, every) if self._replace and checks else {}
        if self._replace:
            snapshots.empty(session, every)
            knowledge.forget()
        self._write_rows(session, tables, found, knowledge, advance)
        if checks:
            with opened(self._path, node) as file:
                check_references(session, tables, found, file, self._path)
        if self._replace and checks:
            self._refuse_dangling(dangling, snapshots.dangling(session, every))
        try:
            knowledge.write(node.clock.now_us())
        except PoisonError as error:
            raise PreflightError(f"{self._path}: {error}") from error
        left = snapshots.count_on(session, every)
        self._note(session.connection, found)
        reach(CrashPoint.BEFORE_COMMIT)
        return left

    def _write_rows(
        self, session: ApplySession, tables: Tables, found: Found, knowledge: Knowledge, advance: Advance
    ) -> None:
        """Write the rows, and let `knowledge` have the rest."""
        writer = RowsWriter(session, tables, found, self._path, advance)
        with opened(self._path, self._node) as file:
            for number, line in file:
                if not writer.take(number, line):
                    knowledge.take(line)
            if file.sha256 != found.sha256:
                raise PreflightError(f"{self._path} has changed since it was looked through")
        if writer.end(self._node.clock.now_us()):
            incarnation = self._node.facts.incarnation
            set_mark(session.connection, incarnation, found.own_lsns.get(incarnation, 0))

    def _refuse_dangling(self, before: Mapping[str, int], now: Mapping[str, int]) -> None:
        """Tables that are not captured may point to rows that the snapshot does not have."""
        more = {name: count - before.get(name, 0) for name, count in now.items() if count > before.get(name, 0)}
        if more:
            listed = ", ".join(f"{count} of {name}" for name, count in sorted(more.items()))
            raise PreflightError(
                f"{self._path}: rows of tables that are not captured would point nowhere ({listed}), since the snapshot"
                ' lacks what they point to: mend them first, or set tables.foreign_keys = "ignore"'
            )

    def _note(self, connection: sa.Connection, found: Found) -> None:
        detail = {"sha256": found.sha256, "rows": found.rows, "incarnation": found.header.incarnation}
        detail |= {"exported_at": found.header.exported_at, "replaced": self._replace}
        line = audit.Line("snapshot-imported", found.header.source_node, None, self._actor, detail)
        audit.write(connection, [line], self._node.clock.now_us())
