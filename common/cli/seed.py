"""`rowferry seed`: the trial schema and rows in it."""

from typing import Any

import click

from common.clock import SystemClock
from common.config.model import Config
from common.console import Console
from common.ops import migration, seeding, trial_schema
from common.ops.opened import opened_database
from common.ports.dialect import Database
from common.runtime.host import Host, current_host


@click.command(short_help="Fill a trial schema for a first look.")
@click.option("--rows", type=click.IntRange(1, 1_000_000), default=100, show_default=True, help="Number of sales.")
@click.option(
    "--seed", "number", type=int, default=1, show_default=True, help="Random seed: the same number gives the same rows."
)
@click.option("--more", is_flag=True, help="Add to the rows that are already there.")
def seed(rows: int, number: int, more: bool) -> None:
    """Fill a trial schema (company, store, product, sale) for a first look.

    Creates the tables if they are missing; on a migrated node they are captured at once, so the rows are sent."""
    host = current_host()
    with opened_database(host.config) as database:
        if not more:
            seeding.refuse_filled(database.engine)
        made = seeding.make_tables(database.engine)
        captured = capture_trial_tables(database, host.config)
        with host.progress(None, "adding rows"):
            report = seeding.seed(database.engine, host.config.node.id, rows, number)
    document = {
        "node": host.config.node.id,
        "made_tables": list(made),
        "captured": list(captured),
        "rows": dict(report.rows),
        "transactions": report.transactions,
    }
    host.emit(document, lambda console: _tell(console, host, document))


def capture_trial_tables(database: Database, config: Config) -> tuple[str, ...]:
    """Install capture on new tables of a migrated node; returns which trial tables travel."""
    if not migration.is_migrated(database):
        return ()
    report = migration.migrate(database, config, SystemClock())
    return tuple(shape.name for shape in report.choice.captured if shape.name in trial_schema.TABLES)


def _tell(console: Console, host: Host, document: dict[str, Any]) -> None:
    rows = document["rows"]
    console.say(f"Added {', '.join(f'{count} {name}' for name, count in rows.items())}.")
    left = [name for name in rows if name not in document["captured"]]
    if not document["captured"]:
        console.say(f"This database is not a node yet, so these rows stay here. Next: {host.command('migrate')}")
    elif left:
        console.say(f"Not in tables.include, so they stay here: {', '.join(left)}")
    else:
        console.say("They are captured and will be sent by the next rowferry run.")
