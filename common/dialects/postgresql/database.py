"""One PostgreSQL database behind the ports."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import sqlalchemy as sa

from common.dialects.postgresql.applying import PostgresApplySession
from common.dialects.postgresql.backing_up import PostgresBackups
from common.dialects.postgresql.capture import PostgresCapture
from common.dialects.postgresql.catalog import read_catalog
from common.dialects.postgresql.connection import BY_INDEX_SETTINGS, SERVER_IDENTITY, driver, make_engine
from common.dialects.postgresql.errors import translate, translated
from common.dialects.postgresql.frozen import PostgresSnapshots
from common.dialects.postgresql.health import findings
from common.dialects.postgresql.log import PostgresLog
from common.dialects.postgresql.making import PgTableMaking
from common.dialects.postgresql.plain_rows import PgPlainRows
from common.dialects.postgresql.retention import PostgresRetention
from common.dialects.postgresql.row_history import PostgresRowHistory
from common.dialects.postgresql.sealing import PostgresSealer
from common.dialects.postgresql.sealing_sql import LOCK
from common.ports.dialect import Catalog, DialectFeatures, NodeFacts, TableShape
from common.ports.health import Finding
from common.ports.plain import RowRun
from common.ports.rules import NO_RULES, Rules
from common.wire.records import TableMeta

FEATURES = DialectFeatures(
    name="postgresql", triggers_off=True, locks_rows=True, splits_transactions=True, short_way=True
)


class PostgresDatabase:
    """Makes sealers, logs and applying sessions, each with connections of its own."""

    def __init__(self, url: str) -> None:
        self._engine = make_engine(url)
        self._applying = make_engine(url)
        """Of connections that stay set for applying: see `apply_settings`."""
        self._sealing = make_engine(url, BY_INDEX_SETTINGS)
        self._reading = make_engine(url, BY_INDEX_SETTINGS, "AUTOCOMMIT")

    @property
    def engine(self) -> sa.Engine:
        """The pool."""
        return self._engine

    @property
    def features(self) -> DialectFeatures:
        """What PostgreSQL can do here."""
        return FEATURES

    def catalog(self) -> Catalog:
        """Look at the tables. The `rf_*` tables and the database's own are never in it."""
        with translated(), self._engine.connect() as connection:
            return read_catalog(driver(connection))

    def capture(self, rules: Rules = NO_RULES) -> PostgresCapture:
        """Return what installs and checks the triggers."""
        return PostgresCapture(self._engine, rules)

    def sealer(self, node: NodeFacts) -> PostgresSealer:
        """Return a sealer for one thread."""
        return PostgresSealer(self._sealing, self._reading, node)

    @property
    def own_letters(self) -> int:
        """None: a key holds no NULL here, and what was captured is sealed also where its table is gone."""
        return 0

    def hold_sealing(self, connection: sa.Connection) -> None:
        """Take the sealers' lock."""
        with translated():
            driver(connection).execute(LOCK)

    def log(self, node: NodeFacts) -> PostgresLog:
        """Return the sealed log of one incarnation."""
        return PostgresLog(self._sealing, self._reading, node)

    def retention(self) -> PostgresRetention:
        """Return what takes old lines away."""
        return PostgresRetention()

    @contextmanager
    def apply_session(self) -> Iterator[PostgresApplySession]:
        """Begin one applying transaction; sealer and other appliers wait from its first `lock` on."""
        with translated(), self._applying.begin() as connection:
            session = PostgresApplySession(connection)
            yield session
            session.finish()

    def plain_rows(self, table: TableShape, meta: TableMeta, runs: Sequence[RowRun]) -> PgPlainRows:
        """Make rows ready for the short way."""
        return PgPlainRows.of(table, meta, runs)

    def row_history(self, node: NodeFacts) -> PostgresRowHistory:
        """Return what tells of single rows."""
        return PostgresRowHistory(self._engine, node)

    def backups(self) -> PostgresBackups:
        """Return what dumps the database, and puts a dump back."""
        return PostgresBackups(self._engine)

    def snapshots(self) -> PostgresSnapshots:
        """Return what looks at all of it as it was sealed at one moment."""
        return PostgresSnapshots(self._engine)

    def table_making(self) -> PgTableMaking:
        """Return what describes tables, and makes tables from descriptions."""
        return PgTableMaking(self._engine)

    def health(self) -> list[Finding]:
        """Look whether this server and account can do what a node needs."""
        with translated(), self._engine.connect() as connection:
            return list(findings(driver(connection)))

    def server_identity(self) -> str:
        """What sealing remembers of the server: where it changes, the LSNs of before can't be continued."""
        with translated(), self._engine.connect() as connection:
            return str(connection.scalar(sa.text(SERVER_IDENTITY.replace(":", "\\:"))))

    def translate(self, error: sa.exc.SQLAlchemyError) -> Exception:
        """Return the RowferryError that a driver's error calls for, by SQLSTATE."""
        return translate(error)

    def close(self) -> None:
        """Close the pool's connections; may be called twice."""
        for engine in (self._engine, self._applying, self._sealing, self._reading):
            engine.dispose()
