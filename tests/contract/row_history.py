"""What a database tells of one row, on every dialect."""

from __future__ import annotations

import msgspec
import pytest

from common.errors import PoisonError
from common.ports.row_history import RowLook
from common.versions import NEVER, Version
from common.wire.records import TableMeta
from tests.contract.dialect import NODE, DialectCase, captured, put, seal, shapes


class RowHistoryContract:
    """Looking at single rows."""

    def test_captured_then_sealed_then_another_nodes_write(self, case: DialectCase) -> None:
        database = captured(case)
        table = shapes(database)["company"]

        def look() -> RowLook:
            return database.row_history(NODE).look(table, b'{"id":1}')

        assert (look().image, look().known, look().captured, look().sealed) == (None, False, (), ())
        case.execute(database, "INSERT INTO company VALUES (1, 'a', NULL), (2, 'b', NULL)")
        (waiting,) = {one.what for one in look().captured}
        assert (waiting, look().known, look().sealed) == ("insert", False, ())

        seal(database)
        case.execute(database, "UPDATE company SET name = 'c' WHERE id = 1", "DELETE FROM company WHERE id = 2")
        assert {one.what for one in look().captured} == {"update"}
        (tx,) = seal(database)
        found = look()
        assert [(one.op, one.lsn, one.after and msgspec.json.decode(one.after)["name"]) for one in found.sealed] == [
            ("I", 1, "a"),
            ("U", 3, "c"),
        ]
        assert (found.sealed[1].tx_id, found.sealed[1].version) == (tx.header.tx_id, found.version)
        assert found.sealed[1].base == found.sealed[0].version == found.base
        assert found.sealed[1].sealed_at == tx.header.exported_at
        assert (found.captured, found.deleted, msgspec.json.decode(found.image or b"")["name"]) == ((), False, "c")

        put(database, "company", (b'{"id":1}', None), hlc=2**60)
        found = look()
        assert (found.image, found.deleted, found.version) == (None, True, Version(0, 2**60, "there"))
        assert len(found.sealed) == 2

    def test_a_row_of_before_has_no_version(self, case: DialectCase) -> None:
        database = case.fresh()
        case.execute(database, "INSERT INTO part VALUES ('x', 1, 'before')")
        database.capture().install(list(shapes(database).values()))

        found = database.row_history(NODE).look(shapes(database)["part"], b'{"sale":"x","place":1}')
        assert (found.known, found.version, found.captured, found.sealed) == (False, NEVER, (), ())
        assert msgspec.json.decode(found.image or b"") == {"sale": "x", "place": 1, "what": "before"}

    def test_a_key_is_one_however_its_sender_spells_it(self, case: DialectCase) -> None:
        schema = ("CREATE TABLE price (amount numeric(8, 2) PRIMARY KEY, v text)",)
        database = captured(case, schema)
        case.execute(database, "INSERT INTO price VALUES (1.5, 'a')")
        seal(database)
        table, history = shapes(database)["price"], database.row_history(NODE)

        meta = TableMeta(pk=("amount",), columns={"amount": "decimal"})
        spelled = [b'{"amount":"1.5"}', b'{ "amount": "1.50" }', b'{"amount":"1.7"}']
        first, second, other = history.keys(table, meta, spelled)
        found = history.look(table, spelled[0])
        assert first == second == found.key != other
        assert len(found.sealed) == len(history.look(table, spelled[1]).sealed) == 1

    def test_what_can_be_no_key_is_refused(self, case: DialectCase) -> None:
        database = captured(case)
        with pytest.raises(PoisonError):
            database.row_history(NODE).look(shapes(database)["company"], b'{"id":"x"}')
