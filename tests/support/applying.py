"""What tests of applying need: a migrated node on a real database, batches of made-up sources, a source in memory."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from common.clock import SystemClock
from common.config.model import Config
from common.dialects import open_database
from common.errors import OutageError
from common.ops.migration import migrate
from common.ports.sink import TransportFeatures
from common.ports.source import Delivery
from common.runtime.node import Node, read_facts
from common.schema.migrate import current_revision, pending_sql
from common.versions import Version
from common.wire.encode import encode_change, encode_tx
from common.wire.records import TableMeta, TxHeader
from common.wire.signing import Signer
from consumer.incoming import Result
from consumer.intake import Intake
from consumer.plain.lane import PlainLane
from consumer.standing.refresh import Refresh

WHEN = "2026-01-01T00:00:00.000000Z"
SCHEMA = (
    "CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT, price NUMERIC(12, 2))",
    "CREATE TABLE parent (id INTEGER PRIMARY KEY, name TEXT)",
    "CREATE TABLE child (id INTEGER PRIMARY KEY, parent_id INTEGER NOT NULL REFERENCES parent (id))",
    "CREATE TABLE code (id INTEGER PRIMARY KEY, code TEXT NOT NULL UNIQUE)",
)
TABLES = {
    "item": TableMeta(pk=("id",), columns={"id": "int", "name": "text", "price": "decimal"}),
    "parent": TableMeta(pk=("id",), columns={"id": "int", "name": "text"}),
    "child": TableMeta(pk=("id",), columns={"id": "int", "parent_id": "int"}),
    "code": TableMeta(pk=("id",), columns={"id": "int", "code": "text"}),
}
Row = dict[str, Any]
_SCRIPTS: dict[str, str] = {}


@dataclass
class TestClock:
    """A clock that tests move."""

    __test__ = False

    us: int = 1_800_000_000_000_000

    def now_us(self) -> int:
        return self.us

    def pass_seconds(self, seconds: float) -> None:
        self.us += int(seconds * 1_000_000)


@dataclass(frozen=True)
class Write:
    """One change of a made-up tx. `row` is the after image, for `D` the before image."""

    op: str
    table: str
    row: Row
    hlc: int
    base: Version | None = None
    node: str | None = None
    epoch: int = 0
    resolves: tuple[Version, ...] = ()
    key: tuple[str, ...] = ()
    """Its columns, of a table that is none of `TABLES`; `id` where nothing is said."""

    def line(self, lsn: int, tx_id: str, source: str) -> bytes:
        pk = {name: self.row.get(name) for name in self.key or TABLES.get(self.table, TABLES["item"]).pk}
        image = _json(self.row)
        return encode_change(
            lsn=lsn,
            tx_id=tx_id,
            table=self.table,
            op=self.op,
            pk=_json(pk),
            before=None if self.op == "I" else image,
            after=None if self.op == "D" else image,
            version=Version(self.epoch, self.hlc, self.node or source),
            base=self.base,
            captured_at=WHEN,
            resolves=json.dumps(self.resolves) if self.resolves else None,
        )


@dataclass(frozen=True)
class Tx:
    """One sealed tx of a made-up source, as `encode_tx` takes it."""

    header: TxHeader
    writes: tuple[Write, ...]

    def lines(self) -> Iterator[bytes]:
        for lsn, write in enumerate(self.writes, start=self.header.from_lsn):
            yield write.line(lsn, self.header.tx_id, self.header.source_node)

    def parts(self, max_batch_bytes: int = 4 * 1024 * 1024, signer: Signer | None = None) -> list[bytes]:
        return [part.body for part in encode_tx(self, max_batch_bytes, signer)]

    def signed(self, signer: Signer) -> bytes:
        (body,) = self.parts(signer=signer)
        return body

    @property
    def body(self) -> bytes:
        (body,) = self.parts()
        return body

    @property
    def tx_id(self) -> str:
        return self.header.tx_id


@dataclass
class Origin:
    """A made-up node that seals txs one after the other."""

    node_id: str
    incarnation: str = "inc1"
    lsn: int = 0
    made: int = 0
    tables: dict[str, TableMeta] = field(default_factory=lambda: dict(TABLES))

    def tx(self, *writes: Write) -> Tx:
        """Return the next tx."""
        first, self.made = self.lsn + 1, self.made + 1
        prev, self.lsn = self.lsn, self.lsn + len(writes)
        names = dict.fromkeys(write.table for write in writes)
        tables = {name: self.tables.get(name, TABLES["item"]) for name in names}
        tx_id = tx_id_of(self.node_id, self.made)
        return Tx(TxHeader(tx_id, self.node_id, self.incarnation, WHEN, first, self.lsn, prev, tables), writes)

    def put(self, row_id: int, name: str, hlc: int, base: Version | None = None, op: str = "I") -> Tx:
        """Return the next tx: one row of `item`."""
        return self.tx(item(row_id, name, hlc, base, op))


def seal_all(world: World) -> None:
    """Seal whatever was written."""
    sealer = world.node.database.sealer(world.node.facts)
    while sealer.seal().more:
        pass


def tx_id_of(node_id: str, number: int) -> str:
    """Return a UUIDv7 that rises with `number`."""
    salt = sum(node_id.encode()) & 0xFFFF
    return str(uuid.UUID(int=(0x019200000000 + number) << 80 | 0x7 << 76 | 0b10 << 62 | salt))


def item(
    row_id: int, name: str, hlc: int, base: Version | None = None, op: str = "I", node: str | None = None
) -> Write:
    """Return a change of one row of `item`."""
    return Write(op, "item", {"id": row_id, "name": name, "price": "1.50"}, hlc, base, node)


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def resealed(part: bytes, old: bytes, new: bytes) -> bytes:
    """Return a part with `old` replaced by `new` and a right checksum over that: a sender's lie or fault."""
    *lines, end, _ = part.replace(old, new).split(b"\n")
    body = b"\n".join(lines) + b"\n"
    fields = json.loads(end) | {"sha256": hashlib.sha256(body).hexdigest()}
    return body + _json(fields) + b"\n"


