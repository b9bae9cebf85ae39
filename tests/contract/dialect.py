"""One behavioural suite for every dialect. A dialect's module subclasses `DialectContract` and gives a `case` fixture.

The application's SQL in here is what SQLite and PostgreSQL both take.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise, product
from threading import Event
from typing import Any, Protocol

import msgspec
import pytest
import sqlalchemy as sa

from common.clock import SystemClock
from common.crash_points import CrashPoint
from common.errors import ConfigError, OutageError, PoisonError, Reason, ReopenNodeError
from common.ids import is_tx_id
from common.ops.incarnation import renew_incarnation
from common.ports.dialect import (
    ApplySession,
    BrokenReference,
    Database,
    NodeFacts,
    RowState,
    RowWrite,
    TableShape,
    Unsealed,
)
from common.ports.sink import Envelope
from common.schema import tables as rf
from common.versions import NEVER, Version
from common.wire.changes import TxReader
from common.wire.decode import Broken, read_body
from common.wire.encode import encode_tx
from common.wire.records import Change, Part, SealedTx, TableMeta
from producer.packing import Packing, pack, read_packed

NODE = NodeFacts("here", "branch", "inc1")
ELSEWHERE = "there"
_change = msgspec.json.Decoder(Change)

SCHEMA = (
    "CREATE TABLE company (id integer PRIMARY KEY, name text NOT NULL UNIQUE, note text)",
    "CREATE TABLE sale (id text PRIMARY KEY, company integer REFERENCES company (id) ON DELETE CASCADE,"
    " price numeric(12, 2), paid boolean, at timestamp, ratio double precision)",
    "CREATE TABLE part (sale text, place integer, what text, PRIMARY KEY (sale, place))",
)

DEFERRED = (
    "CREATE TABLE author (id integer PRIMARY KEY, name text NOT NULL)",
    "CREATE TABLE book (id integer PRIMARY KEY,"
    " author integer NOT NULL REFERENCES author (id) DEFERRABLE INITIALLY DEFERRED)",
)


LOSE_A_LINE = {
    "sqlite": "DELETE FROM rf_change_log WHERE lsn = {lsn}",
    "postgresql": "DELETE FROM rf_change_log l USING rf_sealed s WHERE s.seq = l.seq AND s.lsn = {lsn}",
}


class DialectCase(Protocol):
    """A dialect under test: it makes fresh, migrated databases and writes to them as an application would."""

    def fresh(self, schema: Sequence[str] = SCHEMA) -> Database:
        """Return a new database with these tables and the `rf_*` tables; the case closes it at the end."""
        ...

    def execute(self, database: Database, *statements: str) -> None:
        """Run statements in one transaction of an application that knows nothing of Rowferry."""
        ...

    def query(self, database: Database, sql: str) -> list[tuple[Any, ...]]:
        """Return what an application reads."""
        ...


def shapes(database: Database) -> dict[str, TableShape]:
    return dict(database.catalog().tables)


def captured(case: DialectCase, schema: Sequence[str] = SCHEMA) -> Database:
    """Return a fresh database with capture on every table."""
    database = case.fresh(schema)
    database.capture().install(list(shapes(database).values()))
    return database


def known_as_here(database: Database) -> Database:
    """Give the database its node, as `migrate` does."""
    named = {"node_id": NODE.node_id, "role": NODE.role, "incarnation": NODE.incarnation, "is_self": True}
    with database.engine.begin() as connection:
        connection.execute(sa.insert(rf.node).values(named | {"first_seen_us": 1, "last_seen_us": 1}))
    return database


def seal(database: Database) -> list[SealedTx]:
    """Seal all there is and return the txs that came of it."""
    log, sealer = database.log(NODE), database.sealer(NODE)
    before = log.head().lsn
    while sealer.seal().more:
        pass
    return list(log.read(before, 2**40))


def whole(found: Sequence[Part | Broken]) -> list[Part]:
    """Return what must not be broken."""
    parts = [one for one in found if isinstance(one, Part)]
    assert len(parts) == len(found), found
    return parts


def changes(txs: Sequence[SealedTx]) -> list[Change]:
    return [_change.decode(line) for tx in txs for line in tx.lines()]


def told(found: Sequence[Change]) -> set[tuple[str, str, str, str]]:
    """Return what changed: table, op, before and after as readable JSON."""
    return {(one.table, one.op, shown(one.before), shown(one.after)) for one in found}


def shown(image: msgspec.Raw) -> str:
    value = msgspec.json.decode(image)
    return "-" if value is None else ",".join(str(value[name]) for name in sorted(value))


def states(session: ApplySession, shape: TableShape, *pks: bytes) -> list[RowState]:
    return session.lock(shape, shape.meta, list(pks))


def put(
    database: Database,
    table: str,
    *rows: tuple[bytes, bytes | None],
    hlc: int = 1_000,
    replace: bool = False,
) -> list[BrokenReference]:
    """Write rows as a batch of another node does, and return the references that it broke."""
    shape = shapes(database)[table]
    with database.apply_session() as session:
        keys = [state.key for state in states(session, shape, *(pk for pk, _ in rows))]
        writes = [
            RowWrite(key, pk, image, Version(0, hlc, ELSEWHERE), NEVER)
            for key, (pk, image) in zip(keys, rows, strict=True)
        ]
        alike: dict[tuple[str, ...], list[RowWrite]] = {}
        for one in writes:
            alike.setdefault(tuple(msgspec.json.decode(one.image or one.pk)), []).append(one)
        for names, some in alike.items():
            columns = {name: shape.meta.columns.get(name, "text") for name in names}
            session.write(shape, TableMeta(pk=shape.pk, columns=columns), some, replace=replace)
        assert not session.unsealed(shape, keys)
        written = [one for one in writes if one.image is not None]
        deleted = [one for one in writes if one.image is None]
        return session.broken_references(shape, shape.meta, written, deleted)


def replay(source: Database, target: Database) -> None:
    """Carry everything that `source` has sealed over to `target`, as bytes."""
    for tx in source.log(NODE).read(0, 2**40):
        parts = read_body(b"".join(part.body for part in encode_tx(tx)))
        whole = [part for part in parts if isinstance(part, Part)]
        assert len(whole) == len(parts)
        reader = TxReader(whole[0].header, [part.payload for part in whole])
        with target.apply_session() as session:
            for change in reader:
                shape, meta = shapes(target)[change.table], whole[0].header.tables[change.table]
                key = session.lock(shape, meta, [bytes(change.pk)])[0].key
                write = RowWrite(key, bytes(change.pk), change.image, change.version, change.base or NEVER)
                session.write(shape, meta, [write])


@contextmanager
def poison(reason: Reason) -> Iterator[None]:
    with pytest.raises(PoisonError) as caught:
        yield
    assert caught.value.reason is reason


class CatalogContract:
    """What `catalog` tells."""

    def test_tables_with_their_keys_types_and_references(self, case: DialectCase) -> None:
        found = shapes(case.fresh())

        assert set(found) == {"company", "sale", "part"}
        assert found["part"].pk == ("sale", "place")
        assert {one.name: one.logical for one in found["sale"].columns} == {
            "id": "text", "company": "int", "price": "decimal", "paid": "bool", "at": "timestamp", "ratio": "float",
        }  # fmt: skip
        (reference,) = found["sale"].foreign_keys
        assert (reference.columns, reference.parent, reference.parent_columns) == (("company",), "company", ("id",))
        assert found["company"].unique_keys == (("name",),)

    def test_what_can_not_be_captured_is_named(self, case: DialectCase) -> None:
        schema = (*SCHEMA, "CREATE TABLE heap (a integer)", "CREATE VIEW cheap AS SELECT id FROM sale")
        catalog = case.fresh(schema).catalog()

        assert catalog.keyless == ("heap",)
        assert catalog.left_out["cheap"] == "view"

    def test_a_dot_in_a_name_is_doubled(self, case: DialectCase) -> None:
        schema = ('CREATE TABLE "Our ""odd"".name" ("the key" integer PRIMARY KEY, "select" text)',)
        found = shapes(case.fresh(schema))

        assert list(found) == ['Our "odd"..name']


class CaptureContract:
    """Installing, drifting, taking off."""

    def test_installing_again_does_nothing(self, case: DialectCase) -> None:
        database = case.fresh()
        tables = list(shapes(database).values())
        capture = database.capture()

        planned = capture.plan(tables)
        assert capture.drifted(tables) == [table.name for table in tables]
        assert capture.install(tables) == planned
        assert capture.plan(tables) == []
        assert capture.install(tables) == []
        assert capture.drifted(tables) == []

    def test_a_new_column_is_noticed_and_then_captured(self, case: DialectCase) -> None:
        database = captured(case)
        case.execute(database, "INSERT INTO company VALUES (1, 'a', NULL)")
        case.execute(database, "ALTER TABLE company ADD COLUMN town text")
        case.execute(database, "INSERT INTO company VALUES (2, 'b', NULL, 'Rome')")
        tables = list(shapes(database).values())

        assert database.capture().drifted(tables) == ["company"]
        database.capture().install(tables)
        assert database.capture().drifted(tables) == []
        case.execute(database, "UPDATE company SET town = 'Paris'")
        last = {}
        for change in changes(seal(database)):
            last[bytes(change.pk)] = msgspec.json.decode(change.after)
        assert [row["town"] for row in last.values()] == ["Paris", "Paris"]

    def test_taken_off_tables_are_not_captured(self, case: DialectCase) -> None:
        database = captured(case)
        tables = shapes(database)
        database.capture().install([tables["company"]])
        case.execute(database, "INSERT INTO part VALUES ('x', 1, NULL)", "INSERT INTO company VALUES (1, 'a', NULL)")
        assert [change.table for change in changes(seal(database))] == ["company"]

        database.capture().uninstall()
        case.execute(database, "INSERT INTO company VALUES (2, 'b', NULL)")
        assert seal(database) == []
        assert database.capture().drifted([tables["company"]]) == ["company"]


class SealingContract:
    """What becomes of committed changes."""

    def test_insert_update_delete(self, case: DialectCase) -> None:
        database = captured(case)
        case.execute(database, "INSERT INTO company VALUES (1, 'a', NULL)", "INSERT INTO company VALUES (2, 'b', '')")
        (tx,) = seal(database)
        assert told(changes([tx])) == {("company", "I", "-", "1,a,None"), ("company", "I", "-", "2,b,")}
        assert is_tx_id(tx.header.tx_id)
        assert (tx.header.from_lsn, tx.header.to_lsn, tx.header.prev_lsn) == (1, 2, 0)

        case.execute(database, "UPDATE company SET note = 'x' WHERE id = 1", "DELETE FROM company WHERE id = 2")
        (later,) = seal(database)
        assert told(changes([later])) == {("company", "U", "1,a,None", "1,a,x"), ("company", "D", "2,b,", "-")}
        assert (later.header.from_lsn, later.header.to_lsn, later.header.prev_lsn) == (3, 4, 2)
        assert later.header.tx_id > tx.header.tx_id
        assert database.log(NODE).head().lsn == 4
        assert database.log(NODE).head().tx_id == later.header.tx_id

    def test_sealing_twice_gives_nothing_new(self, case: DialectCase) -> None:
        database = captured(case)
        case.execute(database, "INSERT INTO company VALUES (1, 'a', NULL)")
        assert len(seal(database)) == 1
        assert seal(database) == []
        report = database.sealer(NODE).seal()
        assert (report.txs, report.changes, report.last_lsn, report.more) == (0, 0, 1, False)

    def test_a_quiet_sealer_misses_no_commit(self, case: DialectCase) -> None:
        database = captured(case)
        sealer = database.sealer(NODE)
        assert not sealer.is_quiet(), "it has not looked yet"
        sealer.seal()
        sealer.is_quiet()
        for number in range(1, 4):
            case.execute(database, f"INSERT INTO company VALUES ({number}, 'n{number}', NULL)")
            assert not sealer.is_quiet()
            assert sealer.seal().txs == 1
            # Either way what comes next is seen.
            sealer.is_quiet()
            case.execute(database, f"UPDATE company SET name = 'again{number}' WHERE id = {number}")
            assert not sealer.is_quiet()
            assert sealer.seal().txs == 1
            sealer.is_quiet()
            assert sealer.seal().txs == 0

    def test_nothing_is_sealed_under_an_incarnation_that_has_ended(self, case: DialectCase) -> None:
        """A process that goes on with it while another one has begun a new one."""
        database = known_as_here(captured(case))
        late = database.sealer(NODE)
        case.execute(database, "INSERT INTO company VALUES (1, 'ACME', NULL)")
        late.seal()
        case.execute(database, "INSERT INTO company VALUES (2, 'Hooli', NULL)")
        renewed = renew_incarnation(database, NODE, SystemClock(), "a test")
        for one in (late, database.sealer(NODE)):
            with pytest.raises(ReopenNodeError, match="new incarnation"):
                one.seal()
        head = database.log(NODE).head()
        assert head.lsn == 1
        while database.sealer(renewed).seal().more:
            pass
        assert told(changes(list(database.log(renewed).read(0, 2**40)))) == {("company", "I", "-", "2,Hooli,None")}
        assert database.log(NODE).head() == head

    def test_a_new_incarnation_waits_for_who_is_sealing(
        self, case: DialectCase, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What is being sealed under the old one is there when the new one is."""
        database = known_as_here(captured(case))
        case.execute(database, "INSERT INTO company VALUES (1, 'ACME', NULL)")
        halfway, go_on = Event(), Event()

        def hold(point: CrashPoint) -> None:
            assert point is CrashPoint.SEALING
            halfway.set()
            assert go_on.wait(30)

        monkeypatch.setattr(f"common.dialects.{database.features.name}.sealing.reach", hold)

        def renew() -> int:
            renew_incarnation(database, NODE, SystemClock(), "a test")
            return database.log(NODE).head().lsn

        with ThreadPoolExecutor(2) as pool:
            sealing = pool.submit(database.sealer(NODE).seal)
            assert halfway.wait(30)
            renewing = pool.submit(renew)
            with pytest.raises(TimeoutError):
                renewing.result(0.3)
            go_on.set()
            assert (sealing.result(30).txs, renewing.result(30)) == (1, 1)

    def test_what_was_rolled_back_never_was(self, case: DialectCase) -> None:
        database = captured(case)
        with pytest.raises(Exception, match=r"(?i)unique|constraint"):
            case.execute(
                database, "INSERT INTO company VALUES (1, 'a', NULL)", "INSERT INTO company VALUES (2, 'a', NULL)"
            )
        assert seal(database) == []

    def test_a_changed_key_is_a_delete_and_an_insert(self, case: DialectCase) -> None:
        database = captured(case)
        case.execute(database, "INSERT INTO part VALUES ('s', 1, 'cog')")
        seal(database)
        case.execute(database, "UPDATE part SET place = 2")
        (tx,) = seal(database)
        assert told(changes([tx])) == {("part", "D", "1,s,cog", "-"), ("part", "I", "-", "2,s,cog")}

    def test_main_goes_above_who_has_not_seen_it_in_the_tables_where_main_wins(self, case: DialectCase) -> None:
        database = captured(case)
        main = NodeFacts("here", "main", "inc1", frozenset({"company"}))
        put(database, "company", (b'{"id":1}', b'{"id":1,"name":"theirs","note":null}'))
        case.execute(
            database,
            "UPDATE company SET note = 'a' WHERE id = 1",
            "INSERT INTO company VALUES (2, 'b', NULL)",
            "INSERT INTO part VALUES ('s', 1, 'cog')",
        )
        database.sealer(main).seal()
        case.execute(
            database,
            "UPDATE company SET note = 'c' WHERE id = 2",
            "DELETE FROM company WHERE id = 1",
            "UPDATE part SET what = 'nut'",
        )
        database.sealer(main).seal()
        found: dict[tuple[str, bytes], list[tuple[int, int | None]]] = {}
        for one in changes(list(database.log(main).read(0, 2**40))):
            base = None if one.base is None else one.base.main_epoch
            found.setdefault((one.table, bytes(one.pk)), []).append((one.version.main_epoch, base))
        assert found == {
            ("company", b'{"id":1}'): [(1, 0), (2, 1)],
            ("company", b'{"id":2}'): [(1, None), (2, 1)],
            ("part", b'{"sale":"s","place":1}'): [(0, None), (0, 0)],
        }
        case.execute(database, "INSERT INTO company VALUES (1, 'again', NULL)")
        (tx,) = seal(database)
        (last,) = changes([tx])
        assert (last.version.main_epoch, last.base and last.base.main_epoch) == (2, 2), "a branch never lowers it"

    def test_main_raises_the_epoch_once_for_each_write_of_one_transaction(self, case: DialectCase) -> None:
        database = captured(case)
        main = NodeFacts("here", "main", "inc1", frozenset({"company"}))
        for statement in ("INSERT INTO company VALUES (1, 'a', NULL)", "UPDATE company SET name = 'b'"):
            case.execute(database, statement)
        database.sealer(main).seal()
        shape = shapes(database)["company"]
        epochs = [one.version.main_epoch for one in changes(list(database.log(main).read(0, 2**40)))]
        assert epochs == list(range(1, len(epochs) + 1))
        with database.apply_session() as session:
            (state,) = states(session, shape, b'{"id":1}')
        assert (state.version.main_epoch, state.base.main_epoch) == (len(epochs), len(epochs) - 1)

    def test_each_version_follows_the_one_it_replaces(self, case: DialectCase) -> None:
        database = captured(case)
        found = []
        for statement in (
            "INSERT INTO company VALUES (1, 'a', NULL)",
            "UPDATE company SET note = 'x'",
            "DELETE FROM company",
            "INSERT INTO company VALUES (1, 'a', NULL)",
        ):
            case.execute(database, statement)
            found += changes(seal(database))
        assert [one.op for one in found] == ["I", "U", "D", "I"]
        assert found[0].base in (None, NEVER)
        for before, after in pairwise(found):
            assert after.base == before.version
            assert after.version.hlc > before.version.hlc
        assert {one.version.node_id for one in found} == {NODE.node_id}

    def test_a_write_beats_what_it_has_seen_whatever_the_clocks_say(self, case: DialectCase) -> None:
        database = captured(case)
        future = 4_000_000_000_000_000
        put(database, "company", (b'{"id":1}', b'{"id":1,"name":"a","note":null}'), hlc=future)
        case.execute(database, "UPDATE company SET note = 'x'")
        (change,) = changes(seal(database))
        assert change.base == Version(0, future, ELSEWHERE)
        assert change.version == Version(0, future + 1, NODE.node_id)

    def test_cascades_are_captured(self, case: DialectCase) -> None:
        database = captured(case)
        case.execute(
            database,
            "INSERT INTO company VALUES (1, 'a', NULL)",
            "INSERT INTO sale (id, company) VALUES ('s1', 1), ('s2', NULL)",
        )
        seal(database)
        case.execute(database, "DELETE FROM company")
        assert {(one.table, one.op, bytes(one.pk)) for one in changes(seal(database))} == {
            ("company", "D", b'{"id":1}'),
            ("sale", "D", b'{"id":"s1"}'),
        }


