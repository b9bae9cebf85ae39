"""The history of a row on the page: one line for a write and all that came of it, in this node's own order."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator
from dataclasses import replace

import pytest

from common.versions import Version
from consumer.audit import APPLIER
from tests.support.applying import DATABASES, Origin, Write, item
from tests.support.fleet_scene import now_us
from tests.support.page import Person, page_node, push, signed_in, without_terms
from tests.support.web import Served

FUTURE = 3 * 10**15


@pytest.fixture(params=DATABASES)
def node(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with page_node(request, tmp_path_factory, exchange=True, tables={"policy": {"item": "manual"}}) as one:
        yield one


@pytest.fixture
def anna(node: Served) -> Iterator[Person]:
    with signed_in(node) as person:
        yield person


def tick(node: Served) -> None:
    """The database tells the real time when something is captured; the node's clock goes on with it."""
    node.world.clock.us = now_us()


def push_now(node: Served, *bodies: bytes, source: str = "a") -> None:
    tick(node)
    push(node, *bodies, source=source)


def own(node: Served, sql: str) -> None:
    """Write as the application does, and seal it."""
    node.world.execute(sql)
    node.world.node.database.sealer(node.world.node.facts).seal()


def lines(anna: Person, key: str, table: str = "item") -> list[str]:
    """The lines as they are read, without what is folded away and without instants and ages."""
    answer = anna.get("/page/rows", params={"table": table, "key": key})
    assert answer.status_code == 200, answer.text
    story = re.sub(r"(?s)<details>.*?</details>", "", answer.text[answer.text.index('<ol class="story"') :])
    found = []
    for part in re.split(r"<li class=", story[: story.index("</ol>")])[1:]:
        text = html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]*>", "", part.partition(">")[2]))).strip()
        found.append(re.sub(r" *\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \([^)]*\)", " WHEN", text))
    return found


def test_a_conflict_and_who_decided_it_is_three_lines(node: Served, anna: Person) -> None:
    own(node, "INSERT INTO item VALUES (7, 'mine', 1)")
    push_now(node, Origin("a").put(7, "theirs", FUTURE).body)
    came, written = lines(anna, "7")
    assert came.startswith(
        "a inserted it: met here's write, and waits for a choice WHEN, written WHEN by its own clock"
    )
    assert "name: theirs" in came
    assert written.startswith("here inserted it: not sent yet to the shared folder WHEN")
    assert "by its own clock" not in written, "it is this node's clock"
    tick(node)
    anna.submit(anna.get("/page/conflicts/ask?id=1&do=resolve&take=theirs"), "Yes, take")
    chosen, came, written = lines(anna, "7")
    assert chosen.startswith("anna took a's version (conflict 1): not sent yet to the shared folder WHEN")
    assert "name: mine → theirs" in chosen
    whole = anna.get("/page/rows", params={"table": "item", "key": "7"}).text
    steps = whole[whole.index("took a&#39;s version") :].partition("</details>")[0]
    assert "written by the application" not in steps
    assert came.startswith(
        "a inserted it: met here's write, and waited for a choice; settled by anna: a's version stands, WHEN WHEN"
    )
    assert written.startswith("here inserted it:")


def test_a_choice_that_leaves_the_row_shows_no_values(node: Served, anna: Person) -> None:
    own(node, "INSERT INTO item VALUES (7, 'mine', 1)")
    push_now(node, Origin("a").put(7, "theirs", FUTURE).body)
    tick(node)
    question = anna.get("/page/conflicts/ask?id=1&do=resolve&take=ours")
    assert 'class="changed"' not in question.text, "nothing changes here"
    assert "here it stays as it is, on the other nodes once it has been sent there" in question.text
    assert 'class="changed"' in anna.get("/page/conflicts/ask?id=1&do=resolve&take=theirs").text
    anna.submit(question, "Yes, keep")
    chosen, _, _ = lines(anna, "7")
    assert chosen.startswith("anna kept here's version (conflict 1): the row was left as it was; not sent yet")
    assert "name:" not in chosen
    assert "→" not in chosen
    tick(node)
    undo = anna.get("/page/conflicts/ask?id=1&do=undo&take=theirs")
    assert 'class="changed"' in undo.text
    anna.submit(undo, "Yes, switch")
    switched, *_ = lines(anna, "7")
    assert "name: mine → theirs" in switched


def test_lines_stand_in_the_order_in_which_this_node_learned_of_them(node: Served, anna: Person) -> None:
    """Whatever the clocks of the others say: `a` writes with one that is far ahead, and one that is far behind."""
    push_now(node, Origin("a").put(1, "ahead", FUTURE).body)
    push_now(node, Origin("b").tx(item(1, "behind", 10)).body, source="b")
    page = anna.get("/page/rows", params={"table": "item", "key": "1"}).text
    assert "Times are by the clock of here: when it wrote it, or learned of it." in page
    later, *_ = lines(anna, "1")
    assert later.startswith("b inserted it"), "it came in later, though it was written long before"