@dataclass
class MemorySource:
    """A source whose deliveries a test puts in; what is given back comes again, marked."""

    waiting: list[Delivery] = field(default_factory=list)
    acked: list[Delivery] = field(default_factory=list)
    given_back: list[tuple[Delivery, bool]] = field(default_factory=list)
    closed: int = 0
    fail_ack: bool = False

    took_what_stood = False
    features = TransportFeatures("memory", False, True, False, True, False, False, None)

    def put(self, *bodies: bytes, **fields: Any) -> None:
        for body in bodies:
            self.waiting.append(Delivery(body, fields.pop("origin", "test"), len(self.waiting), **fields))

    def receive(self, max_deliveries: int, timeout_seconds: float) -> list[Delivery]:
        taken, self.waiting = self.waiting[:max_deliveries], self.waiting[max_deliveries:]
        return taken

    def ack(self, deliveries: list[Delivery]) -> None:
        if self.fail_ack:
            raise OutageError("the broker is away")
        self.acked += deliveries

    def give_back(self, deliveries: list[Delivery], *, failed: bool) -> None:
        self.given_back += [(delivery, failed) for delivery in deliveries]
        again = [replace(one, redelivered=True, attempts=one.attempts + failed) for one in deliveries]
        self.waiting = again + self.waiting

    def close(self) -> None:
        self.closed += 1


@dataclass
class World:
    """One node under test, with what it applies from."""

    node: Node
    clock: TestClock
    source: MemorySource = field(default_factory=MemorySource)
    intakes: list[Intake] = field(default_factory=list)

    def intake(self, **options: Any) -> Intake:
        """Return a new intake, as a new process would have it."""
        made = Intake(self.node, "test", lambda: self.source, options.get("copies"), threading.Event())
        self.intakes.append(made)
        return made

    def receive(self, *bodies: bytes, **fields: Any) -> None:
        """Let an intake take `bodies`, each as one delivery, in as many rounds as that takes."""
        self.source.put(*bodies, **fields)
        intake = self.intakes[-1] if self.intakes else self.intake()
        intake.step(0)
        while intake.has_more:
            intake.step(0)

    @cached_property
    def refresh(self) -> Refresh:
        """What follows up the application's writes, as a process that goes on has it: a new one looks at all that has
        stepped back, and so mends what the one before it should have seen."""
        return Refresh(self.node)

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        with self.node.database.engine.connect() as connection:
            return [tuple(row) for row in connection.exec_driver_sql(statement)]

    def one(self, statement: str) -> Any:
        ((value,),) = self.query(statement)
        return value

    def execute(self, *statements: str) -> None:
        """Write as the application does."""
        with application(self.node.database.engine.url) as connection:
            for statement in statements:
                connection.exec_driver_sql(statement)

    def block_codes(self) -> None:
        """Let no applier write the code `taken`: by a rule that this database alone has, not by a row in the way."""
        self.execute("INSERT INTO code VALUES (5, 'taken')")
        if self.node.database.engine.dialect.name == "postgresql":
            self.execute("ALTER TABLE code ADD CONSTRAINT code_blocked CHECK (id = 5 OR code <> 'taken')")
            return
        with closing(sqlite3.connect(str(self.node.database.engine.url.database))) as raw, raw:
            raw.create_function("of_the_application", 1, lambda value: value, deterministic=True)
            raw.execute("CREATE INDEX code_blocked ON code (of_the_application(code)) WHERE code = 'taken'")

    def free_codes(self) -> None:
        """Take that rule away, and the row that was there before it."""
        postgresql = self.node.database.engine.dialect.name == "postgresql"
        self.execute(
            "ALTER TABLE code DROP CONSTRAINT code_blocked" if postgresql else "DROP INDEX code_blocked",
            "DELETE FROM code WHERE id = 5",
        )

    def rows(self, table: str = "item") -> list[tuple[Any, ...]]:
        return self.query(f"SELECT * FROM {table} ORDER BY 1")

    def letters(self) -> list[tuple[Any, ...]]:
        return self.query("SELECT tx_id, reason, state FROM rf_dead_letter ORDER BY tx_id")

    def letters_open(self) -> list[tuple[Any, ...]]:
        return [letter for letter in self.letters() if letter[2] in ("dead", "early", "forked")]

    def watermark(self, source: str) -> int:
        return int(self.one(f"SELECT coalesce(max(last_lsn), 0) FROM rf_sync_state WHERE peer = '{source}'"))


