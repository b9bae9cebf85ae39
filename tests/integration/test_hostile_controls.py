"""What a peer may say beside batches, and does not mean well by: it harms nobody but itself."""

from __future__ import annotations

import json

from common.clock import to_iso
from common.ops.passed import MOST_STRANGE, read_passed
from common.wire.control import Request, SeenLog, encode_control
from common.wire.records import MAX_LSN
from producer.requests import Requests
from tests.integration.test_heartbeats import beat, peer, standing
from tests.support.applying import Origin, World


def test_a_release_that_no_database_takes_is_no_heartbeat(world: World) -> None:
    beat(world, 0, release="1\x000")
    assert world.query("SELECT node_id FROM rf_node WHERE node_id = 'a'") == []
    beat(world, 0, release="1.0")
    assert peer(world).release == "1.0"


def test_what_one_peer_has_passed_is_kept_within_bounds(world: World) -> None:
    other = Origin("b")
    world.receive(other.put(1, "x", 1).body)
    facts = world.node.facts
    real = {("b", other.incarnation): 1, (facts.node_id, facts.incarnation): 3, ("a", "inc1"): 5}
    beat(world, 5, passed=tuple((origin, incarnation, lsn) for (origin, incarnation), lsn in real.items()))
    for batch in range(MOST_STRANGE // 1_000 + 3):
        beat(world, 5, passed=tuple((f"n{batch}", f"i{number}", 1) for number in range(1_000)))
    with world.node.database.engine.connect() as connection:
        kept = read_passed(connection, ["a"])["a"]
    assert len(kept) == MOST_STRANGE + len(real)
    # Of what is real nothing is lost, and of the rest what was said longest ago.
    assert {key: kept.get(key) for key in real} == real
    assert not any(origin in ("n0", "n1", "n2") for origin, _ in kept)


def test_who_says_that_this_node_was_put_back_is_told(world: World) -> None:
    facts = world.node.facts
    beat(world, 0, seen={facts.node_id: SeenLog(incarnation=facts.incarnation, lsn=MAX_LSN)})
    (word,) = (word for word in standing(world).attention if "was restored" in word)
    assert "rowferry audit --action rewound" in word
    (detail,) = world.query("SELECT detail FROM rf_audit WHERE action = 'rewound'")
    assert json.loads(detail[0])["by"] == "a"


def ask(world: World, asker: str, incarnation: str) -> None:
    one = Request(
        from_node=asker,
        to_node=world.node.facts.node_id,
        incarnation=incarnation,
        after_lsn=0,
        until_lsn=1,
        asked_at=to_iso(world.clock.us),
    )
    world.receive(encode_control(one), source_node=asker)


def test_who_asks_for_ever_more_keeps_nobody_from_being_answered(world: World) -> None:
    for number in range(1_001):
        ask(world, "a", f"made-up-{number}")
    ask(world, "b", world.node.facts.incarnation)
    waiting = Requests(world.node.database).waiting(0)
    assert "b" in {owed.peer for owed in waiting}