class LogContract:
    """The sealed log as a stream."""

    def test_reading_starts_after_an_lsn_and_ends_by_size(self, case: DialectCase) -> None:
        database = captured(case)
        for number in range(5):
            case.execute(database, f"INSERT INTO company VALUES ({number}, 'n{number}', NULL)")
            seal(database)
        log = database.log(NODE)

        assert [tx.header.to_lsn for tx in log.read(0, 2**30)] == [1, 2, 3, 4, 5]
        assert [tx.header.to_lsn for tx in log.read(3, 2**30)] == [4, 5]
        assert [tx.header.to_lsn for tx in log.read(0, 1)] == [1]
        assert list(log.read(5, 2**30)) == []

    def test_what_waits_for_the_sealer_is_told(self, case: DialectCase) -> None:
        database = captured(case)
        log = database.log(NODE)
        assert log.unsealed() == Unsealed(0, None)
        before_us = SystemClock().now_us() - 5_000_000
        case.execute(database, "INSERT INTO company VALUES (1, 'a', NULL), (2, 'b', NULL)")
        waiting = log.unsealed()
        assert waiting.changes == 2
        assert waiting.oldest_us is not None
        assert before_us < waiting.oldest_us < before_us + 60_000_000
        seal(database)
        assert log.unsealed() == Unsealed(0, None)

    def test_the_bytes_are_the_same_each_time(self, case: DialectCase) -> None:
        database = captured(case)
        case.execute(database, "INSERT INTO company VALUES (1, 'a', NULL), (2, 'b', 'é\"\n')")
        (tx,) = seal(database)
        first = [part.body for part in encode_tx(tx)]
        assert [part.body for again in database.log(NODE).read(0, 1) for part in encode_tx(again)] == first
        assert list(tx.lines()) == list(tx.lines())

    def test_packed_txs_have_the_bytes_of_the_others(self, case: DialectCase) -> None:
        """Small and large, of several tables, with keys and texts of all sorts; whatever the sizes, all of it once."""
        database = captured(
            case, (*SCHEMA, """CREATE TABLE "Größe ""x"" \\ y" (id integer PRIMARY KEY, "spa\nlte" text)""")
        )
        for number in range(40):
            case.execute(
                database,
                f"INSERT INTO company VALUES ({number}, 'n{number} é\"\n\\', {'NULL' if number % 2 else number})",
                f"INSERT INTO part VALUES ('s', {number}, '{'y' * (number**2 * 20)}')",
            )
            if number % 7 == 0:
                case.execute(database, "UPDATE company SET note = 'other'", f"DELETE FROM part WHERE place = {number}")
        case.execute(database, """INSERT INTO "Größe ""x"" \\ y" VALUES (1, 'ß'), (2, NULL)""")
        rows = ", ".join(f"({number}, '{'x' * 1000}{number}', NULL)" for number in range(1000, 2500))
        case.execute(database, f"INSERT INTO company VALUES {rows}")
        case.execute(database, "DELETE FROM company WHERE id = 1")
        seal(database)
        log = database.log(NODE)
        last = log.head().lsn
        for limit, message, batch in product((1, 50_000, 2**30), (4_096, 100_000, 2**24), (3_000, 60_000, 2**22)):
            sizes = Packing(batch, message)
            expected = b"".join(one.body for one in pack(log.read(0, 2**30), sizes))
            found: list[Envelope] = []
            while (at := found[-1].to_lsn if found else 0) < last:
                found += pack(read_packed(log, at, limit, sizes), sizes)
                assert found[-1].closes_lsn == found[-1].to_lsn > at, "each read goes on, and ends with whole txs"
            assert b"".join(one.body for one in found) == expected
            assert [one.from_lsn for one in found] == sorted(one.from_lsn for one in found)
            for one in found:
                parts = whole(read_body(one.body))
                assert (parts[0].header.tx_id, parts[0].header.from_lsn) == (one.tx_id, one.from_lsn)
                assert (parts[-1].header.to_lsn, len(parts)) == (one.to_lsn, one.txs)
                assert len(one.body) <= message or one.txs == 1, "what is larger than a message may be, never goes"
        assert list(read_packed(log, last, 2**30, Packing(2**22, 2**18))) == []

    @pytest.mark.parametrize("rows", [3, 3000])
    @pytest.mark.parametrize("lost", [1, 2])
    def test_a_tx_that_lost_a_line_is_not_sent_without_it(self, case: DialectCase, rows: int, lost: int) -> None:
        """A purge that was overtaken by a reader takes the first lines of a tx before the others."""
        database = captured(case)
        values = ", ".join(f"({number}, '{'x' * 1000}{number}', NULL)" for number in range(rows))
        case.execute(database, "INSERT INTO company VALUES (-1, 'before', NULL)")
        seal(database)
        case.execute(database, f"INSERT INTO company VALUES {values}")
        seal(database)
        log = database.log(NODE)
        (before, _), sizes = log.read(0, 2**30), Packing(2**22, 2**18)
        after = before.header.to_lsn
        case.execute(database, LOSE_A_LINE[database.features.name].format(lsn=after + lost))
        with pytest.raises(OutageError, match="purged"):
            list(pack(log.read(after, 2**30), sizes))
        with pytest.raises(OutageError, match="purged"):
            list(pack(read_packed(log, after, 2**30, sizes), sizes))

    def test_a_large_tx_comes_whole(self, case: DialectCase) -> None:
        database = captured(case)
        rows = ", ".join(f"({number}, '{'x' * 1000}{number}', NULL)" for number in range(3000))
        case.execute(database, f"INSERT INTO company VALUES {rows}")
        (tx,) = seal(database)
        found = changes([tx])
        assert [one.lsn for one in found] == list(range(1, 3001))
        assert {one.tx_id for one in found} == {tx.header.tx_id}


