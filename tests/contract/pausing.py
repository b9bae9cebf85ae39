"""What every dialect does with a paused table: nothing captured, batches applied on, and `resume` misses nothing."""

from __future__ import annotations

import msgspec
import pytest

from common.errors import PausedError
from common.ports.dialect import Database
from common.versions import NEVER, Version
from tests.contract.dialect import ELSEWHERE, NODE, SCHEMA, DialectCase, captured, changes, put, seal, shapes, told

OLDER = (*SCHEMA, "INSERT INTO company VALUES (1, 'older', NULL), (2, 'older too', NULL)")


def pause(database: Database, *names: str) -> list[str]:
    return database.capture().pause([shapes(database)[name] for name in names], 1_000_000, "somebody")


def resume(database: Database, *names: str) -> set[tuple[str, str, str]]:
    """Resume tables and return what sealing then finds: not every dialect knows what was before."""
    database.capture().resume(names, list(shapes(database).values()))
    found = told(changes(seal(database)))
    return {(table, "D" if op == "D" else "W", after) for table, op, _, after in found}


class PauseContract:
    """`pause` and `resume`."""

    def test_a_paused_table_is_not_captured_and_others_are(self, case: DialectCase) -> None:
        database = captured(case)
        assert pause(database, "company", "part") == ["company", "part"]
        assert pause(database, "company") == []
        tables = list(shapes(database).values())
        assert database.capture().drifted(tables) == []
        assert database.capture().plan(tables) == []
        assert database.capture().install(tables) == []
        case.execute(
            database,
            "INSERT INTO company VALUES (1, 'a', NULL)",
            "INSERT INTO part VALUES ('s', 1, NULL)",
            "INSERT INTO sale (id) VALUES ('s')",
        )
        assert {one.table for one in changes(seal(database))} == {"sale"}
        assert case.query(database, "SELECT table_name, since_us, paused_by FROM rf_paused ORDER BY 1") == [
            ("company", 1_000_000, "somebody"),
            ("part", 1_000_000, "somebody"),
        ]
        assert resume(database, "part") == {("part", "W", "1,s,None")}
        assert case.query(database, "SELECT table_name FROM rf_paused") == [("company",)]
        case.execute(database, "UPDATE part SET what = 'x'", "UPDATE company SET note = 'x'")
        assert {one.table for one in changes(seal(database))} == {"part"}

    def test_resuming_seals_what_was_written_and_nothing_else(self, case: DialectCase) -> None:
        database = captured(case, OLDER)
        case.execute(database, "INSERT INTO company VALUES (3, 'own', NULL), (4, 'own too', NULL), (5, 'moves', NULL)")
        seal(database)
        put(database, "company", *(_row(number, f"theirs {number}") for number in (6, 7, 8)))
        pause(database, "company")
        case.execute(
            database,
            "UPDATE company SET note = 'x' WHERE id IN (1, 3, 6)",
            "DELETE FROM company WHERE id IN (2, 4, 7)",
            "UPDATE company SET id = 50 WHERE id = 5",
            "INSERT INTO company VALUES (9, 'new', NULL)",
        )
        assert seal(database) == []
        database.capture().resume(["company"], list(shapes(database).values()))
        found = {bytes(one.pk): (one.op == "D", msgspec.json.decode(one.after)) for one in changes(seal(database))}
        assert {pk: gone for pk, (gone, _) in found.items()} == {
            b'{"id":1}': False, b'{"id":3}': False, b'{"id":6}': False,
            b'{"id":2}': True, b'{"id":4}': True, b'{"id":7}': True, b'{"id":5}': True,
            b'{"id":50}': False, b'{"id":9}': False,
        }  # fmt: skip
        assert found[b'{"id":6}'][1] == {"id": 6, "name": "theirs 6", "note": "x"}
        assert found[b'{"id":50}'][1] == {"id": 50, "name": "moves", "note": None}
        assert database.capture().drifted(list(shapes(database).values())) == []
        case.execute(database, "UPDATE company SET note = 'y' WHERE id = 8")
        assert told(changes(seal(database))) == {("company", "U", "8,theirs 8,None", "8,theirs 8,y")}

    def test_what_is_sealed_on_resume_follows_what_it_replaces(self, case: DialectCase) -> None:
        database = captured(case)
        put(database, "company", _row(1, "theirs"), hlc=5_000)
        pause(database, "company")
        case.execute(database, "UPDATE company SET note = 'x'")
        database.capture().resume(["company"], list(shapes(database).values()))
        (change,) = changes(seal(database))
        assert change.base == Version(0, 5_000, ELSEWHERE)
        assert change.version.hlc > 5_000
        assert change.version.node_id == "here"

    def test_nothing_written_is_nothing_sealed(self, case: DialectCase) -> None:
        database = captured(case, OLDER)
        put(database, "company", _row(3, "theirs"))
        for _ in range(2):
            pause(database, "company")
            assert resume(database, "company") == set()
            assert resume(database, "company") == set()

    def test_a_column_goes_and_another_comes(self, case: DialectCase) -> None:
        database = captured(case, OLDER)
        put(database, "company", _row(3, "theirs"))
        pause(database, "company")
        case.execute(
            database,
            "ALTER TABLE company DROP COLUMN note",
            "ALTER TABLE company ADD COLUMN staff integer DEFAULT 7",
            "UPDATE company SET staff = 8 WHERE id = 2",
            "INSERT INTO company VALUES (4, 'new', 9)",
        )
        assert resume(database, "company") == {("company", "W", "2,older too,8"), ("company", "W", "4,new,9")}
        case.execute(database, "DELETE FROM company WHERE id = 3")
        assert told(changes(seal(database))) == {("company", "D", "3,theirs,7", "-")}

    def test_a_table_that_is_made_anew(self, case: DialectCase) -> None:
        database = captured(case, OLDER)
        pause(database, "part", "company")
        case.execute(
            database,
            "CREATE TABLE fresh (id integer PRIMARY KEY, name text NOT NULL UNIQUE, note text)",
            "INSERT INTO fresh SELECT id, name, note FROM company WHERE id <> 2",
            "UPDATE sale SET company = NULL",
            "DROP TABLE sale",
            "DROP TABLE company",
            "ALTER TABLE fresh RENAME TO company",
            "INSERT INTO company VALUES (3, 'new', NULL)",
        )
        assert resume(database, "part", "company") == {("company", "W", "3,new,None"), ("company", "D", "-")}

    def test_batches_are_applied_meanwhile(self, case: DialectCase) -> None:
        database = captured(case, OLDER)
        put(database, "company", _row(3, "theirs"), _row(4, "goes"))
        pause(database, "company")
        put(database, "company", _row(1, "overwritten"), (b'{"id":4}', None), _row(5, "comes"), hlc=2_000)
        case.execute(database, "ALTER TABLE company DROP COLUMN note")
        put(database, "company", (b'{"id":3}', b'{"id":3,"name":"again"}'), hlc=3_000)
        put(database, "company", (b'{"id":6}', b'{"id":6,"name":"sixth"}'), (b'{"id":5}', None), hlc=3_000)
        rows = case.query(database, "SELECT id, name FROM company ORDER BY id")
        assert rows == [(1, "overwritten"), (2, "older too"), (3, "again"), (6, "sixth")]
        assert resume(database, "company") == set()

    def test_what_the_owner_wrote_is_not_overwritten(self, case: DialectCase) -> None:
        database = captured(case, OLDER)
        put(database, "company", _row(3, "theirs"), _row(4, "theirs too"))
        pause(database, "company")
        case.execute(
            database,
            "UPDATE company SET note = 'x' WHERE id = 3",
            "DELETE FROM company WHERE id = 4",
            "INSERT INTO company VALUES (5, 'own', NULL)",
        )
        for number in (3, 4, 5):
            with pytest.raises(PausedError, match="rowferry resume company"):
                put(database, "company", _row(number, f"comes {number}"), hlc=2_000)
        put(database, "company", _row(1, "not in the way"), hlc=2_000)
        resume(database, "company")
        shape = shapes(database)["company"]
        with database.apply_session() as session:
            found = session.lock(shape, shape.meta, [b'{"id":3}', b'{"id":4}', b'{"id":5}'])
        assert {state.version.node_id for state in found} == {"here"}
        assert found[0].base == Version(0, 1_000, ELSEWHERE)
        assert found[1].deleted
        assert found[2].base == NEVER

    def test_what_waited_for_the_sealer_when_it_was_paused(self, case: DialectCase) -> None:
        database = captured(case)
        case.execute(database, "INSERT INTO company VALUES (1, 'a', NULL), (2, 'b', NULL)")
        pause(database, "company")
        case.execute(database, "UPDATE company SET note = 'x' WHERE id = 1")
        assert {bytes(one.pk) for one in changes(seal(database))} == {b'{"id":1}', b'{"id":2}'}
        resume(database, "company")
        shape = shapes(database)["company"]
        with database.apply_session() as session:
            (image,) = session.images(shape, [b'{"id":1}'], shape.meta)
        last = {}
        for tx in database.log(NODE).read(0, 2**40):
            last |= {bytes(one.pk): one for one in changes([tx])}
        assert image is not None
        assert msgspec.json.decode(last[b'{"id":1}'].after) == msgspec.json.decode(image)

    def test_a_paused_table_that_is_gone_or_no_longer_chosen(self, case: DialectCase) -> None:
        database = captured(case)
        pause(database, "part", "company")
        case.execute(database, "DROP TABLE part", "INSERT INTO company VALUES (1, 'a', NULL)")
        left = [shape for name, shape in shapes(database).items() if name != "company"]
        database.capture().resume(["part", "company"], left)
        assert seal(database) == []
        assert case.query(database, "SELECT count(*) FROM rf_paused") == [(0,)]
        assert database.capture().drifted(left) == []


def _row(number: int, name: str) -> tuple[bytes, bytes]:
    pk = f'{{"id":{number}}}'.encode()
    return pk, f'{{"id":{number},"name":"{name}","note":null}}'.encode()
