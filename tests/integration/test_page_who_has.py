"""What the question before a discard says of who else has the transaction: what peers have said themselves, no more."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator

import pytest

from common.ops.nodes import Nodes
from consumer.dead_letters.who_has import MOST_NAMES
from tests.integration.test_heartbeats import beat
from tests.support.applying import DATABASES, Origin, Tx, item, resealed
from tests.support.page import Person, page_node, push, signed_in
from tests.support.web import Served

LIMITS = "Each node has said so itself"


@pytest.fixture(params=DATABASES)
def node(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with page_node(request, tmp_path_factory) as one:
        yield one


@pytest.fixture
def anna(node: Served) -> Iterator[Person]:
    with signed_in(node) as person:
        yield person


def letter_of(node: Served, origin: Origin, changes: int = 2) -> Tx:
    """Push a tx for a table that is not here."""
    tx = origin.tx(*(item(number, "one", 10) for number in range(changes)))
    push(node, resealed(tx.body, b'"item"', b'"fresh"'), source=origin.node_id)
    return tx


def question(anna: Person, *txs: Tx) -> str:
    """The question as it is read."""
    names = [json.dumps([tx.header.source_node, tx.tx_id]) for tx in txs]
    answer = anna.get("/page/dead-letters/discard", params={"letter": names})
    assert answer.status_code == 200, answer.text
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]*>", "", answer.text)))


def says(node: Served, peer: str, *passed: tuple[str, str, int]) -> None:
    beat(node.world, 9, source_node=peer, passed=passed)


def test_who_has_it_who_has_not_and_of_whom_nothing_is_known(node: Served, anna: Person) -> None:
    tx = letter_of(node, Origin("a"))
    says(node, "shop-2", ("a", "inc1", 2))
    says(node, "shop-3", ("a", "inc1", 1))
    says(node, "shop-4", ("a", "inc0", 99))
    says(node, "hq")
    says(node, "a", ("a", "inc1", 2))
    text = question(anna, tx)
    assert "shop-2 has it." in text
    assert "shop-3 has a's log only up to LSN 1; this ends at LSN 2." in text
    assert "It is not known here whether hq, shop-4 have it." in text
    assert LIMITS in text
    assert "here can't know more" in text
    # Its source has it in any case, and this node has not.
    assert not re.search(r"\b(a|here)(, [\w-]+)* (has|have) it\.", text)
    says(node, "shop-3", ("a", "inc1", 2))
    assert "shop-2, shop-3 have it." in question(anna, tx)


def test_a_node_that_was_retired_does_not_count(node: Served, anna: Person) -> None:
    tx, facts = letter_of(node, Origin("a")), node.world.node.facts
    says(node, "gone", ("a", "inc1", 2))
    assert "gone has it" in question(anna, tx)
    Nodes(node.world.node.database, node.world.node.config, facts, node.world.clock).retire("gone", "test")
    text = question(anna, tx)
    assert "gone" not in text
    assert "here knows of no other node than a." in text


def test_each_letter_has_its_own_answer(node: Served, anna: Person) -> None:
    one, other = letter_of(node, Origin("a")), letter_of(node, Origin("b"))
    says(node, "shop-2", ("a", "inc1", 2), ("b", "inc1", 1))
    says(node, "a", ("b", "inc1", 2))
    text = question(anna, one, other)
    of_a, of_b = text.split(one.tx_id)[1].split(other.tx_id)
    assert "shop-2 has it. It is not known here whether b has it." in of_a
    assert "a has it. shop-2 has b's log only up to LSN 1; this ends at LSN 2." in of_b
    assert text.count(LIMITS) == 1


@pytest.mark.parametrize("unproven", ["state = 'forked'", "reason = 'content'", "reason = 'source'", "to_lsn = NULL"])
def test_of_what_may_lie_about_its_numbers_nothing_is_told(node: Served, anna: Person, unproven: str) -> None:
    """Of two contents under one id nobody knows which another node has, and whoever made it up gave it any number."""
    tx = letter_of(node, Origin("a"))
    says(node, "shop-2", ("a", "inc1", 9))
    assert "shop-2 has it" in question(anna, tx)
    node.world.execute(f"UPDATE rf_dead_letter SET {unproven}")
    text = question(anna, tx)
    assert "shop-2" not in text
    assert "It is not proven which transaction this is, so it is not known who has it." in text


def test_of_many_nodes_some_are_named_and_the_others_counted(node: Served, anna: Person) -> None:
    tx = letter_of(node, Origin("a"))
    for number in range(MOST_NAMES + 3):
        says(node, f"shop-{number:02}", ("a", "inc1", 2))
    text = question(anna, tx)
    assert f"shop-{MOST_NAMES - 1:02} and 3 more have it." in text
    assert f"shop-{MOST_NAMES:02}" not in text
