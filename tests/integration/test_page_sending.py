"""What the page says of what goes on from here: with a `run` and without, after a choice and after a replay."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from common.http.scopes import Scope
from common.ops.stalls import Seen, write_seen
from common.schema import tables as rf
from consumer.dead_letters.table_store import every_letter
from consumer.page.prospects import AT_ONCE, KEPT_SECONDS, MOST_CHANGES, PERSONS_SECONDS, Prospects
from consumer.statements import reading
from tests.support.applying import DATABASES, Origin, item, resealed
from tests.support.page import Person, page_node, push, signed_in, without_terms
from tests.support.waiting import wait_for
from tests.support.web import Served

FUTURE = 3 * 10**15
PATIENCE = 60.0
"""Seconds that a list waits where the test wants the answer."""


@pytest.fixture(params=DATABASES)
def node(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    forward, policy = {"forward": "hub" in request.node.name}, {"policy": {"item": "manual"}}
    with page_node(request, tmp_path_factory, exchange=True, node=forward, tables=policy) as one:
        yield one


@pytest.fixture
def anna(node: Served) -> Iterator[Person]:
    with signed_in(node) as person:
        yield person


def letters_of(node: Served, count: int = 1) -> list[str]:
    """Push txs for a table that is not here; return their ids."""
    origin = Origin("a")
    txs = [origin.put(number, "one", 10) for number in range(count)]
    push(node, *(resealed(tx.body, b'"item"', b'"fresh"') for tx in txs))
    return [tx.tx_id for tx in txs]


def make(node: Served) -> None:
    node.world.execute("CREATE TABLE fresh (id INTEGER PRIMARY KEY, name TEXT, price NUMERIC(10,2))")


def run_was_seen(node: Served) -> None:
    """As the watchdog of a `run` does."""
    with node.world.node.database.engine.begin() as connection:
        write_seen(connection, "sealer", Seen(0, "", None, None, node.world.clock.us))


def conflict_of(node: Served) -> None:
    node.world.execute("INSERT INTO item VALUES (7, 'mine', 1)")
    push(node, Origin("a").put(7, "theirs", FUTURE).body)


def test_that_nobody_runs_is_said_also_where_nothing_waits(node: Served, anna: Person) -> None:
    fleet = anna.get("/").text
    assert "no <code>rowferry run</code> is active on here" in fleet
    assert "start it there" in fleet
    assert "1 thing needs you" in fleet
    assert "nobody has to do anything" not in fleet
    run_was_seen(node)
    fleet = anna.get("/").text
    assert "is active on here" not in fleet
    assert "Nothing waits on here, and nobody has to do anything" in fleet


def test_a_choice_says_who_sends_it(node: Served, anna: Person) -> None:
    conflict_of(node)
    done = anna.submit(anna.get("/page/conflicts/ask?id=1&do=resolve&take=theirs"), "Yes, take")
    assert "Done on here: conflict 1 is settled, a&#39;s version stands now." in done.text
    not_yet = "The other nodes don&#39;t have it yet: they get it once a <code>rowferry run</code> is active here."
    assert f'<p class="note warn">{not_yet}</p>' in done.text
    fleet = anna.get("/").text
    assert "no <code>rowferry run</code> is active on here" in fleet
    assert "nobody has to do anything" not in fleet
    run_was_seen(node)
    fleet = anna.get("/").text
    assert "is active on here" not in fleet
    assert "nobody has to do anything" not in fleet, "what waits has stood still since long ago"
    undo = anna.get("/page/conflicts/ask?id=1&do=undo&take=ours")
    assert "Both choices stay in the row's history" in undo.text
    assert "If somebody has written the row since, nothing happens, and you are told." in undo.text
    undone = anna.submit(undo, "Yes, switch to")
    assert "Done on here: conflict 1 is decided the other way, here&#39;s version stands now." in undone.text
    assert "The other nodes get it by themselves." in undone.text
    row = without_terms(anna.get("/page/rows?table=item&key=7").text)
    assert "was not sent to the shared folder yet: the running node does it by itself" in row


def test_undoing_is_refused_once_the_row_was_written(node: Served, anna: Person) -> None:
    """As the question says."""
    conflict_of(node)
    anna.submit(anna.get("/page/conflicts/ask?id=1&do=resolve&take=theirs"), "Yes, take")
    question = anna.get("/page/conflicts/ask?id=1&do=undo&take=ours")
    node.world.execute("UPDATE item SET name = 'later' WHERE id = 7")
    refused = anna.submit(question, "Yes, switch to")
    assert "nothing was done" in refused.text
    assert [row[1] for row in node.world.rows()] == ["later"]
    # Also to who has seen that: it is more than the decision.
    refused = anna.submit(anna.get("/page/conflicts/ask?id=1&do=undo&take=ours"), "Yes, switch to")
    assert refused.status_code == 409
    assert [row[1] for row in node.world.rows()] == ["later"]


def test_what_was_asked_of_one_copy_is_not_done_to_another(node: Served, anna: Person) -> None:
    """The true copy of a damaged letter comes while somebody reads what discarding would do."""
    (tx_id,) = letters_of(node)
    make(node)
    questions = [
        (anna.get(f"/page/dead-letters/{what}", params={"letter": json.dumps(["a", tx_id])}), says)
        for what, says in (("replay", "Yes, replay"), ("discard", "Yes, discard"))
    ]
    with node.world.node.database.engine.begin() as connection:
        connection.execute(rf.dead_letter.update().values(sha256="0" * 64))
    for question, says in questions:
        refused = anna.submit(question, says, reason="not needed")
        assert refused.status_code == 409
        assert "another copy of " in refused.text
        assert "has come; look at it again" in refused.text
    assert node.world.one("SELECT count(*) FROM rf_dead_letter WHERE state = 'dead'") == 1


def test_undoing_twice_is_undoing_once(node: Served, anna: Person) -> None:
    """A double click, or a colleague's stale page."""
    conflict_of(node)
    anna.submit(anna.get("/page/conflicts/ask?id=1&do=resolve&take=theirs"), "Yes, take")
    question = anna.get("/page/conflicts/ask?id=1&do=undo&take=ours")
    told = [anna.submit(question, "Yes, switch to").text for _ in range(2)]
    assert ["Nothing was done" in one for one in told] == [False, True]
    assert anna.get("/page/conflicts/ask?id=1&do=undo&take=ours").status_code == 303
    assert "Nothing was done" in anna.get("/page/conflicts/one?id=1").text
    assert node.world.one("SELECT count(*) FROM rf_audit WHERE action = 'undone'") == 1
    assert [row[1] for row in node.world.rows()] == ["mine"]


