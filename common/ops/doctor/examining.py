"""The examination: configuration, database, schema, tables, broker, folder, and how the node stands."""

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from common.config.model import Config
from common.config.toml import toml_key
from common.errors import ConfigError, OutageError, RowferryError
from common.ops.doctor.roads import (
    broker_findings,
    directory_findings,
    handing_on_findings,
    main_findings,
    peer_findings,
    server_findings,
)
from common.ops.doctor.signatures import signature_findings, token_findings
from common.ops.known_nodes import MOST_NODES, is_full
from common.ops.migration import is_migrated
from common.ops.passed import live_peers
from common.ops.pausing import paused_tables
from common.ops.status_reading import read_standing
from common.ops.status_words import counted
from common.ops.table_choice import choose_tables, vain_names
from common.ops.tokens import stored_tokens
from common.ports.dialect import Database, NodeFacts
from common.ports.health import Finding, Level
from common.retry import in_transaction
from common.schema import migrate as schema
from common.schema.main_node import known_main
from common.visible import resume_command


@dataclass(frozen=True, slots=True)
class Knowing:
    """How to ask what is known above this layer."""

    facts: Callable[[], NodeFacts]
    """Who the database is. Raises ConfigError where it is another node."""
    shares: Callable[[NodeFacts], Mapping[str, Any]]
    """What the parts tell of the node, as for `status`."""
    now_us: Callable[[], int]


def examine(config: Config, database: Database, knowing: Knowing) -> Iterator[Finding]:
    """Yield what is found, in the order in which a fault makes the next look pointless.

    Raises OutageError where the database can't be reached."""
    yield from _configuration(config)
    yield from database.health()
    ready = True
    for one in (*_schema(config, database, knowing), *_tables(config, database)):
        ready = ready and one.level is not Level.FAIL
        yield one
    if config.broker is None and config.directory is None and not config.peers:
        text = "no [broker], [directory] or [peers]: changes leave only in files, or when others fetch them"
        yield Finding("broker", Level.NOTE, text, "set broker.url or directory.path, or add a peer, unless intended")
    yield from broker_findings(config)
    yield from directory_findings(config)
    yield from peer_findings(config)
    yield from server_findings(config, knowing.now_us())
    if ready:
        yield from main_findings(config, in_transaction(database, lambda connection: known_main(connection, config)))
        yield from signature_findings(config, _peers(config, database, knowing.facts()))
        yield from _known_nodes(database)
        tokens = stored_tokens(database)
        yield from token_findings(config, tokens, knowing.now_us())
        yield from handing_on_findings(config, tokens, knowing.now_us())
        yield from _standing(config, database, knowing)


def _configuration(config: Config) -> Iterator[Finding]:
    yield Finding("configuration", Level.OK, f"node {config.node.id} ({config.node.role})")
    if config.fallback != type(config.fallback)() and not (config.broker and config.directory):
        text = "[fallback] does nothing: it needs a broker, and a folder to fall back to"
        yield Finding("configuration", Level.NOTE, text, "set broker.url and directory.path")


def _schema(config: Config, database: Database, knowing: Knowing) -> Iterator[Finding]:
    area = "schema"
    if not is_migrated(database):
        yield Finding(area, Level.FAIL, "this database is not a node yet", "rowferry migrate")
        return
    stands, newest = schema.current_revision(database.engine), schema.newest_revision()
    if stands != newest:
        text = f"the rf_ tables are at revision {stands}, this release has {newest}"
        yield Finding(area, Level.FAIL, text, "run rowferry migrate with the newest release that uses this database")
        return
    try:
        knowing.facts()
    except ConfigError as error:
        yield Finding(area, Level.FAIL, str(error))
        return
    yield Finding(area, Level.OK, f"rf_ tables at revision {newest}")
    try:
        there = database.catalog().tables
        wanted = [shape for name, shape in there.items() if config.tables.wants(name)]
    except ConfigError:
        # Told with the tables.
        return
    drifted = database.capture(config.rules).drifted(wanted)
    if drifted:
        remedy = (
            "rowferry migrate; a running node does it by itself" if config.node.auto_migrate else "rowferry migrate"
        )
        yield Finding(area, Level.WARN, f"capture is out of date on {', '.join(drifted)}", remedy)
    for name in paused_tables(database):
        resume = resume_command(name)
        if name in there:
            yield Finding(area, Level.WARN, f"{name} is paused: its changes stay here", resume)
        else:
            text = f"{name} is paused and no longer there: what was written to it in the pause is not sent as it is"
            remedy = f"if it was renamed, change the name back, {resume}, and rename it again; otherwise {resume}"
            yield Finding(area, Level.WARN, text, remedy)


def _tables(config: Config, database: Database) -> Iterator[Finding]:
    area = "tables"
    try:
        choice = choose_tables(database.catalog(), config.tables)
    except ConfigError as error:
        yield Finding(area, Level.FAIL, str(error))
        return
    names = [shape.name for shape in choice.captured]
    travel = counted(len(names), "table travels", "tables travel") or "no table travels"
    yield Finding(area, Level.OK if names else Level.WARN, f"{travel}: {', '.join(names)}" if names else travel)
    for name, why in choice.left_out:
        yield Finding(area, Level.NOTE, f"{name} is left out: {why}")
    for name in choice.own_keys:
        text = f"{name} numbers its own keys: two nodes would assign the same one"
        yield Finding(area, Level.WARN, text, f'[tables.keys] {toml_key(name)} = "stride" | "shared" | "main-only"')
    for text in choice.loose_keys:
        yield Finding(
            area, Level.WARN, text, "use a type or collation that tells them apart, or one way to write a key"
        )
    for text in choice.rounded:
        yield Finding(area, Level.WARN, text, "use a type that keeps its digits, such as double precision or numeric")
    for text in choice.fed:
        yield Finding(area, Level.WARN, text, "make the database that it comes from a node, or exclude the table")
    for text in choice.key_notes:
        yield Finding(area, Level.NOTE, text)
    for what, remedy in vain_names(config.tables, choice):
        yield Finding(area, Level.WARN, what, remedy)


def _peers(config: Config, database: Database, facts: NodeFacts) -> list[str]:
    return in_transaction(database, lambda connection: live_peers(connection, config, facts))


def _known_nodes(database: Database) -> Iterator[Finding]:
    if in_transaction(database, is_full):
        text = f"{MOST_NODES:,} nodes are known: nothing is recorded of any other, and nothing is kept for it"
        remedy = "see rowferry node list, token list: stop whoever makes up names; node.require_signed = true"
        yield Finding("peers", Level.WARN, text, remedy)


def _standing(config: Config, database: Database, knowing: Knowing) -> Iterator[Finding]:
    try:
        facts = knowing.facts()
        standing = read_standing(database, config, facts, knowing.now_us(), knowing.shares(facts))
    except OutageError:
        raise
    except RowferryError as error:
        yield Finding("standing", Level.FAIL, str(error))
        return
    if not standing.is_running:
        yield Finding("standing", Level.NOTE, "no `rowferry run` is active here: nothing is sent or fetched by itself")
    for reason in standing.attention:
        yield Finding("standing", Level.WARN, reason)
    if not standing.attention:
        yield Finding("standing", Level.OK, str(standing.state.value))


def runtime_finding() -> Finding:
    """Say under what this runs: the first thing that a report of a fault needs."""
    version = ".".join(map(str, sys.version_info[:3]))
    return Finding("configuration", Level.OK, f"Python {version}, account {os.environ.get('USER') or os.getuid()}")
