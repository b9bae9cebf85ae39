"""Dead letters that many decide over at the same moment, by page, HTTP and command line, while they come again: each is
decided once, by one, and what was said to be done is what was done."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa

from common.http.scopes import Scope
from common.schema import tables as rf
from consumer.dead_letters.desk import desk_of
from consumer.dead_letters.operations import Replay
from consumer.dead_letters.table_store import Selection
from tests.support.applying import DATABASES, Origin, Tx, item, resealed
from tests.support.page import Person, page_node, push, signed_in
from tests.support.web import Served

LETTERS, ROWS = 8, 3
FRESH = "CREATE TABLE fresh (id INTEGER PRIMARY KEY, name TEXT, price NUMERIC)"
Deed = tuple[str, str, str]
"""Which letter, what was said to have been done, by whom."""


@pytest.fixture(params=DATABASES)
def node(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with page_node(request, tmp_path_factory) as one:
        yield one


def body_of(tx: Tx) -> bytes:
    return resealed(tx.body, b'"item"', b'"fresh"')


def by_http(node: Served, tx: Tx, token: str) -> Iterator[Deed]:
    with node.client(token) as client:
        answer = client.post(f"/dead-letters/{tx.tx_id}/replay").raise_for_status().json()
    for one in answer["results"]:
        if one["outcome"] == "applied":
            yield tx.tx_id, "replayed", "carl"


def on_page(person: Person, tx: Tx, deed: str) -> Iterator[Deed]:
    asked = person.get(f"/page/dead-letters/{deed}", params={"letter": json.dumps(["a", tx.tx_id])})
    if deed == "replay":
        told, done = person.submit(asked, "Yes, replay") if "Yes, replay" in asked.text else asked, "was applied"
    else:
        button = "Yes, discard"
        told = person.submit(asked, button, reason="not wanted") if button in asked.text else asked
        done = "was discarded: not wanted"
    if done in told.text:
        yield tx.tx_id, "replayed" if deed == "replay" else "discarded", "anna"


def by_command(node: Served, tx: Tx, deed: str) -> Iterator[Deed]:
    chosen = Selection(tx_ids=(tx.tx_id,))
    with desk_of(node.world.node) as desk:
        if deed == "replay":
            results = desk.replay(chosen, Replay("bob"), lambda _: None)
            if any(one.outcome.value == "applied" and one.settled is None for one in results):
                yield tx.tx_id, "replayed", "bob"
        elif desk.discard(chosen, "bob said so", "bob"):
            yield tx.tx_id, "discarded", "bob"


def comes_again(node: Served, tx: Tx) -> Iterator[Deed]:
    push(node, body_of(tx))
    yield from ()


def drawn(node: Served, anna: Person, token: str, txs: list[Tx], draw: random.Random) -> list[Callable[[], list[Deed]]]:
    """What each of five hands does with the letters, all in the same order."""
    # They meet at the same letters: a different order would be a different letter each.
    order = draw.sample(txs, len(txs))

    def hand(act: Callable[[Tx], Iterator[Deed]]) -> Callable[[], list[Deed]]:
        return lambda: [deed for tx in order for deed in act(tx)]

    acts: list[Callable[[Tx], Iterator[Deed]]] = [
        lambda tx: by_http(node, tx, token),
        lambda tx: on_page(anna, tx, draw.choice(("replay", "discard"))),
        lambda tx: by_command(node, tx, draw.choice(("replay", "discard"))),
        lambda tx: by_command(node, tx, "replay"),
        lambda tx: comes_again(node, tx),
    ]
    return [hand(act) for act in acts]


@pytest.mark.parametrize("seed", range(3))
def test_each_is_decided_once_and_by_whom_it_is_said(node: Served, seed: int) -> None:
    draw = random.Random(seed)
    a = Origin("a")
    txs = [a.tx(*(item(10 * number + row, "x", number) for row in range(ROWS))) for number in range(1, LETTERS + 1)]
    push(node, b"".join(map(body_of, txs)))
    assert states(node) == dict.fromkeys((tx.tx_id for tx in txs), "dead")
    node.world.execute(FRESH)
    with signed_in(node) as anna, ThreadPoolExecutor(5) as hands:
        token = node.token("carl", Scope.OPS)
        under_way = [hands.submit(act) for act in drawn(node, anna, token, txs, draw)]
        deeds = [deed for one in under_way for deed in one.result()]
    there, ended = {row[0] for row in node.world.rows("fresh")}, states(node)
    audited = decisions(node)
    for number, tx in enumerate(txs, 1):
        mine = [(what, by) for tx_id, what, by in deeds if tx_id == tx.tx_id]
        rows = {10 * number + row for row in range(ROWS)}
        assert len(mine) == 1, f"{tx.tx_id} was said to be {mine}"
        ((what, by),) = mine
        assert ended[tx.tx_id] == what
        assert rows & there == (rows if what == "replayed" else set())
        assert audited.get(tx.tx_id) == [(what, by)]
    assert len(there) == ROWS * sum(state == "replayed" for state in ended.values())
    push(node, b"".join(map(body_of, txs)))
    assert states(node) == ended
    assert {row[0] for row in node.world.rows("fresh")} == there


def states(node: Served) -> dict[str, str]:
    with node.world.node.database.engine.connect() as connection:
        found = connection.execute(sa.select(rf.dead_letter.c.tx_id, rf.dead_letter.c.state))
        return {row.tx_id: row.state for row in found}


def decisions(node: Served) -> dict[str, list[tuple[str, str]]]:
    """By letter: what the audit has of its decisions, and whose they were."""
    found: dict[str, list[tuple[str, str]]] = {}
    lines = sa.select(rf.audit).where(rf.audit.c.action.in_(("replayed", "discarded"))).order_by(rf.audit.c.id)
    with node.world.node.database.engine.connect() as connection:
        for line in connection.execute(lines):
            detail = json.loads(line.detail or "{}")
            if line.action == "discarded" or detail.get("outcome", "applied") == "applied":
                found.setdefault(line.tx_id, []).append((line.action, line.actor))
    return found