class ApplyContract:
    """Writing what other nodes sent."""

    def test_rows_are_written_deleted_and_never_captured(self, case: DialectCase) -> None:
        database = captured(case)
        put(
            database, "company", (b'{"id":1}', b'{"id":1,"name":"a","note":"x"}'), (b'{"id":2}', b'{"id":2,"name":"b"}')
        )
        assert case.query(database, "SELECT id, name, note FROM company ORDER BY id") == [(1, "a", "x"), (2, "b", None)]
        assert seal(database) == []
        put(database, "company", (b'{"id":1}', b'{"id":1,"name":"c"}'), (b'{"id":2}', None), hlc=2_000)
        assert case.query(database, "SELECT id, name, note FROM company") == [(1, "c", "x")]

        shape = shapes(database)["company"]
        with database.apply_session() as session:
            one, two, never = states(session, shape, b'{"id":1}', b'{"id":2}', b'{"id":3}')
            images = session.images(shape, [b'{"id":1}', b'{"id":2}'], shape.meta)
        assert (one.version, one.deleted, one.known) == (Version(0, 2_000, ELSEWHERE), False, True)
        assert (two.version, two.deleted, two.known) == (Version(0, 2_000, ELSEWHERE), True, True)
        assert (never.version, never.base, never.deleted, never.known) == (NEVER, NEVER, False, False)
        assert images[1] is None
        assert msgspec.json.decode(images[0] or b"") == {"id": 1, "name": "c", "note": "x"}

    def test_a_row_that_was_there_before_is_replaced(self, case: DialectCase) -> None:
        database = case.fresh()
        case.execute(database, "INSERT INTO company VALUES (1, 'a', 'old')")
        put(database, "company", (b'{"id":1}', b'{"id":1,"name":"b"}'), (b'{"id":9}', None))
        assert case.query(database, "SELECT id, name, note FROM company") == [(1, "b", "old")]

    def test_nothing_stays_of_a_session_that_failed(self, case: DialectCase) -> None:
        database = captured(case)
        shape = shapes(database)["company"]

        class StopError(Exception):
            pass

        def apply_half() -> None:
            with database.apply_session() as session:
                (state,) = states(session, shape, b'{"id":1}')
                write = RowWrite(state.key, b'{"id":1}', b'{"id":1,"name":"a"}', Version(0, 1, ELSEWHERE), NEVER)
                session.write(shape, shape.meta, [write])
                audit = "INSERT INTO rf_audit (at_us, actor, action) VALUES (1, 'a', 'b')"
                session.connection.execute(sa.text(audit))
                raise StopError

        with pytest.raises(StopError):
            apply_half()
        assert case.query(database, "SELECT count(*) FROM company") == [(0,)]
        assert case.query(database, "SELECT count(*) FROM rf_audit") == [(0,)]

    def test_own_writes_that_are_not_sealed_are_seen(self, case: DialectCase) -> None:
        database = captured(case)
        shape = shapes(database)["company"]
        case.execute(database, "INSERT INTO company VALUES (1, 'a', NULL)")

        def looked_at(*pks: bytes) -> list[bool]:
            with database.apply_session() as session:
                return [session.unsealed(shape, [state.key]) for state in states(session, shape, *pks)]

        assert looked_at(b'{"id":1}', b'{"id":2}') == [True, False]
        seal(database)
        assert looked_at(b'{"id":1}', b'{"id":2}') == [False, False]

    def test_a_choice_is_sealed_as_an_own_write_also_where_nothing_changes(self, case: DialectCase) -> None:
        database = captured(case)
        shape = shapes(database)["company"]
        put(database, "company", (b'{"id":1}', b'{"id":1,"name":"a","note":"x"}'))
        settles = [Version(0, 1_000, ELSEWHERE), Version(0, 9_000, "other")]

        def choose(pk: bytes, image: bytes | None) -> Change:
            with database.apply_session() as session:
                (state,) = states(session, shape, pk)
                session.choose(shape, shape.meta, RowWrite(state.key, pk, image, settles[1], NEVER), settles)
            (sealed,) = changes(seal(database))
            assert (list(sealed.resolves), sealed.base) == (settles, settles[1])
            assert sealed.version > settles[1]
            assert sealed.version.node_id == NODE.node_id
            return sealed

        same = choose(b'{"id":1}', b'{"id":1,"name":"a","note":"x"}')
        assert told([same]) == {("company", "U", "1,a,x", "1,a,x")}
        assert told([choose(b'{"id":1}', b'{"id":1,"name":"b","note":"x"}')]) == {("company", "U", "1,a,x", "1,b,x")}
        assert told([choose(b'{"id":1}', None)]) == {("company", "D", "1,b,x", "-")}
        assert choose(b'{"id":1}', None).op == "D"
        assert told([choose(b'{"id":2}', b'{"id":2,"name":"c","note":null}')]) == {("company", "I", "-", "2,c,None")}
        database.capture().uninstall()
        with pytest.raises(ConfigError, match="rowferry migrate"):
            choose(b'{"id":2}', None)
        assert case.query(database, "SELECT id, name FROM company") == [(2, "c")]

    def test_a_choice_of_an_image_that_has_not_every_column(self, case: DialectCase) -> None:
        database = captured(case)
        shape = shapes(database)["company"]
        put(database, "company", (b'{"id":1}', b'{"id":1,"name":"a","note":"x"}'))
        meta = TableMeta(pk=shape.pk, columns={"id": "int", "name": "text"})
        settles = [Version(0, 9_000, "other")]
        with database.apply_session() as session:
            (state,) = states(session, shape, b'{"id":1}')
            write = RowWrite(state.key, b'{"id":1}', b'{"id":1,"name":"b"}', settles[0], NEVER)
            session.choose(shape, meta, write, settles)
        (sealed,) = changes(seal(database))
        assert (list(sealed.resolves), sealed.base) == (settles, settles[0])
        assert told([sealed]) == {("company", "U", "1,a,x", "1,b,x")}

    def test_a_choice_is_above_all_that_it_settles_and_on_top_of_its_own_row(self, case: DialectCase) -> None:
        database = captured(case)
        shape = shapes(database)["company"]
        ahead = Version(0, SystemClock().now_us() + 3_600_000_123, ELSEWHERE)
        own = Version(0, 9_000, "other")
        with database.apply_session() as session:
            (state,) = states(session, shape, b'{"id":1}')
            image = b'{"id":1,"name":"a","note":"x"}'
            write = RowWrite(state.key, b'{"id":1}', image, own, NEVER)
            session.choose(shape, shape.meta, write, [own, ahead])
        # Before that is sealed its application writes the row, by a clock that is right.
        case.execute(database, "UPDATE company SET note = 'y'")
        sealed = changes(seal(database))
        assert (list(sealed[0].resolves), sealed[0].base) == ([own, ahead], own)
        assert ahead.hlc < sealed[0].version.hlc < ahead.hlc + 10_000
        assert all(one.version >= sealed[0].version for one in sealed)

    def test_unique_values_may_change_places(self, case: DialectCase) -> None:
        database = captured(case)
        case.execute(database, "INSERT INTO company VALUES (1, 'a', 'x'), (2, 'b', 'y')")
        swap = ((b'{"id":1}', b'{"id":1,"name":"b"}'), (b'{"id":2}', b'{"id":2,"name":"a"}'))
        seal(database)
        with poison(Reason.CONSTRAINT):
            put(database, "company", *swap)
        put(database, "company", *swap, replace=True)
        assert case.query(database, "SELECT id, name, note FROM company ORDER BY id") == [(1, "b", "x"), (2, "a", "y")]

    def test_what_can_not_be_is_poison(self, case: DialectCase) -> None:
        database = captured(case)
        with poison(Reason.UNKNOWN_COLUMN):
            put(database, "company", (b'{"id":1}', b'{"id":1,"name":"a","town":"Rome"}'))
        with poison(Reason.CONSTRAINT):
            put(database, "company", (b'{"id":1}', b'{"id":1,"name":null}'))
        with poison(Reason.TYPE):
            put(database, "company", (b'{"id":99999999999999999999}', b'{"id":99999999999999999999,"name":"a"}'))
        put(database, "company", (b'{"id":1}', b'{"id":1,"name":"a"}'))
        with poison(Reason.CONSTRAINT):
            put(database, "company", (b'{"id":2}', b'{"id":2,"name":"a"}'))

    def test_references_are_checked_both_ways(self, case: DialectCase) -> None:
        database = captured(case)
        (broken,) = put(database, "sale", (b'{"id":"s"}', b'{"id":"s","company":7}'))
        assert (broken.table, broken.parent) == ("sale", "company")
        assert put(database, "company", (b'{"id":7}', b'{"id":7,"name":"a"}')) == []
        assert put(database, "sale", (b'{"id":"s"}', b'{"id":"s","company":7}')) == []
        assert put(database, "sale", (b'{"id":"t"}', b'{"id":"t","company":null}')) == []
        (broken,) = put(database, "company", (b'{"id":7}', None))
        assert (broken.table, broken.parent) == ("sale", "company")
        # Cascades did not act either: what they did at the source is in the batch.
        assert case.query(database, "SELECT id FROM sale ORDER BY id") == [("s",), ("t",)]

    def test_a_table_without_references_is_known_as_such(self, case: DialectCase) -> None:
        """Of a table that is pointed to it is another one that says so."""
        database = captured(case)
        found = shapes(database)
        with database.apply_session() as session:
            told = {name: session.has_references(found[name]) for name in ("company", "sale", "part")}
        assert told == {"company": True, "sale": True, "part": False}

    def test_references_that_are_checked_at_the_commit(self, case: DialectCase) -> None:
        """As some frameworks declare all of theirs: children may come before their parents, and go after them."""
        here, there = captured(case, DEFERRED), captured(case, DEFERRED)
        case.execute(here, "INSERT INTO book VALUES (1, 7), (2, 8)", "INSERT INTO author VALUES (7, 'a'), (8, 'b')")
        seal(here)
        case.execute(here, "DELETE FROM author WHERE id = 7", "DELETE FROM book WHERE author = 7")
        seal(here)
        replay(here, there)
        for table in ("author", "book"):
            assert case.query(there, f"SELECT * FROM {table}") == case.query(here, f"SELECT * FROM {table}")
        (orphan,) = put(there, "book", (b'{"id":3}', b'{"id":3,"author":9}'))
        (left,) = put(there, "author", (b'{"id":8}', None))
        assert [(one.table, one.parent) for one in (orphan, left)] == [("book", "author")] * 2

    def test_what_one_node_wrote_comes_out_the_same_on_another(self, case: DialectCase) -> None:
        here, there = captured(case), captured(case)
        case.execute(
            here,
            "INSERT INTO company VALUES (-9, 'a', ''), (2147483647, 'b', NULL), (3, 'Zoë ☃ ''\"\\\n', 'x')",
            "INSERT INTO sale VALUES ('1', 3, 12.50, TRUE, '2026-03-01 10:20:30.123456', 0.1),"
            " ('2', NULL, -0.01, FALSE, '1999-12-31 00:00:00', 1e300), ('3', 3, NULL, NULL, NULL, NULL)",
        )
        seal(here)
        case.execute(here, "UPDATE sale SET id = '4' WHERE id = '1'", "DELETE FROM company WHERE id = -9")
        seal(here)
        replay(here, there)
        for table in ("company", "sale", "part"):
            query = f"SELECT * FROM {table} ORDER BY 1"
            assert case.query(here, query) == case.query(there, query)
        replay(here, there)
        assert seal(there) == []


class DatabaseContract:
    """What is left."""

    def test_the_server_is_known_again(self, case: DialectCase) -> None:
        one, other = case.fresh(), case.fresh()
        assert one.server_identity() == one.server_identity() != other.server_identity()

    def test_errors_of_the_driver_become_decisions(self, case: DialectCase) -> None:
        database = case.fresh()
        with pytest.raises(sa.exc.IntegrityError) as caught, database.engine.begin() as connection:
            connection.execute(sa.text("INSERT INTO company (id, name) VALUES (1, NULL)"))
        error = database.translate(caught.value)
        assert isinstance(error, PoisonError)
        assert error.reason is Reason.CONSTRAINT

    def test_closing_twice_is_allowed(self, case: DialectCase) -> None:
        database = case.fresh()
        database.close()
        database.close()


class DialectContract(CatalogContract, CaptureContract, SealingContract, LogContract, ApplyContract, DatabaseContract):
    """Everything that every dialect promises."""