def drop_triggers(world: World, table: str = "item") -> list[str]:
    """Return what takes all triggers off a table."""
    if world.node.database.engine.dialect.name == "sqlite":
        names = world.query(f"SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = '{table}'")
        return [f'DROP TRIGGER "{name}"' for (name,) in names]
    names = world.query(f"SELECT tgname FROM pg_trigger WHERE tgrelid = '{table}'::regclass AND NOT tgisinternal")
    return [f'DROP TRIGGER "{name}" ON {table}' for (name,) in names]


def only_the_long_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no intake go the short way: for tests that break a piece of the long one."""
    monkeypatch.setattr(PlainLane, "begin", lambda lane: None)


@contextmanager
def application(url: sa.URL) -> Iterator[sa.Connection]:
    """A connection as the application has it, with nothing of Rowferry's."""
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    try:
        with engine.begin() as connection:
            yield connection
    finally:
        engine.dispose()


def config_for(url: str, node_id: str = "here", **sections: Any) -> Config:
    """Return a configuration for a database under test."""
    node = {"id": node_id, "database": url, **sections.pop("node", {})}
    return Config.model_validate({"node": node, **sections})


def make_tables(engine: sa.Engine) -> None:
    """Make the `rf_*` tables on an empty database by the SQL that `migrate` would run, rendered once a process.

    A thousand tests begin so: to render it each time is half of what a migration takes."""
    if current_revision(engine) is not None:
        return
    dialect = engine.dialect.name
    script = _SCRIPTS.get(dialect) or _SCRIPTS.setdefault(dialect, pending_sql(engine))
    with closing(engine.raw_connection()) as raw:
        connection: Any = raw.driver_connection
        if dialect == "sqlite":
            connection.executescript(f"BEGIN;\n{script}\nCOMMIT;")
        else:
            connection.execute(script.encode())
            raw.commit()


def open_world(url: str, schema: Sequence[str] = SCHEMA, **sections: Any) -> World:
    """Return a migrated node on an empty database. The caller closes `world.node.database`."""
    if schema:
        with application(sa.make_url(url)) as connection:
            for statement in schema:
                connection.exec_driver_sql(statement)
    config = config_for(url, **sections)
    clock = TestClock()
    database = open_database(url)
    make_tables(database.engine)
    migrate(database, config, SystemClock())
    return World(Node(config, database, read_facts(database, config), clock), clock)


def close_world(world: World) -> None:
    """Close what a test left open."""
    for intake in world.intakes:
        intake.close()
    world.node.database.close()


def sqlite_url(folder: Path, name: str = "app.db") -> str:
    """Return the URL of a database file."""
    return f"sqlite:///{folder / name}"


MakeWorld = Callable[..., World]


def outcomes(results: Sequence[Result]) -> list[str]:
    """Return the outcomes as plain words."""
    return [result.outcome.value for result in results]


DATABASES = ["sqlite", pytest.param("postgresql", marks=pytest.mark.containers)]
"""For `params` of a fixture that wants a world on each database."""


@contextmanager
def world_on(request: pytest.FixtureRequest, tmp_path: Path, **sections: Any) -> Iterator[World]:
    """A node on the database that the fixture's parameter names."""
    url = sqlite_url(tmp_path) if request.param == "sqlite" else request.getfixturevalue("pg_database")
    world = open_world(url, **sections)
    try:
        yield world
    finally:
        close_world(world)
