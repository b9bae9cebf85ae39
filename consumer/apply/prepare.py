"""Decoding and checking before the transaction begins, so that its locks are held for the database's work alone."""

import hashlib
from collections.abc import Sequence

import msgspec

from common.errors import EarlyError, PoisonError
from common.wire.changes import TxReader
from common.wire.records import BatchHeader, Change
from consumer.apply.allowed_ddl import AllowedDdl, Statement
from consumer.incoming import Incoming
from consumer.main_node import MainNode
from consumer.tables import Tables
from consumer.verify import ChangeChecker, Checked, header_error


class Prepared(msgspec.Struct, frozen=True):
    """A tx ready for the transaction, or the reason why it can't be."""

    incoming: Incoming
    sha256: str
    """Over its change lines; over the bytes where these can't be read."""
    checked: tuple[Checked, ...] = ()
    """Its changes; empty while they stand in `rf_tx_part`."""
    statements: tuple[Statement, ...] = ()
    """DDL to run, of a tx that holds nothing else."""
    error: PoisonError | EarlyError | None = None
    writes_as_main: bool = False
    """Whether some change goes above others as the main node's do."""
    latest_us: int = 0
    """The latest that its source's clock said."""
    generation: int = 0
    """Of the tables that its changes were checked against."""

    @property
    def alone(self) -> bool:
        """Whether it needs a transaction of its own."""
        return self.incoming.in_parts or bool(self.statements)


class Preparer:
    """Prepares txs for one database."""

    def __init__(self, tables: Tables, main: MainNode, ddl: AllowedDdl | None = None) -> None:
        self.tables = tables
        self.main = main
        self._ddl = ddl

    @property
    def generation(self) -> int:
        """Another number whenever the tables were found to be others than before."""
        return self.tables.generation

    def prepare(self, incoming: Incoming) -> Prepared:
        """Decode and check one tx. A fault becomes its `error`."""
        header = incoming.header
        if header is None:
            return Prepared(incoming, _sum(incoming.raw or b""), error=incoming.error)
        error = incoming.error or header_error(header)
        if incoming.in_parts:
            return Prepared(incoming, header.tx_sha256 or "", error=error)
        if incoming.payload is None:
            return Prepared(incoming, _sum(incoming.raw or b""), error=error)
        if error is not None:
            return Prepared(incoming, _sum(incoming.payload), error=error)
        try:
            return self._decoded(incoming, header, incoming.payload)
        except PoisonError as fault:
            return Prepared(incoming, _sum(incoming.payload), error=fault)

    def checker(self, header: BatchHeader) -> ChangeChecker:
        """Return what checks the changes of a tx that is read in slices."""
        return ChangeChecker(header, self.tables, self.main)

    def _decoded(self, incoming: Incoming, header: BatchHeader, payload: bytes) -> Prepared:
        generation = self.generation
        reader = TxReader(header, [payload])
        changes = list(reader)
        sha256 = reader.content_sha256 or ""
        statements = self._statements(changes)
        if statements:
            return Prepared(incoming, sha256, statements=statements)
        try:
            checker = self.checker(header)
            checked = tuple(checker.check(changes))
            as_main, latest_us = checker.writes_as_main, checker.latest_us
            return Prepared(
                incoming, sha256, checked, writes_as_main=as_main, latest_us=latest_us, generation=generation
            )
        except PoisonError as fault:
            return Prepared(incoming, sha256, error=fault)

    def _statements(self, changes: Sequence[Change]) -> tuple[Statement, ...]:
        if self._ddl is None or not changes or any(change.op != "DDL" for change in changes):
            return ()
        return tuple(self._ddl.statement(change.sql or "") for change in changes)


def _sum(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
