"""A node that is old: its tables are filled by SQL, so that a hundred thousand of anything take seconds.

One source, `a`, of which `rows` txs were applied and as many set aside; as much that this node wrote itself; peers."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace

import psycopg

from common.clock import to_iso
from common.dialects.sqlite.triggers_off import switch_triggers_off
from common.ops.counting import Marks, encode_marks
from common.versions import Version
from common.wire.compress import compress
from tests.support.applying import Origin, World, Write, item
from tests.support.waiting import wait_for

FEW_OLD = 400
"""So many of everything are old enough to be purged."""
_OLD_US = 1_000_000_000_000_000
_OLD_IDS, _YOUNG_IDS = "00e8d4a5-1000", "01a317c3-b980"
"""What ids of own txs begin with that were sealed then, and just before the time of `TestClock`."""
_SAMPLES = 10_000
_VERSION = "table_id, key, hlc, node_id, main_epoch, base_hlc, base_epoch, base_node, deleted"
_ITEM = "(SELECT table_id FROM rf_table WHERE name = 'item')"
STANDING = Version(0, 10, "a")
"""The version of every row of `item`."""


@dataclass(frozen=True, slots=True)
class Filled:
    """How far the tables are filled."""

    rows: int = 0
    peers: int = 0
    lsn: int = 0
    """Where filling of the own log began."""

    @property
    def origin(self) -> Origin:
        """The source `a`, to go on."""
        return Origin("a", lsn=2 * self.rows, made=2 * self.rows)


def fill(world: World, before: Filled, rows: int, peers: int) -> Filled:
    """Fill the tables up to `rows` of everything, from where they are, with `peers`. Nobody may be at work."""
    after = replace(
        before, rows=rows, peers=peers, lsn=before.lsn or world.node.database.log(world.node.facts).head().lsn
    )
    if world.node.database.engine.dialect.name == "postgresql":
        _fill_postgresql(world, before.rows + 1, after)
    else:
        _fill_sqlite(world, before.rows + 1, after)
    return after


def fill_versions(world: World, versions: int) -> None:
    """Give rows that are not here so many versions more."""
    if not versions:
        return
    known = Filled(rows=versions)
    if world.node.database.engine.dialect.name == "postgresql":
        url = world.node.database.engine.url.set(drivername="postgresql", query={})
        with psycopg.connect(url.render_as_string(hide_password=False), autocommit=True) as connection:
            connection.execute(_Postgresql(world, 1, known, 0).versions("n + 1000000000").encode())
        return
    with closing(sqlite3.connect(str(world.node.database.engine.url.database))) as connection, connection:
        connection.execute(_Sqlite(world, 1, known).versions("n + 1000000000"))


def _fill_postgresql(world: World, first: int, filled: Filled) -> None:
    url = world.node.database.engine.url.set(drivername="postgresql", query={}).render_as_string(hide_password=False)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SET session_replication_role = replica; SET synchronous_commit = off")
        (xid,) = connection.execute("SELECT pg_current_xact_id()::text::bigint").fetchone() or (0,)
        burn = f"FOR n IN {first}..{filled.rows} LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP"
        connection.execute(f"DO $$ BEGIN {burn}; END $$".encode())
        last = xid + filled.rows - first + 1

        def is_past() -> bool:
            ended = f"SELECT pg_snapshot_xmin(pg_current_snapshot()) > '{last}'::xid8"
            return connection.execute(ended.encode()).fetchone() == (True,)

        # What runs in other databases has its numbers from there too: as long as it runs, its number is not sealed.
        wait_for(is_past, 60, "transactions of before to end")
        with connection.transaction():
            for statement in _Postgresql(world, first, filled, xid).statements():
                connection.execute(statement.encode())


def _fill_sqlite(world: World, first: int, filled: Filled) -> None:
    with closing(sqlite3.connect(str(world.node.database.engine.url.database))) as connection:
        assert switch_triggers_off(connection)
        with connection:
            for statement in _Sqlite(world, first, filled).statements():
                connection.execute(statement)


class _Filling:
    """The statements, in words that both databases know."""

    def __init__(self, world: World, first: int, filled: Filled) -> None:
        self.first, self.filled = first, filled
        self.now_us = world.clock.us
        self.incarnation, self.node_id = world.node.facts.incarnation, world.node.facts.node_id
        body = compress(Origin("a").tx(Write("I", "nowhere", {"id": 1, "name": "x", "price": "1.50"}, 1)).body, "zstd")
        self.body = body.hex()

    def series(self) -> str:
        raise NotImplementedError

    def hex8(self, number: str) -> str:
        raise NotImplementedError

    def key(self, row: str) -> str:
        raise NotImplementedError

    def blob(self, digits: str) -> str:
        raise NotImplementedError

    def own_log(self) -> Iterator[str]:
        raise NotImplementedError

    def tx_id(self, number: str) -> str:
        """As `tx_id_of('a', number)`."""
        digits = self.hex8(number)
        return f"'0192' || substr({digits}, 1, 4) || '-' || substr({digits}, 5, 4) || '-7000-8000-000000000061'"

    def own_tx_id(self) -> str:
        begins = f"CASE WHEN n <= {FEW_OLD} THEN '{_OLD_IDS}' ELSE '{_YOUNG_IDS}' END"
        return f"{begins} || '-7000-8000-0000' || {self.hex8('n')}"

    def sealed_at(self) -> str:
        return f"CASE WHEN n <= {FEW_OLD} THEN '{to_iso(_OLD_US)}' ELSE '{to_iso(self.now_us)}' END"

    def since(self) -> str:
        return f"CASE WHEN n <= {FEW_OLD} THEN {_OLD_US} + n ELSE {self.now_us} - 1000000 END"

    def insert(self, table: str, columns: str, values: str, where: str = "true") -> str:
        return f"INSERT INTO {table} ({columns}) SELECT {values} FROM {self.series()} WHERE {where}"

    def statements(self) -> Iterator[str]:
        yield from self.own_log()
        yield from self.of_rows()
        yield from self.of_txs()
        yield from self.of_letters()
        yield from self.of_conflicts()
        yield from self.handed_on()
        yield from self.of_peers()

    def of_rows(self) -> Iterator[str]:
        yield self.insert("item", "id, name, price", "n, 'row', 1")
        yield self.versions("n")
        columns, table_id = _VERSION, _ITEM
        gone = f"{table_id}, {self.key('n + 500000000')}, {self.since()}, 'a', 0, 0, 0, '', CAST(1 AS boolean)"
        yield self.insert("rf_row_version", columns, gone, "n % 2 = 0")
        marked = f"{table_id}, {self.key('n + 500000000')}, {_OLD_US}, 'a', 1"
        yield self.insert("rf_purge_tombstone", "table_id, key, hlc, node_id, round", marked, "n % 2 = 0")
        if self.first == 1:
            wanted = f'[["a", "inc1", {2**40}]]'
            yield f"INSERT INTO rf_purge_round VALUES (1, 1, 0, '{wanted}', '{{}}')"

    def versions(self, row: str) -> str:
        stands = f"{STANDING.hlc}, '{STANDING.node_id}', 0, 0, 0, '', CAST(0 AS boolean)"
        return self.insert("rf_row_version", _VERSION, f"{_ITEM}, {self.key(row)}, {stands}")

    def of_txs(self) -> Iterator[str]:
        applied = f"'a', {self.tx_id('2 * n - 1')}, 'inc1', 2 * n - 2, 2 * n - 1, 'x', {self.since()}"
        columns = "source_node, tx_id, incarnation, prev_lsn, to_lsn, sha256, applied_us"
        yield self.insert("rf_applied_tx", columns, applied)
        line = f"""{self.since()}, 'rowferry', 'applied', 'a', {self.tx_id("n")}, '{{"changes":1,"won":1}}'"""
        yield self.insert("rf_audit", "at_us, actor, action, source_node, tx_id, detail", line)
        large = Origin("z").tx(*(item(number, "x" * 300, number) for number in range(1, 31)))
        header = large.parts(4096)[0].partition(b"\n")[0].decode().replace("'", "''")
        part = f"'z', 'tx-' || n, 1, 2, 'x', '{header}', {self.blob('00' * 200)}, 200, {self.now_us}"
        columns = "source_node, tx_id, part, parts, tx_sha256, header, payload, bytes, received_us"
        yield self.insert("rf_tx_part", columns, part, "n <= 2000")

    def of_letters(self) -> Iterator[str]:
        """Of ten, five are of a table that is not here, one each is unfit, forked, early, and settled; few are orphans.

        Early ones and orphans were tried just now, and are not due."""
        kind = "n % 10"
        reason = (
            f"CASE WHEN {kind} < 5 THEN 'unknown-table' WHEN {kind} = 5 OR {kind} = 6 AND n % 4000 <> 6 THEN"
            f" 'constraint' WHEN {kind} < 8 THEN 'foreign-key' WHEN {kind} = 8 THEN 'older-than-tombstones'"
            " ELSE 'content' END"
        )
        state = f"CASE {kind} WHEN 7 THEN 'early' WHEN 8 THEN 'forked' WHEN 9 THEN 'replayed' ELSE 'dead' END"
        table = f"CASE WHEN {kind} < 5 THEN 'nowhere' WHEN {kind} IN (6, 7) THEN 'elsewhere' ELSE 'item' END"
        settled = f"CASE WHEN {kind} = 9 THEN {self.since()} END"
        columns = (
            "source_node, tx_id, incarnation, prev_lsn, from_lsn, to_lsn, exported_at, changes, parts, reason, state,"
            " table_name, error, attempts, first_failed_us, last_failed_us, origin, sha256, body, broker_copy,"
            " settled_us"
        )
        tried = self.now_us + 86_400_000_000
        failed = f"CASE {kind} WHEN 9 THEN {self.since()} WHEN 7 THEN {tried} + n ELSE {self.now_us} - n END"
        values = (
            f"'a', {self.tx_id('2 * n')}, 'inc1', 2 * n - 1, 2 * n, 2 * n, '2026-01-01T00:00:00.000000Z', 1, 1,"
            f" {reason}, {state}, {table}, 'a fault', 1, {failed}, {failed}, 'test', 'x', {self.blob(self.body)},"
            f" CAST(CASE WHEN {kind} = 9 THEN 0 ELSE 1 END AS boolean), {settled}"
        )
        yield self.insert("rf_dead_letter", columns, values)

    def of_conflicts(self) -> Iterator[str]:
        columns = (
            "table_name, pk, row_key, kind, state, winner, rule, source_node, tx_id, lsn, our_version, their_version,"
            " recorded_us"
        )
        state = "CASE WHEN n % 10 = 0 THEN 'waiting' ELSE 'settled' END"
        key, version = self.key("n + 700000000"), "'[0,10,\"a\"]'"
        values = f"""'item', '{{"id":' || n || '}}', {key}, 'update', {state}, 'ours', 'lww', 'a', 'x', n"""
        yield self.insert("rf_conflict", columns, f"{values}, {version}, {version}, {self.since()}")
        columns = "table_name, row_key, node_id, base, version, resolves, chosen_us"
        yield self.insert("rf_choice", columns, f"'item', {key}, 'a', {version}, {version}, '[]', {self.now_us}")
        # Of a table that is no longer here: nobody looks whether they may stand.
        columns, values = "table_name, key, version, facts, meta, kind, stepped_us", "'gone', 'k' || n, '', '', '', ''"
        yield self.insert("rf_stepped_back", columns, f"{values}, {self.now_us}")
        yield self.insert("rf_claim", "rule, token, table_name, key", "'a rule', 't' || n, 'gone', 'k' || n")

    def handed_on(self) -> Iterator[str]:
        columns = (
            "seq, part, parts, source_node, tx_id, incarnation, from_lsn, to_lsn, header, payload, bytes,"
            " by_directory, received_us"
        )
        values = f"n, 1, 1, 'a', {self.tx_id('n')}, 'inc1', n, n, '{{}}', {self.blob(self.body)}, 300"
        yield self.insert("rf_relay", columns, f"{values}, CAST(0 AS boolean), {self.now_us}")
        yield f"UPDATE rf_relay_head SET seq = {self.filled.rows}"
        counted = ", ".join("0" for _ in range(13))
        columns = (
            "minute, seq, at_us, sealed_changes, sealed_txs, published_changes, applied_changes, applied_txs,"
            " unpublished_changes, unpublished_age_us, unapplied_changes, unapplied_age_us, dead_letters,"
            " waiting_conflicts, log_changes, queue_messages"
        )
        # As a node has it that runs for a week.
        minute = f"{self.now_us // 60_000_000} - 11000 + n"
        yield self.insert("rf_metric", columns, f"{minute}, n, {self.now_us}, {counted}", f"n <= {_SAMPLES}")
        places = {"a": {"inc1": 2 * self.filled.rows}}
        marks = Marks(self.incarnation, self.filled.lsn + self.filled.rows, {}, places)
        newest = "seq = (SELECT max(seq) FROM rf_metric)"
        yield "UPDATE rf_metric SET marks = NULL WHERE marks IS NOT NULL"
        yield f"UPDATE rf_metric SET marks = '{encode_marks(marks)}' WHERE {newest}"

    def of_peers(self) -> Iterator[str]:
        rows, now_us = self.filled.rows, self.now_us
        yield "DELETE FROM rf_sync_state"
        yield (
            "INSERT INTO rf_sync_state (peer, direction, incarnation, last_lsn, last_tx_id, highest_lsn, updated_us)"
            f" SELECT 'a', 'in', 'inc1', {2 * rows}, tx_id, {2 * rows}, {now_us} FROM rf_dead_letter"
            f" WHERE source_node = 'a' AND tx_id = {self.tx_id(str(2 * rows))}"
        )
        yield "DELETE FROM rf_standing_mark"
        yield f"INSERT INTO rf_standing_mark VALUES ('{self.incarnation}', {self.filled.lsn + rows})"
        yield "DELETE FROM rf_passed"
        yield "DELETE FROM rf_node WHERE NOT is_self"
        names = ["a", *(f"p{number:02}" for number in range(1, self.filled.peers))]
        for name in names:
            yield (
                "INSERT INTO rf_node (node_id, incarnation, is_self, first_seen_us, last_seen_us, heard_us,"
                " heartbeat_us, every_us, head_incarnation, head_lsn, sent_lsn, clock_us)"
                f" VALUES ('{name}', 'inc1', CAST(0 AS boolean), {now_us}, {now_us}, {now_us}, {now_us - 60_000_000},"
                f" 60000000, 'inc1', {2 * rows}, {2 * rows}, 0)"
            )
            if name != "a":
                yield (
                    "INSERT INTO rf_sync_state (peer, direction, incarnation, last_lsn, last_tx_id, highest_lsn,"
                    f" updated_us) VALUES ('{name}', 'in', 'inc1', {2 * rows}, 'x', {2 * rows}, {now_us})"
                )
            origins = [(one, "inc1", 2 * rows) for one in names] + [(self.node_id, self.incarnation, 2**40)]
            said = ", ".join(f"('{name}', '{origin}', '{inc}', {lsn}, {now_us})" for origin, inc, lsn in origins)
            yield f"INSERT INTO rf_passed (peer, origin, incarnation, lsn, said_us) VALUES {said}"


_TABLES = """'{"item":{"pk":["id"],"columns":{"id":"int","name":"text","price":"decimal"}}}'"""


class _Postgresql(_Filling):
    def __init__(self, world: World, first: int, filled: Filled, xid: int) -> None:
        super().__init__(world, first, filled)
        self._xid = xid

    def series(self) -> str:
        return f"generate_series({self.first}, {self.filled.rows}) AS g(n)"

    def hex8(self, number: str) -> str:
        return f"lpad(to_hex({number}), 8, '0')"

    def key(self, row: str) -> str:
        return f"""'{{"id":' || ({row}) || '}}'"""

    def blob(self, digits: str) -> str:
        return f"'\\x{digits}'::bytea"

    def own_log(self) -> Iterator[str]:
        lsn, seq = f"n + {self.filled.lsn}", "n + 1000000000"
        columns = "incarnation, to_lsn, from_lsn, prev_lsn, tx_id, exported_at, grouped, tables, bytes, captured_us"
        values = f"'{self.incarnation}', {lsn}, {lsn}, {lsn} - 1, {self.own_tx_id()}, {self.sealed_at()}"
        yield self.insert("rf_tx", columns, f"{values}, false, {_TABLES}, 300, {self.since()}")
        xid = f"(n + {self._xid - self.first})::text::xid8"
        columns = "era, lsn, xid, seq, hlc, main_epoch"
        yield self.insert("rf_sealed", columns, f"1, {lsn}, {xid}, {seq}, {self.since()}, 0")
        shape = "(SELECT shape_id FROM rf_shape JOIN rf_table USING (table_id) WHERE name = 'item')"
        image = """'{"id" : ' || n || ', "name" : "row", "price" : "1.00"}'"""
        columns = "seq, xid, shape_id, op, new_tid, pk, after"
        values = f"""{seq}, {xid}, {shape}, 'I', '(0,1)', {self.key("n")}, {image}"""
        (line,) = [self.insert("rf_change_log", columns, values)]
        yield line.replace("SELECT", "OVERRIDING SYSTEM VALUE SELECT", 1)
        yield (
            "SELECT setval(pg_get_serial_sequence('rf_change_log', 'seq'),"
            f" greatest(2000000000, {self.filled.rows} + 1000000000))"
        )
        yield (
            f"UPDATE rf_seal SET last_lsn = {self.filled.lsn + self.filled.rows},"
            " snapshot = pg_current_snapshot()::text, last_tx_id = (SELECT max(tx_id) FROM rf_tx)"
        )


class _Sqlite(_Filling):
    def series(self) -> str:
        bounds = f"SELECT {self.first} UNION ALL SELECT n + 1 FROM g WHERE n < {self.filled.rows}"
        return f"(WITH RECURSIVE g(n) AS ({bounds}) SELECT n FROM g) AS g"

    def hex8(self, number: str) -> str:
        return f"printf('%08x', {number})"

    def key(self, row: str) -> str:
        return f"'[' || ({row}) || ']'"

    def blob(self, digits: str) -> str:
        return f"x'{digits}'"

    def own_log(self) -> Iterator[str]:
        lsn = f"n + {self.filled.lsn}"
        columns = "incarnation, to_lsn, from_lsn, prev_lsn, tx_id, exported_at, grouped, tables, bytes, captured_us"
        values = f"'{self.incarnation}', {lsn}, {lsn}, {lsn} - 1, {self.own_tx_id()}, {self.sealed_at()}"
        yield self.insert("rf_tx", columns, f"{values}, 0, {_TABLES}, 300, {self.since()}")
        columns = "incarnation, lsn, tx_id, table_name, op, line"
        line = f"'{self.incarnation}', {lsn}, {self.own_tx_id()}, 'item', 'I', CAST('{{}}' || char(10) AS BLOB)"
        yield self.insert("rf_change_log", columns, line)
        last = f"last_lsn = {self.filled.lsn + self.filled.rows}, last_tx_id = (SELECT max(tx_id) FROM rf_tx)"
        yield f"UPDATE rf_seal SET {last}"
