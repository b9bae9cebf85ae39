"""What Rowferry needs from a database. A dialect is one package of differences behind these Protocols."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import msgspec
import sqlalchemy as sa

from common.ports.health import Finding
from common.ports.rules import NO_RULES, Rules
from common.ports.sink import Envelope
from common.versions import Version
from common.wire.records import SealedTx, TableMeta

if TYPE_CHECKING:
    # They name what stands below here.
    from common.ports.backup import Backups
    from common.ports.plain import PlainWriting
    from common.ports.retention import Retention
    from common.ports.row_history import RowHistory
    from common.ports.snapshot import Snapshots
    from common.ports.standing import StandingLook
    from common.ports.table_making import TableMaking

BY_SEALING = "sealing"
"""The origin of a dead letter that this node made of its own rows: it holds those rows, and no batch."""


@dataclass(frozen=True, slots=True)
class ColumnShape:
    """One column of a captured table."""

    name: str
    logical: str
    """The logical type (docs/DB_SYNC_POLICY.md): `int decimal … json`, or `pg:int4range`."""
    declared: str
    """The type as the database writes it."""
    nullable: bool = True
    generated: bool = False
    """Computed by the database from other columns: never written, never sent."""
    identity_always: bool = False


@dataclass(frozen=True, slots=True)
class ForeignKey:
    """A declared reference."""

    columns: tuple[str, ...]
    parent: str
    parent_columns: tuple[str, ...]
    name: str = ""


@dataclass(frozen=True, slots=True)
class TableShape:
    """A table that can be captured: it has a primary key."""

    name: str
    """The name on the wire and in the configuration: bare in the default schema, else `schema.name`."""
    schema: str | None
    bare: str
    columns: tuple[ColumnShape, ...]
    pk: tuple[str, ...]
    foreign_keys: tuple[ForeignKey, ...] = ()
    unique_keys: tuple[tuple[str, ...], ...] = ()
    late_keys: bool = False
    """A unique key is checked at the commit, and not at all while batches are applied: no write tells of a clash."""
    numbers_itself: bool = False
    """Keys come from the database (serial, identity, rowid): two nodes would give the same one."""
    key_bits: int = 63
    """How wide such a key may be: the column holds values below two to the power of this."""
    loose_key: str | None = None
    """What of its key the database may take for equal and write in two ways; None where equal keys have one text."""
    rounded: tuple[str, ...] = ()
    """Columns, with their types, whose values the database itself can't write without losing digits."""
    fed_by: tuple[str, ...] = ()
    """Which subscriptions of the database's own replication write it, past capture."""
    no_stride: str | None = None
    """Why the database can't be made to give keys of one node's share here, and what would help; None where it can."""

    @property
    def written(self) -> tuple[ColumnShape, ...]:
        """The columns that travel: all but generated ones, which travel only as part of the key."""
        return tuple(column for column in self.columns if not column.generated or column.name in self.pk)

    @property
    def meta(self) -> TableMeta:
        """The table as a batch header describes it."""
        return TableMeta(pk=self.pk, columns={column.name: column.logical for column in self.written})


@dataclass(frozen=True, slots=True)
class Catalog:
    """What a database holds."""

    tables: Mapping[str, TableShape]
    keyless: tuple[str, ...] = ()
    """Ordinary tables without a primary key: refused by name when they are asked for, also through `*`."""
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Views, temporary, unlogged, virtual and shadow tables and the like: name → why `*` leaves it out."""


@dataclass(frozen=True, slots=True)
class SealReport:
    """What one step of the sealer did."""

    txs: int
    changes: int
    last_lsn: int
    more: bool = False
    """There was more than one step takes."""


@dataclass(frozen=True, slots=True)
class LogHead:
    """The end of the sealed log."""

    lsn: int
    tx_id: str | None


@dataclass(frozen=True, slots=True)
class Unsealed:
    """What is captured and committed, and waits for the sealer."""

    changes: int
    """Entries of the log; on SQLite a changed row may have several."""
    oldest_us: int | None
    """When the oldest was captured, microseconds since the epoch."""


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """Who this database is, as its own `rf_node` row says."""

    node_id: str
    role: str
    incarnation: str
    main_wins: frozenset[str] = frozenset()
    """The tables in which this node's own writes go above those that have not seen them (`main_epoch`): on the main
    node its `main-wins` tables, on a branch none."""


@dataclass(frozen=True, slots=True)
class DialectFeatures:
    """What a database can do here; tests and `doctor` read it."""

    name: str
    triggers_off: bool
    """The application's triggers stay quiet while batches are applied."""
    locks_rows: bool
    """Writers are concurrent, so the applier locks rows; else one writer holds the file."""
    splits_transactions: bool
    """A tx is the database's own transaction; else it is what was committed between two looks (`grouped`)."""
    short_way: bool = False
    """`ApplySession.plain` gives something."""