@pytest.mark.parametrize(("hlc", "came"), [(FUTURE, "won against here's write"), (10, "lost against here's write")])
def test_who_won_and_by_which_rule_is_one_line(node: Served, anna: Person, hlc: int, came: str) -> None:
    own(node, "INSERT INTO parent VALUES (1, 'mine')")
    push_now(node, Origin("a").tx(Write("I", "parent", {"id": 1, "name": "theirs"}, hlc)).body)
    found = lines(anna, "1", "parent")
    (line,) = [one for one in found if one.startswith("a ")]
    assert f"{came}: the later write wins (lww)" in line
    assert len(found) == 2


def test_a_dead_letter_and_who_replayed_it_is_one_line(node: Served, anna: Person) -> None:
    tx = Origin("a").tx(Write("I", "child", {"id": 5, "parent_id": 1}, 10))
    push_now(node, tx.body)
    (waits,) = lines(anna, "5", "child")
    assert waits.startswith("a inserted it: is a dead letter: ")
    node.world.execute("INSERT INTO parent VALUES (1, 'here')")
    question = anna.get("/page/dead-letters/replay", params={"letter": json.dumps(["a", tx.tx_id])})
    anna.submit(question, "Yes, replay")
    (line,) = lines(anna, "5", "child")
    assert line.startswith("a inserted it: was a dead letter: ")
    assert "; replayed by anna" in line
    assert line.endswith("the dead letter")


def test_who_discarded_what_and_why_is_told(node: Served, anna: Person) -> None:
    tx = Origin("a").tx(Write("I", "child", {"id": 5, "parent_id": 1}, 10))
    push_now(node, tx.body)
    question = anna.get("/page/dead-letters/discard", params={"letter": json.dumps(["a", tx.tx_id])})
    anna.submit(question, "Yes, discard", reason="a test of theirs")
    (line,) = lines(anna, "5", "child")
    assert "; discarded by anna (a test of theirs)" in line


def test_what_is_not_stored_yet_and_what_nobody_noted_is_said(node: Served, anna: Person) -> None:
    node.world.execute("INSERT INTO item VALUES (2, 'new', 1)")
    (line,) = lines(anna, "2")
    assert line.startswith("here wrote it: insert: not stored in the log yet")
    a = Origin("a")
    push_now(node, a.put(3, "one", 10).body, a.put(3, "two", 20, base=Version(0, 10, "a"), op="U").body)
    latest, _ = lines(anna, "3")
    assert latest.startswith("a wrote it: applied here")
    assert "when it arrived here is not recorded" in latest
    whole = anna.get("/page/rows", params={"table": "item", "key": "3"}).text
    assert "<summary>Step by step</summary>" in whole


def test_what_another_node_chose_names_the_conflict_and_the_choice(node: Served, anna: Person) -> None:
    """Once in the audit, with links, as this node's own choices do; and nobody of this node is said to have made it."""
    push_now(node, Origin("a").put(7, "of a", 10).body)
    push_now(node, Origin("b").put(7, "of b", 20).body, source="b")
    choice = Write("U", "item", {"id": 7, "name": "of b", "price": "1.50"}, 30, Version(0, 20, "b"))
    named = replace(choice, resolves=(Version(0, 10, "a"), Version(0, 20, "b")))
    push_now(node, Origin("c").tx(named).body, source="c")
    page = without_terms(anna.get("/page/audit", params={"action": "resolved"}).text)
    assert "settled a conflict: b&#39;s version stands" in page
    assert '<a href="/page/conflicts/one?id=1">conflict 1</a>' in page
    assert '<a href="/page/rows?table=item&amp;key=7">row item 7</a>' in page
    answer = anna.get("/page/audit/file", params={"kind": "csv", "action": "resolved"})
    assert "conflict 1, item 7" in answer.text
    chosen, *_ = lines(anna, "7")
    assert chosen.startswith("c made a choice")


def test_a_choice_of_this_node_that_comes_back_is_told_without_who_made_it(node: Served, anna: Person) -> None:
    """As after it was put back: the audit line is the applier's then, and no person of this node is in it."""
    own(node, "INSERT INTO item VALUES (7, 'mine', 1)")
    push_now(node, Origin("a").put(7, "theirs", FUTURE).body)
    tick(node)
    anna.submit(anna.get("/page/conflicts/ask?id=1&do=resolve&take=theirs"), "Yes, take")
    assert lines(anna, "7")[0].startswith("anna took a's version")
    node.world.execute(f"UPDATE rf_audit SET actor = '{APPLIER}' WHERE action = 'resolved'")
    assert lines(anna, "7")[0].startswith("here made a choice")
