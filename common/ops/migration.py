"""`migrate` and `unmigrate`: the `rf_*` tables, the node's own row, capture on the chosen tables. Safe to repeat."""

from dataclasses import dataclass, replace
from pathlib import Path

import sqlalchemy as sa

from common.clock import Clock
from common.config.model import Config, NodeSection
from common.errors import ConfigError, UsageError
from common.ids import new_incarnation
from common.ops.pausing import paused_tables
from common.ops.rehearsal import empty_copy, filled
from common.ops.sealing import in_turn, seal_all
from common.ops.table_choice import TableChoice, choose_tables
from common.ports.dialect import Database, NodeFacts
from common.retry import in_transaction
from common.schema import migrate as schema
from common.schema import tables as rf
from common.schema.first_rows import never_sent, with_rows


@dataclass(frozen=True, slots=True)
class MigrationReport:
    """What `migrate` did, or with `dry_run` would do."""

    dry_run: bool
    dialect: str
    revision: str
    sql: tuple[str, ...]
    """What ran, or would run, in order. Empty: nothing to do."""
    incarnation: str | None
    """None before the first run that is not dry."""
    choice: TableChoice
    paused: tuple[str, ...] = ()
    had_rows: tuple[str, ...] = ()
    """Tables that are captured from now on and had rows before, which nobody sends."""
    """Of the chosen tables those that stay without capture until `resume`."""

    @property
    def changed(self) -> bool:
        """Whether anything was, or would be, different afterwards."""
        return bool(self.sql)


@dataclass(frozen=True, slots=True)
class Unfinished:
    """What `unmigrate` would lose."""

    unsent_changes: int
    dead_letters: int
    waiting_conflicts: int

    @property
    def anything(self) -> bool:
        return bool(self.unsent_changes or self.dead_letters or self.waiting_conflicts)


def migrate(database: Database, config: Config, clock: Clock, *, as_script: bool = False) -> MigrationReport:
    """Make the database a node. Every check comes before the first change. Raises ConfigError, OutageError.

    `as_script`: report it so that somebody else can run it, as `plan` does."""
    choice = choose_tables(database.catalog(), config.tables)
    _check_is_whole(database)
    ran = [] if is_migrated(database) else database.capture().uninstall_orphans()
    ran += _pending(database)
    schema.upgrade(database.engine)
    before = _read_self(database, config.node)
    statement = _row_statement(config.node, before, database.server_identity(), clock.now_us())
    if statement is not None:
        in_transaction(database, lambda connection: connection.execute(statement))
        ran += _rendered(database, statement)
    after = _read_self(database, config.node)
    had_rows = with_rows(database, choice.captured)
    # A transaction that has written one of the tables must end first.
    installed = in_turn(database, lambda: database.capture(config.rules).install(choice.captured))
    ran += _in_one(installed) if as_script else installed
    report = _report(database, choice, ran, after.incarnation if after else None, dry_run=False)
    return replace(report, had_rows=never_sent(database, had_rows))


def plan(database: Database, config: Config, clock: Clock) -> MigrationReport:
    """Return what `migrate` would do, changing nothing: what runs in one transaction between BEGIN and COMMIT."""
    if _has_no_file(database):
        # Already a look at it would make an empty one.
        with filled([]) as nothing:
            return replace(migrate(nothing, config, clock, as_script=True), dry_run=True, incarnation=None)
    choice = choose_tables(database.catalog(), config.tables)
    _check_is_whole(database)
    if database.engine.dialect.name == "sqlite" and not is_migrated(database):
        # SQLite's capture is made from what stands in the rf_ tables, so it is made on a copy that has them.
        with empty_copy(database) as copy:
            return replace(migrate(copy, config, clock, as_script=True), dry_run=True, incarnation=None, choice=choice)
    would = _pending(database)
    row = _read_self(database, config.node) if is_migrated(database) else None
    would += _rendered(database, _row_statement(config.node, row, database.server_identity(), clock.now_us()))
    would += _in_one(database.capture(config.rules).plan(choice.captured))
    return _report(database, choice, would, row.incarnation if row else None, dry_run=True)


def unmigrate(database: Database, config: Config, *, force: bool) -> list[str]:
    """Take off capture and drop every `rf_*` table; the rows stay. Returns what was removed, in order.

    Raises UsageError when changes were not sent yet or something waits for a decision, unless `force`."""
    if not (is_migrated(database) or _is_hollow(database)):
        return database.capture().uninstall_orphans()
    left = unfinished(database, config)
    if left.anything and not force:
        raise UsageError(
            f"unsent changes: {left.unsent_changes}, open dead letters: {left.dead_letters}, waiting conflicts: "
            f"{left.waiting_conflicts}; they would be lost. Send and settle them (rowferry run --once, rowferry dlq "
            "list), or add --force"
        )
    removed = database.capture().uninstall()
    return removed + [f"DROP TABLE {name}" for name in schema.remove(database.engine)]