class RowState(msgspec.Struct, frozen=True):
    """What this node knows of one row, read under lock."""

    key: str
    """The dialect's canonical text of the primary key: equal keys have equal texts, wherever the change came from."""
    version: Version
    """NEVER where there is no record."""
    base: Version
    """The version that `version` was written on top of."""
    deleted: bool
    """A tombstone: the row was deleted at `version`."""
    known: bool
    """Whether there is a version record at all."""


class RowWrite(msgspec.Struct, frozen=True):
    """One row as it must stand after the commit."""

    key: str
    pk: bytes
    """JSON object of the primary key, as on the wire."""
    image: bytes | None
    """JSON object of the row; None deletes it."""
    version: Version
    base: Version
    aside: bool = False
    """The row has this version and is not deleted, and does not stand in its table (`consumer.standing`)."""


@dataclass(frozen=True, slots=True)
class BrokenReference:
    """A declared foreign key that would not hold."""

    table: str
    parent: str
    child_pk: str
    detail: str


class ApplySession(Protocol):
    """One transaction that applies batches: nothing of it is captured, the application's triggers stay quiet.

    Order of calls: `lock`, then `write`, then `unsealed`, `broken_references`, and the bookkeeping on `connection`;
    the context commits when it ends without an exception, else rolls back. Errors of the driver come out as
    OutageError, ContentionError or PoisonError (constraint, type).

    A table that was captured and has lost its triggers is not written: `lock`, `unsealed` or the end of the context
    raises UncapturedError, and `plain` does not hold. It can't lose them between that and the commit.
    """

    @property
    def connection(self) -> sa.Connection:
        """The same transaction, for the `rf_*` bookkeeping (dedup, watermark, audit, conflicts, dead letters)."""
        ...

    def lock(self, table: TableShape, meta: TableMeta, pks: Sequence[bytes]) -> list[RowState]:
        """Lock rows and their version records, in key order, and return their states in the order of `pks`.

        `meta` is the sender's description: it says how the JSON values are to be read.
        Raises PausedError for a row of a paused table that was written since it was sealed or applied last."""
        ...

    def images(self, table: TableShape, pks: Sequence[bytes], meta: TableMeta) -> list[bytes | None]:
        """Return the rows as they stand now as JSON objects in wire form, None where there is none."""
        ...

    def write(self, table: TableShape, meta: TableMeta, writes: Sequence[RowWrite], *, replace: bool = False) -> None:
        """Make the rows so, set-based, and record their versions. At most one write a key.

        Each image names just the columns of `meta`, each key just its primary key: the caller has looked.

        `replace`: delete all the rows first, then insert: for a tx whose unique values change places."""
        ...

    def choose(self, table: TableShape, meta: TableMeta, write: RowWrite, resolves: Sequence[Version]) -> None:
        """Make one row so, and have it sealed as this node's own write on top of `write.version`, also where the row
        stays as it is: a choice that settles `resolves`, and ranks above all of them.

        Raises ConfigError where its table is not captured."""
        ...

    def give_first(self, table: TableShape, rows: Sequence[RowWrite], resolves: Sequence[Version]) -> None:
        """Have rows that nobody has written since `migrate` sealed just as they stand, with the weakest version of this
        node. `resolves`: `FIRST` or `FIRST_OF_EACH`. Keys and images are as the table is here.

        Raises ConfigError where the table is not captured."""
        ...

    def unsealed(self, table: TableShape, keys: Sequence[str]) -> bool:
        """Tell whether a local write of one of these rows is committed but not sealed: then roll back, seal, retry."""
        ...

    def has_references(self, table: TableShape) -> bool:
        """Tell whether `table` declares a foreign key, or is pointed to by one: else `broken_references` has nothing to
        look for."""
        ...

    def broken_references(
        self, table: TableShape, meta: TableMeta, written: Sequence[RowWrite], deleted: Sequence[RowWrite]
    ) -> list[BrokenReference]:
        """Check the declared foreign keys of written rows, and of rows that point to deleted ones.

        Locks the parents, so that no local writer deletes one before the commit. Returns at most a few."""
        ...

    def plain(self) -> "PlainWriting | None":
        """Return what writes rows that meet just what they were made on; None where the database has no short way."""
        ...

    def look(self, tables: Mapping[str, TableShape]) -> "StandingLook":
        """Return what looks at unique values and references of `tables`, the configured ones, in this transaction."""
        ...


