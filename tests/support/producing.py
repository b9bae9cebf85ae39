"""What producer tests need: a database with `rf_*` tables and a log held in memory, a sink that confirms by hand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import sqlalchemy as sa

from common.errors import ContentionError, OutageError
from common.ids import TxIds
from common.ports.dialect import Database, LogHead, NodeFacts, Unsealed
from common.ports.sink import Envelope, TransportFeatures
from common.schema import tables as rf
from common.versions import NEVER, Version
from common.wire.encode import encode_change
from common.wire.records import SealedTx, TableMeta, TxHeader

INCARNATION = "inc-1"
FACTS = NodeFacts("shop", "branch", INCARNATION)
_META = TableMeta(pk=("id",), columns={"id": "int", "note": "text"})


@dataclass(frozen=True)
class MemoryTx:
    """One sealed tx."""

    header: TxHeader
    notes: tuple[str, ...]

    def lines(self) -> Iterator[bytes]:
        for lsn, note in enumerate(self.notes, start=self.header.from_lsn):
            yield encode_change(
                lsn=lsn,
                tx_id=self.header.tx_id,
                table="item",
                op="I",
                pk=b'{"id":%d}' % lsn,
                before=None,
                after=b'{"id":%d,"note":"%s"}' % (lsn, note.encode()),
                version=Version(0, 1_000_000 + lsn, self.header.source_node),
                base=NEVER,
                captured_at=self.header.exported_at,
            )


@dataclass
class MemoryLog:
    """The sealed log of one incarnation."""

    incarnation: str = INCARNATION
    txs: list[MemoryTx] = field(default_factory=list)
    tx_ids: TxIds = field(default_factory=TxIds)

    def add(self, *notes: str) -> MemoryTx:
        """Seal one tx with a change for each note."""
        prev = self.txs[-1].header.to_lsn if self.txs else 0
        header = TxHeader(
            tx_id=self.tx_ids.next(1_000_000),
            source_node=FACTS.node_id,
            incarnation=self.incarnation,
            exported_at="2026-01-01T00:00:00.000000Z",
            from_lsn=prev + 1,
            to_lsn=prev + len(notes),
            prev_lsn=prev,
            tables={"item": _META},
        )
        self.txs.append(MemoryTx(header, notes))
        return self.txs[-1]

    def head(self) -> LogHead:
        return LogHead(self.txs[-1].header.to_lsn, self.txs[-1].header.tx_id) if self.txs else LogHead(0, None)

    def unsealed(self) -> Unsealed:
        return Unsealed(0, None)

    def read(self, after_lsn: int, limit_bytes: int) -> Iterator[SealedTx]:
        for tx in self.txs:
            if tx.header.to_lsn > after_lsn:
                yield tx
                limit_bytes -= sum(map(len, tx.lines()))
                if limit_bytes <= 0:
                    return


class MemoryDatabase:
    """A real SQLite file for `rf_*`, logs in memory. As much of the Database port as the relay needs."""

    def __init__(self, path: Path) -> None:
        self.engine = sa.create_engine(f"sqlite:///{path}", poolclass=sa.NullPool)
        rf.metadata.create_all(self.engine)
        with self.engine.begin() as connection:
            # As capture makes it.
            connection.execute(sa.text("CREATE TABLE rf_table (table_id INTEGER PRIMARY KEY, name TEXT)"))
            connection.execute(sa.text("INSERT INTO rf_table VALUES (1, 'item')"))
        self.logs = {INCARNATION: MemoryLog()}

    @property
    def as_port(self) -> Database:
        return cast(Database, self)

    def log(self, node: NodeFacts) -> MemoryLog:
        return self.logs[node.incarnation]

    def note_txs(self) -> None:
        """Write the `rf_tx` rows of all logs, by which incarnations are found."""
        with self.engine.begin() as connection:
            connection.execute(sa.delete(rf.tx))
            for log in self.logs.values():
                for tx in log.txs:
                    header = tx.header
                    connection.execute(
                        sa.insert(rf.tx).values(
                            incarnation=header.incarnation,
                            to_lsn=header.to_lsn,
                            from_lsn=header.from_lsn,
                            prev_lsn=header.prev_lsn,
                            tx_id=header.tx_id,
                            exported_at=header.exported_at,
                            grouped=False,
                            tables="{}",
                            bytes=100,
                            captured_us=1_000_000,
                        )
                    )

    def translate(self, error: sa.exc.SQLAlchemyError) -> Exception:
        return ContentionError(str(error)) if "locked" in str(error) else OutageError(str(error))

    def close(self) -> None:
        self.engine.dispose()


FEATURES = TransportFeatures("hand", True, True, True, True, True, False, None)


class HandSink:
    """Takes envelopes and confirms them when the test says so."""

    def __init__(self) -> None:
        self.sent: list[Envelope] = []
        self.confirmed_count = 0
        self.closed = False
        self.fails = False
        self.confirms_at_once = False
        self.features = FEATURES

    def send(self, envelope: Envelope) -> None:
        assert not self.closed
        if self.fails:
            raise OutageError("the broker is away")
        self.sent.append(envelope)
        if self.confirms_at_once:
            self.confirmed_count = len(self.sent)

    def confirm(self, count: int | None = None) -> None:
        """Confirm the first `count` envelopes, or all."""
        self.confirmed_count = len(self.sent) if count is None else count

    def confirmed(self) -> int:
        if self.fails:
            raise OutageError("the broker is away")
        return max((one.closes_lsn or 0 for one in self.sent[: self.confirmed_count]), default=0)

    def flush(self, timeout_seconds: float) -> int:
        if self.confirmed_count < len(self.sent):
            raise OutageError("not confirmed in time")
        return self.confirmed()

    def close(self) -> None:
        self.closed = True


def tx_ids(envelopes: Sequence[Envelope]) -> list[str]:
    """Return the tx ids of all batches in `envelopes`, in order."""
    found = []
    for envelope in envelopes:
        for line in envelope.body.splitlines():
            if line.startswith(b'{"type":"end"'):
                found.append(line.split(b'"')[7].decode())
    return found
