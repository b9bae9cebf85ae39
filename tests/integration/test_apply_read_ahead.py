"""Txs are prepared by one thread while another applies: what one finds out about the tables the other has to know."""

from __future__ import annotations

from collections.abc import Iterator

from common.wire.decode import read_body
from common.wire.records import Part, TableMeta
from consumer.apply.group import Applier
from consumer.arrivals import whole
from consumer.incoming import Incoming
from tests.support.applying import Origin, Tx, World, Write, outcomes


def incoming(tx: Tx) -> Incoming:
    (part,) = read_body(tx.body)
    assert isinstance(part, Part)
    return whole(part, "test")


class Altering(list[Incoming]):
    """When all of it was taken, the table gets another shape, and what comes next is prepared under that one."""

    def __init__(self, world: World, applier: Applier, txs: list[Incoming], following: Incoming) -> None:
        super().__init__(txs)
        self._world, self._applier, self._following = world, applier, following
        self.altered = False

    def __iter__(self) -> Iterator[Incoming]:
        yield from super().__iter__()
        if not self.altered:
            self.altered = True
            self._world.execute("ALTER TABLE item RENAME COLUMN name TO title")
            self._applier.prepare_ahead([self._following])


def test_a_table_that_reading_ahead_found_altered_is_no_fault_of_the_round_in_hand(world: World) -> None:
    a, b = Origin("a"), Origin("b")
    b.tables["item"] = TableMeta(pk=("id",), columns={"id": "int", "title": "text", "price": "decimal"})
    first = incoming(a.put(1, "one", 10))
    renamed = incoming(a.put(2, "two", 11))
    following = incoming(b.tx(Write("I", "item", {"id": 3, "title": "three", "price": "1.50"}, 10)))
    applier = Applier(world.node)
    assert outcomes(applier.apply([first])) == ["applied"]
    (result,) = applier.apply(Altering(world, applier, [renamed], following))
    assert (result.outcome.value, result.reason) == ("dead", "unknown-column")
    assert outcomes(applier.apply([following])) == ["applied"]
    assert [row[:2] for row in world.rows()] == [(1, "one"), (3, "three")]