class Capture(Protocol):
    """Triggers and what belongs to them. Each call is one transaction. No call but `resume` touches a paused table.

    The guards of `Rules` stand where capture stands: they are installed, taken off and missed with it."""

    def plan(self, tables: Sequence[TableShape]) -> list[str]:
        """Return the SQL that `install` would run now; empty when all stands already."""
        ...

    def install(self, tables: Sequence[TableShape], *, briefly: bool = False) -> list[str]:
        """Install capture on exactly these tables, take it off others; safe to repeat. Returns the SQL that it ran.

        `briefly`: wait no longer for another process that installs than for one that holds a table."""
        ...

    def pause(self, tables: Sequence[TableShape], at_us: int, by: str) -> list[str]:
        """Take capture off these tables until `resume`, and note it in `rf_paused`. Returns those that were not paused.

        Batches are applied on. Of a row that was written meanwhile `ApplySession.lock` raises PausedError."""
        ...

    def resume(self, names: Sequence[str], tables: Sequence[TableShape]) -> list[str]:
        """End the pause of `names` and install capture on `tables`. Returns the SQL that it ran.

        What was written to them meanwhile, compared with what was sealed or applied last, is there for the sealer."""
        ...

    def uninstall(self) -> list[str]:
        """Take off every trigger and function that `install` made. The log stays."""
        ...

    def uninstall_orphans(self) -> list[str]:
        """The same where the `rf_*` tables are gone, as in a copy that was made without them."""
        ...

    def drifted(self, tables: Sequence[TableShape]) -> list[str]:
        """Name the tables whose shape is not the one that capture was installed for, or whose triggers are gone."""
        ...


class Sealer(Protocol):
    """Gives committed changes their tx_id, LSN, version and base, once, under a lock of its session."""

    def seal(self, max_changes: int = 50_000) -> SealReport:
        """Seal what is committed now; one short transaction.

        Raises ContentionError, OutageError, IncarnationEndedError."""
        ...

    def is_quiet(self) -> bool:
        """Tell for next to nothing that no other transaction ended since the last `seal` left nothing to do.

        False in doubt, and where a `seal` that finds nothing costs as little. Raises OutageError."""
        ...


class SealedLog(Protocol):
    """The sealed log, read as a stream."""

    def head(self) -> LogHead:
        """Return the last sealed LSN of this incarnation (0 when there is none) and its tx_id."""
        ...

    def unsealed(self) -> Unsealed:
        """Return what waits to be sealed. Reads all of it once: for people and gauges, not for loops."""
        ...

    def read(self, after_lsn: int, limit_bytes: int) -> Iterator[SealedTx]:
        """Yield whole txs with `to_lsn > after_lsn` in LSN order, about `limit_bytes` of them, at least one if any.

        Large txs don't come into memory: their `lines()` read the database again, in pieces."""
        ...


@runtime_checkable
class WritesBatches(Protocol):
    """A sealed log whose database writes small txs as whole batches by itself, quicker than it is done here."""

    def read_packed(
        self, after_lsn: int, limit_bytes: int, message_bytes: int, max_batch_bytes: int
    ) -> Iterator[Envelope | SealedTx]:
        """Yield what `SealedLog.read` does, small txs as envelopes of whole
        batches: `common.wire.encode` would give the same bytes, without signatures.

        Messages are full at about `message_bytes`; none has a batch above `max_batch_bytes`."""
        ...


class Database(Protocol):
    """One configured database. `open_database` makes it; it may be used by several threads, each with its sessions."""

    @property
    def engine(self) -> sa.Engine: ...

    @property
    def features(self) -> DialectFeatures: ...

    def catalog(self) -> Catalog:
        """Look at the tables. The `rf_*` tables and the database's own are never in it."""
        ...

    def capture(self, rules: Rules = NO_RULES) -> Capture:
        """Return what installs capture, and with it the guards that `rules` ask for."""
        ...

    def sealer(self, node: NodeFacts) -> Sealer: ...

    @property
    def own_letters(self) -> int:
        """How many dead letters the sealers of this object have made: rows of this node's own that can't travel."""
        ...

    def hold_sealing(self, connection: sa.Connection) -> None:
        """Let no sealer be halfway as long as this transaction, which is to write, goes on."""
        ...

    def log(self, node: NodeFacts) -> SealedLog: ...

    def row_history(self, node: NodeFacts) -> "RowHistory":
        """Return what tells of single rows."""
        ...

    def retention(self) -> "Retention":
        """Return what takes old lines away."""
        ...

    def apply_session(self) -> AbstractContextManager[ApplySession]:
        """Begin one applying transaction, under the lock that sealer and appliers share."""
        ...

    def backups(self) -> "Backups":
        """Return what copies all of it, and puts a copy back."""
        ...

    def snapshots(self) -> "Snapshots":
        """Return what looks at all of it as it was sealed at one moment, and makes room for another's rows."""
        ...

    def table_making(self) -> "TableMaking":
        """Return what describes tables, and makes tables from descriptions."""
        ...

    def health(self) -> list[Finding]:
        """Look whether this server, file and account can do what a node needs. Raises OutageError."""
        ...

    def server_identity(self) -> str:
        """What sealing remembers of the server: where it changes, the LSNs of before can't be continued."""
        ...

    def translate(self, error: sa.exc.SQLAlchemyError) -> Exception:
        """Return the RowferryError that a driver's error calls for, by SQLSTATE or result code."""
        ...

    def close(self) -> None: ...