def is_migrated(database: Database) -> bool:
    """Tell whether `migrate` has ever run here."""
    return schema.current_revision(database.engine) is not None


def _check_is_whole(database: Database) -> None:
    if _is_hollow(database):
        raise ConfigError(
            "the rf_ tables are here without their contents, as in a copy of a node's schema alone; run "
            "`rowferry unmigrate`, which removes them, then this again"
        )


def _is_hollow(database: Database) -> bool:
    """Tell whether there are tables of a node and nothing that says of which revision: those of a dump without rows."""
    return not is_migrated(database) and sa.inspect(database.engine).has_table(rf.node.name)


def unfinished(database: Database, config: Config) -> Unfinished:
    """Return what would be lost now; seals first, so that the newest changes are counted."""
    row = _read_self(database, config.node)
    if row is None:
        return Unfinished(0, 0, 0)
    facts = NodeFacts(config.node.id, row.role, row.incarnation, config.tables.main_wins_as(row.role))
    seal_all(database, facts)
    head = database.log(facts).head().lsn
    slowest = sa.select(sa.func.min(rf.cursor.c.lsn)).where(rf.cursor.c.incarnation == facts.incarnation)
    dead = sa.select(sa.func.count()).where(rf.dead_letter.c.state.in_(rf.OPEN_DEAD_LETTERS))
    waiting = sa.select(sa.func.count()).where(rf.conflict.c.state == "waiting")
    with database.engine.connect() as connection:
        sent = connection.scalar(slowest) or 0
        return Unfinished(max(0, head - sent), connection.scalar(dead) or 0, connection.scalar(waiting) or 0)


@dataclass(frozen=True, slots=True)
class _SelfRow:
    role: str
    incarnation: str


def _read_self(database: Database, node: NodeSection) -> _SelfRow | None:
    """Return the database's own row. Raises ConfigError when it is another node, or `node.id` a known peer's."""
    query = sa.select(rf.node).where(sa.or_(rf.node.c.is_self, rf.node.c.node_id == node.id))
    with database.engine.connect() as connection:
        rows = connection.execute(query).all()
    for row in rows:
        if row.is_self and row.node_id != node.id:
            raise ConfigError(
                f"node.id: the configuration says {node.id!r}, the database belongs to {row.node_id!r}; correct the "
                "id, or run `rowferry unmigrate` with the old one first"
            )
        if not row.is_self:
            raise ConfigError(f"node.id: {node.id!r} is a peer that this database knows; give this node a different id")
    return _SelfRow(rows[0].role, rows[0].incarnation) if rows else None


def _row_statement(node: NodeSection, row: _SelfRow | None, identity: str, now_us: int) -> sa.Insert | sa.Update | None:
    """Return what must be written so that the row says what the configuration says; None when it does."""
    if row is None:
        return sa.insert(rf.node).values(
            node_id=node.id,
            role=node.role,
            incarnation=new_incarnation(),
            is_self=True,
            server_identity=identity,
            first_seen_us=now_us,
            last_seen_us=now_us,
        )
    if row.role != node.role:
        return sa.update(rf.node).where(rf.node.c.is_self).values(role=node.role, last_seen_us=now_us)
    return None


def _rendered(database: Database, statement: sa.Insert | sa.Update | None) -> list[str]:
    if statement is None:
        return []
    return [str(statement.compile(database.engine, compile_kwargs={"literal_binds": True}))]


def _pending(database: Database) -> list[str]:
    script = schema.pending_sql(database.engine).strip()
    return [script] if script else []


def _in_one(statements: list[str]) -> list[str]:
    return ["BEGIN", *statements, "COMMIT"] if statements else []


def _has_no_file(database: Database) -> bool:
    """Tell whether this is a SQLite database whose file is still to be made, in a folder that is there."""
    url = database.engine.url
    if url.get_backend_name() != "sqlite" or not url.database or url.database.startswith((":", "file:")):
        return False
    path = Path(url.database)
    return not path.exists() and path.parent.is_dir()


def _report(
    database: Database, choice: TableChoice, sql: list[str], incarnation: str | None, *, dry_run: bool
) -> MigrationReport:
    return MigrationReport(
        dry_run=dry_run,
        dialect=database.features.name,
        revision=schema.newest_revision(),
        sql=tuple(sql),
        incarnation=incarnation,
        choice=choice,
        paused=tuple(paused_tables(database)) if is_migrated(database) else (),
    )
