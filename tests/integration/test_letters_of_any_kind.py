"""Whatever a sender gets wrong: it is set aside at once, and can be shown, exported and tried again by a person."""

from __future__ import annotations

import json

from common.errors import Reason
from consumer.dead_letters.operations import DeadLetters, Replay
from consumer.dead_letters.show import show
from consumer.dead_letters.table_store import Selection
from tests.support.applying import Origin, World, outcomes, resealed

DEEP = b"[" * 5_000 + b"]" * 5_000

WRONG = [
    (b'"pk":{"id":1}', b'"pk":{"id":1e999}'),
    (b'"pk":{"id":1}', b'"pk":{"id":true}'),
    (b'"pk":{"id":1}', b'"pk":{"id":"1"}'),
    (b'"pk":{"id":1}', b'"pk":{"id":{"$int":1}}'),
    (b'"pk":{"id":1}', b'"pk":{"id":[1]}'),
    (b'{"id":1', b'{"id":1e998'),
    (b'{"id":1', b'{"id":99999999999999999999999'),
    (b'{"id":1', b'{"id":1.5'),
    (b'{"id":1', b'{"id":1,"id":2'),
    (b'"one"', b'1e999'),
    (b'"one"', b'"\\ud800"'),
    (b'"one"', b'"a\\u0000b"'),
    (b'"one"', DEEP),
    (b'"one"', b'{"$text":"####"}'),
    (b'"one"', b'{"$float":1e999}'),
    (b'"one"', b'{}'),
    (b'"one"', b'NaN'),
    (b'"1.50"', b'"NaN"'),
    (b'"1.50"', b'"1e1000000"'),
    (b'"1.50"', b'"999999999999999999999999999999.99"'),
    (b'"1.50"', b'1.50'),
    (b'"base":null', b'"base":[0,99999999999999999999,"b"]'),
    (b'"base":null', b'"base":[0,11,"b"]'),
    (b'"base":null', b'"base":"never"'),
    (b'"version":[0,10,"a"]', b'"version":[0,-1,"a"]'),
    (b'"version":[0,10,"a"]', b'"version":[99999999999,10,"a"]'),
    (b'"table":"item"', b'"table":"rf_node"'),
    (b'"table":"item"', b'"table":"item; DROP TABLE item"'),
]  # fmt: skip


def standing(world: World) -> str:
    return repr([world.query("SELECT tx_id, state, attempts FROM rf_dead_letter ORDER BY tx_id"), world.rows()])


def look_at_all(world: World) -> None:
    """What an operator may do with every letter, none of which may fail or write."""
    desk = DeadLetters(world.node)
    before = standing(world)
    for letter in desk.find(Selection()):
        document = json.loads(json.dumps(show(world.node, letter)))
        assert document["blocked_by"], document
        assert b"".join(desk.batches(letter))
    dry = desk.replay(Selection(), Replay("tester", dry_run=True), lambda _: None)
    assert set(outcomes(dry)) <= {"dead"}
    assert standing(world) == before


def test_wrong_values_are_poison_at_once_and_can_be_looked_at(world: World) -> None:
    a = Origin("a")
    for number, (old, new) in enumerate(WRONG):
        tx = a.put(1, "one", 10)
        a.lsn, a.made = number + 1, number + 1
        right = tx.body
        assert right.count(old) >= 1, old
        world.receive(resealed(right, old, new), redelivered=bool(number % 2))
    assert {reason for _, reason, _ in world.letters()} <= {
        Reason.FORMAT, Reason.TYPE, Reason.VERSION, Reason.UNKNOWN_TABLE, Reason.CONSTRAINT,
        Reason.LIMIT,
    }  # fmt: skip
    assert len(world.letters()) >= len(WRONG) - 4, "what a database can hold as it was sent is no fault"
    world.receive(a.put(5, "fine", 99).body)
    assert [row[1] for row in world.rows() if row[0] == 5] == ["fine"]
    look_at_all(world)


def test_an_unreadable_second_image_under_one_version(world: World) -> None:
    world.receive(Origin("a").put(1, "one", 10).body)
    again = Origin("a", incarnation="inc2", made=1).put(1, "one", 10)
    world.receive(resealed(again.body, b'"one"', b"1e999"))
    assert world.letters() == [(again.tx_id, "type", "dead")]
    look_at_all(world)


def test_damaged_bytes_make_no_node_known(world: World) -> None:
    a = Origin("a")
    damaged = a.put(1, "one", 10).body.replace(b'"source_node":"a"', b'"source_node":"A"')
    world.receive(damaged)
    assert [reason for _, reason, _ in world.letters()] == ["checksum"]
    assert world.query("SELECT node_id FROM rf_node WHERE NOT is_self") == []
    world.receive(a.put(2, "two", 20).body)
    assert [row[1] for row in world.rows()] == ["two"]
