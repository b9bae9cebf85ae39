"""A PostgreSQL node for tests: a fresh database with capture, a small applier, and an oracle for the log."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import psycopg

from common.dialects.postgresql import PostgresDatabase
from common.errors import ContentionError
from common.ports.dialect import NodeFacts, RowWrite, SealReport, TableShape
from common.schema import migrate
from common.versions import NEVER
from common.wire.changes import TxReader
from common.wire.decode import read_body
from common.wire.encode import encode_tx
from common.wire.records import Change, Part, SealedTx

_ENOUGH = 10**9


class PostgresNode:
    """One database with the `rf_*` tables. Use it as a context: it closes what it opened."""

    def __init__(self, url: str, node_id: str = "a", ddl: str = "") -> None:
        self.url = url
        self.database = PostgresDatabase(url)
        self.facts = NodeFacts(node_id, "branch", f"inc-{node_id}")
        migrate.upgrade(self.database.engine)
        if ddl:
            self.run(ddl)
            self.install()
        self.sealer = self.database.sealer(self.facts)
        self.log = self.database.log(self.facts)

    def __enter__(self) -> PostgresNode:
        return self

    def __exit__(self, *exc: object) -> None:
        self.database.close()

    @property
    def tables(self) -> Mapping[str, TableShape]:
        return self.database.catalog().tables

    def install(self) -> list[str]:
        return self.database.capture().install(list(self.tables.values()))

    def connect(self, **options: Any) -> psycopg.Connection[tuple[Any, ...]]:
        """A connection as the application would have it."""
        return psycopg.connect(self.url.replace("+psycopg", ""), **options)

    @contextmanager
    def application(self, **options: Any) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
        with self.connect(**options) as connection:
            yield connection

    def run(self, *statements: str) -> None:
        """Run each statement in a transaction of its own."""
        with self.connect(autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement.encode())

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        with self.connect() as connection:
            return connection.execute(query.encode()).fetchall()

    def seal(self, max_changes: int | None = None) -> SealReport:
        """One step of `max_changes`; without, all there is, in one report."""
        if max_changes is not None:
            return self.sealer.seal(max_changes)
        report = self.sealer.seal()
        txs, changes = report.txs, report.changes
        while report.more:
            report = self.sealer.seal()
            txs, changes = txs + report.txs, changes + report.changes
        return replace(report, txs=txs, changes=changes)

    def seal_all(self, max_changes: int = 50_000) -> int:
        """Seal until there is nothing more; the number of changes."""
        changes = 0
        while True:
            report = self.seal(max_changes)
            changes += report.changes
            if not report.txs and not report.more:
                return changes

    def txs(self, after_lsn: int = 0) -> list[SealedTx]:
        """Every sealed tx after this LSN."""
        found: list[SealedTx] = []
        while more := list(self.log.read(after_lsn, _ENOUGH)):
            found += more
            after_lsn = more[-1].header.to_lsn
        return found

    def parts(self, after_lsn: int = 0) -> list[Part]:
        """The same as the wire carries them."""
        return [whole(tx) for tx in self.txs(after_lsn)]

    def changes(self, after_lsn: int = 0) -> list[Change]:
        """Seal, then return all changes after this LSN."""
        self.seal_all()
        return [change for part in self.parts(after_lsn) for change in changes_of(part)]

    def images(self, table: str) -> dict[str, Any]:
        """The rows as they stand, by key, in wire form."""
        shape = self.tables[table]
        keys = ", ".join(f"'{name}', \"{name}\"" for name in shape.pk)
        found = self.rows(f"SELECT json_build_object({keys})::text FROM {quoted(shape)}")
        pks = [key.encode() for (key,) in found]
        with self.database.apply_session() as session:
            images = session.images(shape, pks, shape.meta)
        return {canonical(pk): json.loads(image) for pk, image in zip(pks, images, strict=True) if image is not None}


def quoted(shape: TableShape) -> str:
    return f'"{shape.schema}"."{shape.bare}"'


def whole(tx: SealedTx) -> Part:
    """The tx as one verified part."""
    (encoded,) = encode_tx(tx, _ENOUGH)
    (part,) = read_body(encoded.body)
    assert isinstance(part, Part)
    return part


def changes_of(part: Part) -> list[Change]:
    return list(TxReader(part.header, [part.payload]))


def canonical(pk: bytes | str) -> str:
    return json.dumps(json.loads(pk), sort_keys=True)


def replayed(changes: Iterable[Change]) -> dict[str, dict[str, Any]]:
    """The tables that the changes lead to, from nothing. Each change must find the row as its `before` says."""
    tables: dict[str, dict[str, Any]] = {}
    for change in changes:
        rows = tables.setdefault(change.table, {})
        key = canonical(bytes(change.pk))
        before, after = json.loads(bytes(change.before)), json.loads(bytes(change.after))
        assert rows.get(key) == before, f"lsn {change.lsn}: {change.op} of {key} finds {rows.get(key)}, not {before}"
        if after is None:
            del rows[key]
        else:
            rows[key] = after
    return tables


def apply_part(node: PostgresNode, part: Part, tables: Mapping[str, TableShape] | None = None) -> int:
    """Apply one tx as a consumer would: greater versions win. Returns how many rows it won."""
    shapes = tables or node.tables
    last: dict[str, dict[str, Change]] = {}
    for change in changes_of(part):
        last.setdefault(change.table, {})[bytes(change.pk).decode()] = change
    won = 0
    with node.database.apply_session() as session:
        for table, changes in last.items():
            meta = part.header.tables[table]
            states = session.lock(shapes[table], meta, [bytes(change.pk) for change in changes.values()])
            writes = [
                RowWrite(state.key, bytes(change.pk), change.image, change.version, change.base or NEVER)
                for state, change in zip(states, changes.values(), strict=True)
                if change.version > state.version
            ]
            session.write(shapes[table], meta, writes)
            if session.unsealed(shapes[table], [write.key for write in writes]):
                raise ContentionError("a local write came between")
            won += len(writes)
    return won


def apply_until_done(node: PostgresNode, part: Part, tables: Mapping[str, TableShape] | None = None) -> tuple[int, int]:
    """Apply, sealing and trying again while others hold the rows. Returns (rows won, tries)."""
    tries = 0
    sealer = node.database.sealer(node.facts)
    while True:
        tries += 1
        try:
            return apply_part(node, part, tables), tries
        except ContentionError:
            sealer.seal()
