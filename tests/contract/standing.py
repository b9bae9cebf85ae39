"""What every dialect sees of unique values and references, of rows that stand and of rows that are only proposed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from common.errors import PoisonError
from common.ports.dialect import ApplySession, Database, RowWrite, TableShape
from common.ports.standing import Proposal, RowFacts, StandingLook
from common.versions import NEVER, Version
from common.wire.records import TableMeta
from tests.contract.dialect import DialectCase, captured, changes, seal, shapes

TABLES = (
    "CREATE TABLE shop (id integer PRIMARY KEY, town text, name text, area integer, UNIQUE (town, name))",
    "CREATE UNIQUE INDEX shop_area ON shop (lower(name), area) WHERE area > 0",
    "CREATE TABLE till (id integer PRIMARY KEY, shop integer REFERENCES shop (id), place integer,"
    " town text, name text, FOREIGN KEY (town, name) REFERENCES shop (town, name))",
    "CREATE TABLE plain (id integer PRIMARY KEY, what text NOT NULL)",
)
SHOPS = (
    "INSERT INTO shop VALUES (1, 'Bern', 'Nord', 5)",
    "INSERT INTO shop VALUES (2, 'Bern', 'Sued', 0)",
    "INSERT INTO shop VALUES (3, NULL, 'Nord', 7)",
    "INSERT INTO till VALUES (1, 1, 1, NULL, NULL)",
    "INSERT INTO till VALUES (2, 2, 1, 'Bern', 'Nord')",
    "INSERT INTO till VALUES (3, NULL, 1, 'Bern', NULL)",
)


@contextmanager
def looking(database: Database) -> Iterator[tuple[ApplySession, StandingLook, dict[str, TableShape]]]:
    tables = shapes(database)
    with database.apply_session() as session:
        yield session, session.look(tables), tables


def proposed(look: StandingLook, table: TableShape, row: dict[str, Any], meta: TableMeta | None = None) -> RowFacts:
    pk = json.dumps({"id": row["id"]}, separators=(",", ":")).encode()
    (facts,) = look.examine(
        table, meta or table.meta, [Proposal(key_of(row["id"], table), pk, json.dumps(row).encode())]
    )
    return facts


def key_of(number: int, table: TableShape) -> str:
    """The canonical key, as each dialect writes it."""
    return f'{{"id":{number}}}' if type(table).__name__ == "PgTable" else f"[{number}]"


def pk(number: int) -> bytes:
    return b'{"id":%d}' % number


def ids(pks: list[bytes]) -> list[int]:
    return sorted({json.loads(one)["id"] for one in pks})


class StandingContract:
    """`ApplySession.look`, and rows that are written aside."""

    def test_a_row_has_the_same_facts_proposed_and_standing(self, case: DialectCase) -> None:
        database = case.fresh((*TABLES, *SHOPS))
        with looking(database) as (_, look, tables):
            for name, number in (("shop", 1), ("shop", 2), ("shop", 3), ("till", 1), ("till", 2), ("till", 3)):
                table = tables[name]
                (standing,) = look.inspect(table, table.meta, [pk(number)]).values()
                assert proposed(look, table, json.loads(standing.image)) == standing
            assert look.inspect(tables["shop"], tables["shop"].meta, [pk(9)]) == {}
        assert len(case.query(database, "SELECT * FROM shop")) == 3

    def test_values_that_are_equal_have_one_token_and_no_others(self, case: DialectCase) -> None:
        database = case.fresh(TABLES)
        with looking(database) as (_, look, tables):
            rows = [
                {"id": 1, "town": "Bern", "name": "Nord", "area": 5},
                {"id": 2, "town": "Bern", "name": "Nord", "area": 0},
                {"id": 3, "town": "Thun", "name": "NORD", "area": 5},
                {"id": 4, "town": None, "name": "nord", "area": 6},
            ]
            pair, area = [], []
            for row in rows:
                claims = {json.loads(one.rule)[-1]: one for one in proposed(look, tables["shop"], row).claims}
                pair.append(next((one for name, one in claims.items() if name != "shop_area"), None))
                area.append(claims.get("shop_area"))
            assert pair[0] == pair[1] != pair[2]
            assert pair[3] is None
            assert area[0] == area[2] != area[3]
            assert area[1] is None
            assert area[3] is not None

    def test_rivals_are_found_through_every_unique_key(self, case: DialectCase) -> None:
        database = case.fresh((*TABLES, *SHOPS))
        with looking(database) as (_, look, tables):
            shop = tables["shop"]

            def against(**row: Any) -> list[int]:
                return ids(look.rivals(shop, [proposed(look, shop, {"id": 9, **row})]))

            assert against(town="Bern", name="Nord", area=0) == [1]
            assert against(town="Thun", name="NORD", area=5) == [1]
            assert against(town="Bern", name="Sued", area=7) == [2]
            assert against(town="Bern", name="Sued", area=0) == [2]
            assert against(town=None, name="Sued", area=0) == []
            assert against(town="Thun", name="Nord", area=7) == [3]
            both = [proposed(look, shop, {"id": n, "town": "Bern", "name": "Nord", "area": n}) for n in (7, 8)]
            assert ids(look.rivals(shop, both)) == [1, 3]

    def test_parents_and_children_by_the_primary_key_and_by_others(self, case: DialectCase) -> None:
        database = case.fresh((*TABLES, *SHOPS))
        with looking(database) as (_, look, tables):
            shop, till = tables["shop"], tables["till"]
            tills = look.inspect(till, till.meta, [pk(1), pk(2), pk(3)])
            shops = look.inspect(shop, shop.meta, [pk(1), pk(2), pk(3)])
            by_id = {json.loads(one.pk)["id"]: one for one in tills.values()}
            parents = {json.loads(one.pk)["id"]: one for one in shops.values()}
            assert ids(look.parents(till, [by_id[1]])["shop"]) == [1]
            assert ids(look.parents(till, [by_id[2]])["shop"]) == [1, 2]
            assert by_id[3].points == ()
            assert {json.loads(p.pk)["id"] for p in by_id[2].points if p.pk} == {2}
            for pointer in by_id[2].points:
                assert pointer.claim in (*parents[1].pointed, *parents[2].pointed)
            assert ids(look.children(shop, [parents[1]])["till"]) == [1, 2]
            assert ids(look.children(shop, [parents[2]])["till"]) == [2]
            assert ids(look.children(shop, [parents[3]]).get("till", [])) == []
            gone = proposed(look, shop, {"id": 8, "town": "Bern", "name": "Nord", "area": None})
            assert ids(look.children(shop, [gone])["till"]) == [2]

    def test_columns_that_a_sender_does_not_name_are_as_they_stand(self, case: DialectCase) -> None:
        database = case.fresh((*TABLES, *SHOPS))
        meta = TableMeta(pk=("id",), columns={"id": "int", "name": "text"})
        with looking(database) as (_, look, tables):
            facts = proposed(look, tables["shop"], {"id": 1, "name": "Ost"}, meta)
            assert json.loads(facts.image) == {"id": 1, "town": "Bern", "name": "Ost", "area": 5}
            kept = Proposal(key_of(9, tables["shop"]), pk(9), b'{"id":9,"name":"Ost"}', facts.image.encode())
            (other,) = look.examine(tables["shop"], meta, [kept])
            assert json.loads(other.image) == {"id": 9, "town": "Bern", "name": "Ost", "area": 5}

    def test_a_row_that_can_never_be_written_is_refused(self, case: DialectCase) -> None:
        database = case.fresh(TABLES)
        with looking(database) as (_, look, tables), pytest.raises(PoisonError):
            proposed(look, tables["plain"], {"id": "word", "what": "x"})

    def test_a_row_written_aside_has_its_version_and_no_row(self, case: DialectCase) -> None:
        database = captured(case, (*TABLES, *SHOPS))
        with looking(database) as (session, _, tables):
            shop = tables["shop"]
            (state,) = session.lock(shop, shop.meta, [pk(3)])
            image = b'{"id":3,"town":null,"name":"Nord","area":7}'
            session.write(shop, shop.meta, [RowWrite(state.key, pk(3), image, Version(0, 5, "there"), NEVER, True)])
            assert session.images(shop, [pk(3)], shop.meta) == [None]
        with looking(database) as (session, _, tables):
            (state,) = session.lock(tables["shop"], tables["shop"].meta, [pk(3)])
            assert (state.version, state.deleted) == (Version(0, 5, "there"), False)
        assert [row[0] for row in case.query(database, "SELECT id FROM shop ORDER BY id")] == [1, 2]
        assert changes(seal(database)) == []

    def test_what_has_stepped_back_is_not_taken_for_gone(self, case: DialectCase) -> None:
        """A table whose capture is made anew has its rows compared with what is known of them."""
        database = captured(case, (*TABLES, *SHOPS))
        with looking(database) as (session, _, tables):
            shop = tables["shop"]
            (state,) = session.lock(shop, shop.meta, [pk(3)])
            image = b'{"id":3,"town":null,"name":"Nord","area":7}'
            session.write(shop, shop.meta, [RowWrite(state.key, pk(3), image, Version(0, 5, "there"), NEVER, True)])
            session.connection.exec_driver_sql(
                "INSERT INTO rf_stepped_back (table_name, key, version, facts, meta, kind, stepped_us)"
                f" VALUES ('shop', '{state.key}', '[0,5,\"there\"]', '{{}}', '{{}}', 'unique', 1)"
            )
        case.execute(database, "DROP TABLE till", "ALTER TABLE shop ADD COLUMN extra text")
        database.capture().install(list(shapes(database).values()))
        assert [one for one in changes(seal(database)) if one.op == "D"] == []