@pytest.mark.parametrize(
    ("role", "says"),
    [
        ("hub", "Nodes that get others&#39; changes through here get these too, as a sent them"),
        ("leaf", "here does not hand these rows on: other nodes get them from a, or from a node that hands them on"),
    ],
)
def test_a_replay_says_whether_its_rows_go_on(node: Served, anna: Person, role: str, says: str) -> None:
    assert node.world.node.config.forwards == (role == "hub")
    (tx_id,) = letters_of(node)
    make(node)
    question = anna.get("/page/dead-letters/replay", params={"letter": json.dumps(["a", tx_id])})
    assert says in question.text
    done = anna.submit(question, "Yes, replay")
    assert says in done.text


@pytest.mark.parametrize(
    ("role", "says"),
    [
        ("hub", "was handed on when it arrived, as a sent it, to nodes that get others&#39; changes through here"),
        ("leaf", "here hands on nothing: other nodes get these changes from a, or from a node that does"),
    ],
)
def test_a_discard_says_which_rows_go_and_whether_they_went_on(
    node: Served, anna: Person, role: str, says: str
) -> None:
    node.token("reader", Scope.PULL)
    (tx_id,) = letters_of(node)
    kept = node.world.query("SELECT tx_id FROM rf_relay")
    assert [one for (one,) in kept] == ([tx_id] if role == "hub" else []), "as it says"
    path, query = "/page/dead-letters/discard", {"letter": json.dumps(["a", tx_id])}
    question = anna.get(path, params=query)
    assert says in question.text
    assert "there is no table" in question.text
    assert ">one</span>" in question.text, "what it holds, though no row of it could be written here"
    make(node)
    question = anna.get(path, params=query)
    assert "A replay would apply it now" in question.text
    assert "there is no table" not in question.text
    assert "would be inserted" in question.text
    anna.submit(question, "Yes, discard", reason="a test")
    assert node.world.query("SELECT tx_id FROM rf_relay") == kept, "nothing is taken back"


def test_the_list_tells_what_is_blocked_how_to_mend_it(node: Served, anna: Person) -> None:
    letters_of(node)
    before = anna.get("/page/dead-letters").text
    assert "create or configure the table" in before
    assert "would apply it now" not in before


def test_what_was_mended_before_anybody_looked_can_be_replayed(node: Served, anna: Person) -> None:
    letters_of(node)
    make(node)
    says = "nothing blocks it any more: a replay would apply it now"

    def told() -> str | None:
        # Where the machine is slow the first answer comes without it.
        page = anna.get("/page/dead-letters").text
        return page if says in page else None

    listed = wait_for(told, 60, "the letter was tried")
    assert listed is not None
    assert node.world.rows("fresh") == [], "it was taken back"
    assert "can be replayed" in listed
    assert "create or configure the table" not in listed


def test_a_list_tries_few_letters_and_none_twice_at_once(node: Served) -> None:
    letters_of(node, AT_ONCE + 2)
    now = [100.0]
    prospects = Prospects(node.world.node, lambda: now[0], PATIENCE)
    with reading(node.world.node.database) as connection:
        found = every_letter(connection)
    assert prospects.of(found, by_person=True) == [False] * AT_ONCE + [None] * 2
    make(node)
    assert prospects.of(found, by_person=True) == [False] * AT_ONCE + [True] * 2
    now[0] += PERSONS_SECONDS
    assert prospects.of(found, by_person=False) == [False] * AT_ONCE + [True] * 2, "seen lately"
    assert prospects.of(found, by_person=True)[:AT_ONCE] == [True] * AT_ONCE
    now[0] += KEPT_SECONDS
    assert prospects.of(found[:1], by_person=False) == [True]


def test_what_is_large_is_not_tried_by_a_list(node: Served) -> None:
    tx = Origin("a").tx(*(item(number, "x", 10) for number in range(MOST_CHANGES + 1)))
    push(node, resealed(tx.body, b'"item"', b'"fresh"'))
    make(node)
    with reading(node.world.node.database) as connection:
        found = every_letter(connection)
    assert Prospects(node.world.node, patience_seconds=PATIENCE).of(found, by_person=True) == [None]


@contextmanager
def locked(node: Served) -> Iterator[None]:
    """Somebody else holds what a try needs: on SQLite the whole database, on PostgreSQL the table."""
    connection = node.world.node.database.engine.connect()
    try:
        if connection.dialect.name == "sqlite":
            connection.exec_driver_sql("UPDATE rf_node SET role = role")
        else:
            connection.exec_driver_sql("LOCK TABLE fresh IN ACCESS EXCLUSIVE MODE")
        yield
    finally:
        connection.rollback()
        connection.close()


def test_a_list_waits_for_nobody_who_holds_the_rows(node: Served, anna: Person) -> None:
    (tx_id,) = letters_of(node)
    make(node)
    with locked(node):
        answer = anna.get("/page/dead-letters")
        assert answer.status_code == 200
        assert tx_id in answer.text
        assert "would apply it now" not in answer.text
    wait_for(lambda: "a replay would apply it now" in anna.get("/page/dead-letters").text, 60, "another try")
