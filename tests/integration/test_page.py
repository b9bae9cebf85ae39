"""What the operations page shows and does, on both databases: the same as the commands, with one question before."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace

import pytest

from common.http.scopes import Scope
from common.versions import Version
from common.web.page.words import coded
from tests.support.applying import DATABASES, Origin, Write, item, resealed
from tests.support.page import Person, page_node, push, signed_in, without_terms
from tests.support.web import Served

FUTURE = 3 * 10**15
HOSTILE = "<script>alert('x')</script>\"'&amp;"


@pytest.fixture(params=DATABASES)
def node(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with page_node(request, tmp_path_factory, tables={"policy": {"item": "manual", "code": "manual"}}) as one:
        yield one


@pytest.fixture
def anna(node: Served) -> Iterator[Person]:
    with signed_in(node) as person:
        yield person


def letter_of(node: Served, table: str = "fresh") -> str:
    """Push a tx for a table that is not here; return its id."""
    tx = Origin("a").put(1, "one", 10)
    push(node, resealed(tx.body, b'"item"', json.dumps(table).encode()))
    return tx.tx_id


def make(node: Served, table: str = "fresh") -> None:
    node.world.execute(f"CREATE TABLE {table} (id INTEGER PRIMARY KEY, name TEXT, price NUMERIC(10,2))")


def link(page: str, text: str) -> str:
    found = re.search(rf'href="([^"]+)"[^>]*>(?:<code>)?{re.escape(text)}', page)
    assert found is not None, f"no link {text!r}"
    return found[1].replace("&amp;", "&")


def test_what_is_a_command_in_a_sentence_is_shown_as_one_and_all_of_it_escaped(node: Served, anna: Person) -> None:
    assert coded("run `rowferry <x>` & wait, `a") == "run <code>rowferry &lt;x&gt;</code> &amp; wait, `a"
    shown = anna.get("/page/rows", params={"table": "nowhere", "key": "1"}).text
    assert "<code>rowferry migrate</code> lists those that are" in shown
    letter_of(node, "`<b>bold</b>`")
    listed = anna.get("/page/dead-letters").text
    assert "<b>bold" not in listed
    assert "&lt;b&gt;bold" in listed


def test_an_id_that_several_sources_have_leads_to_all_of_their_letters(node: Served, anna: Person) -> None:
    pair = {name: Origin(name).put(1, name, 10) for name in ("ab", "ba")}
    with node.client(node.token("hub", Scope.FORWARD)) as client:
        body = b"".join(resealed(tx.body, b'"item"', b'"fresh"') for tx in pair.values())
        assert client.post("/sync/push", content=body).status_code == 200
    (tx_id,) = {tx.tx_id for tx in pair.values()}
    answer = anna.get("/page/dead-letters/one", params={"tx": tx_id})
    assert (answer.status_code, answer.headers["location"]) == (303, f"/page/dead-letters?tx={tx_id}")
    shown = anna.get(answer.headers["location"]).text
    for name in pair:
        assert f"/page/dead-letters/one?source={name}&amp;tx={tx_id}" in shown


def test_a_dead_letter_is_found_looked_at_and_replayed(node: Served, anna: Person) -> None:
    tx_id = letter_of(node)
    fleet = anna.get("/").text
    assert "1 transaction of it could not be applied here" in fleet
    assert "unknown-table (1)" in fleet
    listed = anna.get("/page/dead-letters", params={"source": "a", "reason": "unknown-table"})
    assert tx_id in listed.text
    assert tx_id not in anna.get("/page/dead-letters?reason=type").text
    assert tx_id not in anna.get("/page/dead-letters?table=item").text
    letter = anna.get(link(listed.text, tx_id))
    assert "would fail again for the same reason, and change no row" in letter.text
    assert "create or configure the table" in letter.text
    assert "<dd>over HTTP from a</dd>" in letter.text, "which way it came"
    assert ">one</span>" in letter.text, "what it holds is shown though the table is not here"
    make(node)
    free = without_terms(anna.get(str(letter.url)).text)
    assert "would apply it: 1 of 1 change would be written" in free
    assert "table fresh is new here and not captured yet: on this node run <code>rowferry migrate</code>" in free
    assert "can be replayed" in free
    assert "create or configure the table" not in free, "nothing has to be done any more"
    question = anna.submit(letter, "Replay…")
    assert "would be applied" in question.text
    assert "would be inserted" in question.text
    assert node.world.rows("fresh") == []
    done = anna.submit(question, "Yes, replay")
    assert f"{tx_id} of a was applied: 1 of 1 change was written." in done.text
    assert link(done.text, "fresh 1") == "/page/rows?table=fresh&key=1"
    assert tx_id in anna.get(link(done.text, "Show it")).text
    assert str(done.url).endswith("?source=a&reason=unknown-table"), "as it was filtered"
    assert "No such dead letters." in done.text
    replayed = anna.get(link(done.text, "Those that were replayed")).text
    assert tx_id in replayed
    assert "nothing of it is in the tables" not in replayed
    assert "Replay the chosen" not in replayed
    settled = anna.get(link(replayed, tx_id)).text
    assert "What a replay would do now" not in settled
    assert len(node.world.rows("fresh")) == 1
    assert tx_id not in anna.get("/page/dead-letters").text.split("</div>")[-1]
    again = anna.submit(question, "Yes, replay")
    assert "settled already" in again.text
    (actor,) = node.world.query("SELECT actor FROM rf_audit WHERE action = 'replayed'")[0]
    assert actor.startswith("anna by token")
    audited = anna.get("/page/audit", params={"action": "replayed", "actor": "Anna"}).text
    assert "replayed a dead letter</strong>" in audited
    assert "replayed a dead letter</strong>" not in anna.get("/page/audit?actor=ann").text
    by_itself = anna.get("/page/audit", params={"actor": "Rowferry by itself"}).text
    assert "made a dead letter of a transaction</strong>" in by_itself
    assert "replayed a dead letter</strong>" not in by_itself
    assert anna.get(link(audited, "the dead letter")).status_code == 200


def test_a_row_with_more_columns_than_any_database_has_is_shown_in_part(node: Served, anna: Person) -> None:
    row = {"id": 1} | {f"c{number}": "x" for number in range(9_999)}
    tx = Origin("a").tx(Write("I", "nowhere", row, 20))
    push(node, tx.body)
    letter = anna.get("/page/dead-letters/one", params={"source": "a", "tx": tx.tx_id})
    assert "9,800 more columns" in letter.text
    whole = anna.get("/page/dead-letters/one", params={"source": "a", "tx": tx.tx_id, "whole": "1"})
    assert "8,000 more columns" in whole.text


def test_many_letters_are_replayed_at_once(node: Served, anna: Person) -> None:
    origin = Origin("a")
    txs = [origin.put(number, "many", 10) for number in range(1, 4)]
    push(node, *(resealed(tx.body, b'"item"', b'"fresh"') for tx in txs))
    make(node)
    listed = anna.get("/page/dead-letters")
    names = [json.dumps(["a", tx.tx_id]) for tx in txs]
    question = anna.submit(listed, "Replay the chosen", letter=names)
    assert question.text.count("would be applied") == 3
    done = anna.submit(question, "Yes, replay")
    assert done.text.count("was applied: 1 of 1") == 3
    assert len(node.world.rows("fresh")) == 3


def test_a_replay_that_fails_again_says_why(node: Served, anna: Person) -> None:
    tx_id = letter_of(node)
    question = anna.get("/page/dead-letters/replay", params={"letter": json.dumps(["a", tx_id])})
    assert "would fail again" in question.text
    assert "Replaying now would change no row." in question.text
    assert "create or configure the table" in question.text
    assert question.text.count("there is no table") == 1
    assert '<button class="main">' not in question.text
    assert "Yes, replay" not in question.text
    done = anna.submit(question, "Try it anyway")
    assert f"{tx_id} of a could still not be applied (unknown-table)" in done.text
    page = anna.get("/page/audit?actor=anna&action=replay-failed").text
    assert "tried a replay, which failed again</strong>" in page
    assert "there is no table" in page
    made = "made a dead letter of a transaction</strong>"
    assert made not in anna.get("/page/audit?actor=anna").text
    assert made in anna.get("/page/audit?action=set-aside").text
    assert "failed again" not in anna.get("/page/audit?action=set-aside").text.split("</form>")[-1]
    saved = anna.get("/page/audit/file?kind=csv&actor=anna").text
    assert ',anna,"tried a replay, which failed again",' in saved
    assert "made a dead letter" not in saved


def test_discarding_needs_a_reason_and_is_audited(node: Served, anna: Person) -> None:
    tx_id = letter_of(node)
    question = anna.get("/page/dead-letters/discard", params={"letter": json.dumps(["a", tx_id])})
    assert "stay missing on this node" in question.text
    assert anna.submit(question, "Yes, discard", reason="  ").status_code == 422
    assert anna.submit(question, "Yes, discard", reason="x" * 1_001).status_code == 422
    assert node.world.letters()[0][2] == "dead"
    done = anna.submit(question, "Yes, discard", reason=f"test data {HOSTILE}")
    assert f"{tx_id} of a was discarded" in done.text
    assert tx_id in anna.get(link(done.text, "Those that were discarded")).text
    assert "<script>alert" not in done.text
    assert node.world.letters()[0][2] == "discarded"
    assert "test data" in anna.get(f"/page/dead-letters?tx={tx_id}").text
    assert "settled already" in anna.submit(question, "Yes, discard", reason="again").text
    (row,) = node.world.query("SELECT actor, detail FROM rf_audit WHERE action = 'discarded'")
    assert row[0].startswith("anna by token")
    assert "test data" in row[1]


def test_nothing_chosen_does_nothing(node: Served, anna: Person) -> None:
    letter_of(node)
    for what in ("replay", "discard"):
        answer = anna.client.get(f"/page/dead-letters/{what}", follow_redirects=True)
        assert "choose at least one" in answer.text
    deep = "[" * 5_000
    for wrong in ("nonsense", "[]", "[1, 2]", '["a"]', "{}", '["\\ud800", "x"]', '["\\u0000", "x"]', '["", ""]', deep):
        assert anna.get("/page/dead-letters/replay", params={"letter": wrong}).status_code == 422, wrong
    assert anna.get("/page/dead-letters/replay", params={"letter": '["a","x"]'}).status_code == 404
    assert anna.get("/page/dead-letters/replay", params={"letter": ["x"] * 51}).status_code == 422
    assert anna.get("/page/dead-letters?state=none").status_code == 422
    assert anna.get("/page/dead-letters?skip=-1").status_code == 422
    assert anna.get("/page/dead-letters/one?tx=none").status_code == 404


def test_from_a_letter_and_its_questions_back_to_the_list_as_it_was_filtered(node: Served, anna: Person) -> None:
    tx_id = letter_of(node)
    there = "/page/dead-letters?source=a&reason=unknown-table"
    listed = anna.get(there)
    letter = anna.get(link(listed.text, tx_id))
    assert link(letter.text, "Back to the dead letters") == there
    for button, yes in (("Replay…", "Try it anyway"), ("Discard…", "Yes, discard for good")):
        question = anna.submit(letter, button)
        if button == "Discard…":
            question = anna.get(str(question.url).replace("/replay", "/discard"))
        again = anna.get(link(question.text, "No, leave it"))
        assert link(again.text, "Back to the dead letters") == there
        assert str(anna.submit(question, yes, reason="test").url).endswith(there)
    # Whoever makes up an address gets nobody anywhere else.
    for wrong in ("//evil.example", "https://evil.example", "evil=1&next=//x", "&" * 1_000, "x" * 5_000, "state=no%00"):
        made = anna.get("/page/dead-letters/one", params={"source": "a", "tx": tx_id, "back": wrong})
        assert made.status_code == 200
        assert link(made.text, "Back to the dead letters").partition("?")[0] == "/page/dead-letters"
        assert "evil" not in made.text


def test_from_a_conflict_and_its_questions_back_to_the_list_as_it_was_filtered(node: Served, anna: Person) -> None:
    conflict_of(node)
    there = "/page/conflicts?table=item&state=any"
    conflict = anna.get(link(anna.get(there).text, "Conflict 1"))
    assert link(conflict.text, "Back to the conflicts") == there
    question = anna.submit(conflict, "Keep", take="ours")
    assert link(anna.get(link(question.text, "No, leave it")).text, "Back to the conflicts") == there
    done = anna.submit(question, "Yes, keep")
    assert link(done.text, "Back to the conflicts") == there
    assert link(anna.submit(question, "Yes, keep").text, "Back to the conflicts") == there, "settled already"
    undone = anna.submit(anna.submit(done, "Undo: switch to", take="theirs"), "Yes, switch to")
    assert link(undone.text, "Back to the conflicts") == there
    assert link(anna.get("/page/conflicts/one?id=1").text, "Back to the conflicts") == "/page/conflicts"


def conflict_of(node: Served, name: str = "theirs") -> None:
    node.world.execute("INSERT INTO item VALUES (7, 'mine', 1)")
    push(node, Origin("a").put(7, name, FUTURE).body)


def test_a_conflict_is_settled_and_undone(node: Served, anna: Person) -> None:
    conflict_of(node)
    fleet = anna.get("/").text
    assert "1 conflict with it waits for a choice" in fleet
    listed = anna.get("/page/conflicts")
    sides = anna.get(link(listed.text, "Conflict 1"))
    assert "a&#39;s version, written 2065-01-24" in sides.text
    assert "here&#39;s version, written " in sides.text
    assert "mine" in sides.text
    assert "theirs" in sides.text
    question = anna.get("/page/conflicts/ask?id=1&do=resolve&take=theirs")
    assert "Nothing has changed yet" in question.text
    assert [row[1] for row in node.world.rows()] == ["mine"]
    done = anna.submit(question, "Yes, take a's version")
    assert "Done on here: conflict 1 is settled, a&#39;s version stands now." in done.text
    assert "This node sends nothing by itself: others fetch it over HTTP" in done.text
    assert "anna chose it" in done.text
    assert [row[1] for row in node.world.rows()] == ["theirs"]
    assert "No conflict waits" in anna.get("/page/conflicts").text
    assert "Conflict 1" in anna.get("/page/conflicts?state=settled").text
    late = anna.submit(question, "Yes, take a's version")
    assert "Nothing was done: conflict 1 is settled already. anna settled it, " in late.text
    assert "conflicts undo" not in late.text, "what is told is no command"
    assert str(late.url).endswith("/page/conflicts/one?id=1")
    assert "is settled already" in anna.client.get(str(question.url), follow_redirects=True).text
    undo = anna.get("/page/conflicts/ask?id=1&do=undo&take=ours")
    undone = anna.submit(undo, "Yes, switch to")
    assert "Done on here: conflict 1 is decided the other way, here&#39;s version stands now." in undone.text
    audit = anna.get("/page/audit").text
    assert "decided a conflict the other way: here&#39;s version stands" in audit
    assert link(audit, "conflict 1") == "/page/conflicts/one?id=1"
    assert link(audit, "row item 7") == "/page/rows?table=item&key=7"
    assert [row[1] for row in node.world.rows()] == ["mine"]
    actors = node.world.query("SELECT action, actor FROM rf_audit WHERE action IN ('resolved', 'undone') ORDER BY id")
    assert [action for action, _ in actors] == ["resolved", "undone"]
    assert all(actor.startswith("anna by token") for _, actor in actors)


def test_who_chose_and_what_it_changed_stands_in_the_rows_history(node: Served, anna: Person) -> None:
    conflict_of(node)
    anna.submit(anna.get("/page/conflicts/ask?id=1&do=resolve&take=theirs"), "Yes, take")
    page = anna.get("/page/rows?table=item&key=7").text
    assert "anna took a&#39;s version (conflict 1)" in page
    assert "name: <del>mine</del> → <ins>theirs</ins>" in page
    assert "a conflict was settled" not in page, "it is told once"
    anna.submit(anna.get("/page/conflicts/ask?id=1&do=undo&take=ours"), "Yes, switch")
    page = anna.get("/page/rows?table=item&key=7").text
    assert "anna decided it the other way: here&#39;s version stands (conflict 1)" in page
    assert "name: <del>theirs</del> → <ins>mine</ins>" in page
    assert link(page, "conflict 1") == "/page/conflicts/one?id=1"
    assert "LSN" not in re.sub(r"(?s)<details>.*?</details>|<section.*?</section>", "", page)


def test_what_came_first_is_seen_by_eye_and_the_zone_stands_once_a_page(node: Served, anna: Person) -> None:
    """To the second; of two writes within one second to the millisecond."""
    first_us = 1_799_999_990_250_000
    push(node, Origin("a").tx(item(7, "a", first_us), item(8, "a", first_us)).body)
    push(node, Origin("b").tx(item(7, "b", first_us + 7_000_000), item(8, "b", first_us + 600_000)).body, source="b")
    clock = r"written \d{4}-\d\d-\d\d (\d\d:\d\d:\d\d(?:\.\d+)?) \("
    pages = [anna.get(f"/page/conflicts/one?id={number}").text for number in (1, 2)]
    far, close = (re.findall(clock, page) for page in pages)
    assert (far, close) == (["07:59:50", "07:59:57"], ["07:59:50.250", "07:59:50.850"])
    for path in ("/", "/page/conflicts", "/page/conflicts/one?id=1", "/page/audit", "/page/rows?table=item&key=7"):
        text = re.sub(r"<label[^>]*>[^<]*</label>|<[^>]*>", "", anna.get(path).text)
        assert text.count("UTC") == 1, path
    assert not re.search(r" \d\d:\d\d \(", anna.get("/page/conflicts?state=any").text), "no time without its seconds"


def test_one_number_is_spelled_in_one_way_and_is_no_difference(node: Served, anna: Person) -> None:
    """SQLite gives 1.5 for what PostgreSQL and the wire have as 1.50."""
    node.world.execute("INSERT INTO item VALUES (7, '1.5', 1.5), (8, '1.5', 1.5)")
    node.world.node.database.sealer(node.world.node.facts).seal()
    long = Write("I", "item", {"id": 7, "name": "1.50", "price": "1.50"}, FUTURE)
    short = Write("I", "item", {"id": 8, "name": "1.50", "price": "1.5"}, FUTURE + 1)
    push(node, Origin("a").tx(long, short).body)
    own = "1.5" if node.world.node.database.engine.dialect.name == "sqlite" else "1.50"
    for number, key, price in ((1, "7", "1.50"), (2, "8", own)):
        page = anna.get(f"/page/conflicts/one?id={number}")
        numbers, texts = (cells_of(page.text, name) for name in ("price", "name"))
        assert re.findall(r'class="value">([^<]*)<', numbers) == [price, price]
        assert "changed" not in numbers
        assert re.findall(r'class="value">([^<]*)<', texts) == ["1.5", "1.50"], "of text each spelling is another value"
        assert texts.count("changed") == 2
        row = anna.get(f"/page/rows?table=item&key={key}").text
        assert {*re.findall(r">price</dt><dd><span[^>]*>([^<]*)<", row), *re.findall(r"price: <ins>([^<]*)<", row)} == {
            price
        }
        anna.submit(anna.submit(page, "Take a's version", take="theirs"), "Yes, take a's version")
        row = anna.get(f"/page/rows?table=item&key={key}").text
        assert "name: <del>1.5</del> → <ins>1.50</ins>" in row
        assert "price: <del>" not in row, "the number is the same"


def cells_of(page: str, name: str) -> str:
    """The cells beside the name of a column."""
    found = re.search(rf'<th scope="row">{name}</th>(.*?)</tr>', page, re.DOTALL)
    assert found is not None
    return found[1]


def test_a_choice_is_made_on_what_was_shown(node: Served, anna: Person) -> None:
    """Somebody writes the row between the question and the answer: nothing is done, and the row is shown as it is."""
    conflict_of(node)
    question = anna.submit(anna.get("/page/conflicts/one?id=1"), "Take a's version", take="theirs")
    node.world.execute("UPDATE item SET name = 'later' WHERE id = 7")
    refused = anna.submit(question, "Yes, take a's version")
    assert "nothing was done" in refused.text
    assert "name: &#34;mine&#34;, now &#34;later&#34;" in refused.text
    assert "later" in cells_of(refused.text, "name")
    assert [row[1] for row in node.world.rows()] == ["later"]
    done = anna.submit(anna.submit(refused, "Take a's version", take="theirs"), "Yes, take a's version")
    assert "conflict 1 is settled" in done.text
    assert [row[1] for row in node.world.rows()] == ["theirs"]


def test_undoing_is_done_on_what_was_shown(node: Served, anna: Person) -> None:
    """Another node gave a row of its own in the place of both, between the question and the answer."""
    conflict_of(node)
    anna.submit(anna.get("/page/conflicts/ask?id=1&do=resolve&take=theirs"), "Yes, take")
    question = anna.get("/page/conflicts/ask?id=1&do=undo&take=ours")
    with node.client(node.token("desk", Scope.OPS)) as ops:
        shown = ops.get("/conflicts/1").json()
    both = Version(*shown["our_version"]), Version(*shown["their_version"])
    choice = Write(
        "U", "item", {"id": 7, "name": "of c", "price": None}, FUTURE + 10**9, Version(*shown["row_version"])
    )
    push(node, Origin("c").tx(replace(choice, resolves=both)).body, source="c")
    refused = anna.submit(question, "Yes, switch to")
    assert "nothing was done: item" in refused.text
    assert "was written again by c since conflict 1 was shown (name: &#34;mine&#34;, now &#34;of c&#34;" in refused.text
    assert "look at it again" not in refused.text, "it is what is shown"
    assert [row[1] for row in node.world.rows()] == ["of c"]
    done = anna.submit(anna.submit(refused, "Undo: switch to", take="ours"), "Yes, switch to")
    assert "conflict 1 is decided the other way" in done.text
    assert [row[1] for row in node.world.rows()] == ["mine"]
    for seen in ({}, {"seen": "[0]"}):
        fields = {"csrf": anna.csrf(), "id": "1", "take": "theirs", **seen}
        assert anna.send("/page/conflicts/undo", fields).status_code == 422


def test_what_was_written_into_the_row_that_waits_for_another_is_shown_before_it_is_given_up(
    node: Served, anna: Person
) -> None:
    """The question had the row that has the unique value beside what waits; the latter's own row was written here."""
    writes = [Write("I", "code", {"id": key, "code": text}, 10 + key) for key, text in ((1, "X"), (2, "Y"))]
    push(node, Origin("a").tx(*writes).body)
    came = Write("U", "code", {"id": 2, "code": "X"}, 20, Version(0, 12, "a"))
    push(node, Origin("b").tx(came).body, source="b")
    question = anna.submit(anna.get("/page/conflicts/one?id=1"), "Take b's version", take="theirs")
    node.world.execute("UPDATE code SET code = 'W' WHERE id = 2")
    refused = anna.submit(question, "Yes, take b's version")
    assert "nothing was done" in refused.text
    assert "code: &#34;X&#34;, now &#34;W&#34;" in refused.text
    assert re.findall(r'class="value">([^<]*)<', cells_of(refused.text, "code")) == ["W", "X"]
    assert node.world.rows("code") == [(1, "X"), (2, "W")]
    done = anna.submit(anna.submit(refused, "Keep here's version", take="ours"), "Yes, keep here's version")
    assert "conflict 1 is settled" in done.text
    assert node.world.rows("code") == [(1, "X"), (2, "W")]


@pytest.mark.parametrize("query", ["id=0", "id=x", "id=99999999999999999999", "id=5", ""])
def test_a_conflict_that_there_is_not_is_not_found(anna: Person, query: str) -> None:
    assert anna.get(f"/page/conflicts/one?{query}").status_code == 404


def test_wrong_words_of_a_conflict_are_refused(node: Served, anna: Person) -> None:
    conflict_of(node)
    assert anna.get("/page/conflicts/ask?id=1&do=drop&take=ours").status_code == 422
    assert anna.get("/page/conflicts/ask?id=1&do=resolve&take=neither").status_code == 422
    assert anna.get("/page/conflicts?state=odd").status_code == 422
    for number in ("9" * 5_000, "-1", "1.0", "٣"):
        fields = {"csrf": anna.csrf(), "id": number, "take": "ours", "seen": '[0,1,"a"]'}
        assert anna.send("/page/conflicts/resolve", fields).status_code == 404
    seen = '[0,1,"a"]'
    for fields in (
        {"id": "1", "seen": seen},
        {"id": "1", "take": "neither", "seen": seen},
        {"id": "1", "take": ["ours", "ours"], "seen": seen},
        {"id": "1", "take": "ours"},
        {"id": "1", "take": "ours", "seen": "[0]"},
    ):
        answer = anna.send("/page/conflicts/resolve", {"csrf": anna.csrf(), **fields})
        assert answer.status_code == 422
    assert [row[1] for row in node.world.rows()] == ["mine"]


def test_what_came_in_and_waits_or_lost_is_told_with_its_values(node: Served, anna: Person) -> None:
    node.world.execute("INSERT INTO item VALUES (1, 'mine', 1.5)")
    node.world.node.database.sealer(node.world.node.facts).seal()
    push(node, Origin("a").put(1, "theirs", 10).body)
    page = anna.get("/page/rows", params={"table": "item", "key": "1"}).text
    (waits,) = [one for one in page.split("<li ") if "and waits for a choice" in one]
    assert "<ins>theirs</ins>" in waits
    assert "<ins>mine</ins>" not in waits


def test_a_rows_history_is_told(node: Served, anna: Person) -> None:
    a = Origin("a")
    push(node, a.put(1, "one", 10).body, a.put(1, "two", 20, base=Version(0, 10, "a"), op="U").body)
    page = anna.get("/page/rows", params={"table": "item", "key": "1"})
    assert "is as it was written by a" in page.text
    assert "applied here" in page.text
    assert "<dd>" in page.text
    for hostile in (
        '{"id": "\\u0000"}',
        '{"id": "\\ud800"}',
        '{"id": {}}',
        "9" * 190,
        "{",
        '{"id": 1e400}',
    ):
        assert anna.get("/page/rows", params={"table": "item", "key": hostile}).status_code == 422, hostile
    for query in ({"table": "item", "key": "none"}, {"table": "nowhere", "key": "1"}):
        wrong = anna.get("/page/rows", params=query)
        assert wrong.status_code == 422
        assert 'role="alert"' in wrong.text
        assert f'value="{query["key"]}"' in wrong.text, "what was typed stays"
    assert "Nothing is known" in anna.get("/page/rows", params={"table": "item", "key": "99"}).text


def test_whatever_stands_in_the_database_is_no_markup(node: Served, anna: Person) -> None:
    a = Origin("a")
    push(node, resealed(a.put(1, HOSTILE, 10).body, b'"item"', json.dumps(HOSTILE).encode()))
    node.world.execute("INSERT INTO item VALUES (7, 'mine', 1)")
    push(node, a.tx(item(7, HOSTILE, FUTURE)).body)
    database = node.world.node.database.engine
    with database.begin() as connection:
        connection.exec_driver_sql(
            "UPDATE rf_dead_letter SET tx_id = '<script>1', source_node = '<script>2', "
            "table_name = '<script>4', error = '<script>5', origin = '<script>6'"
        )
        connection.exec_driver_sql(
            "UPDATE rf_conflict SET table_name = '<script>7', source_node = '<script>8', rule = '<script>9', "
            "kind = '<script>10', pk = '<script>11', our_version = '[0,1,\"<script>12\"]'"
        )
        connection.exec_driver_sql(
            "INSERT INTO rf_audit (at_us, actor, action, source_node, tx_id, detail) "
            "VALUES (1, '<script>13', '<script>14', '<script>15', '<script>16', '{\"<script>17\": \"<script>18\"}')"
        )
        connection.exec_driver_sql(
            "INSERT INTO rf_node (node_id, role, incarnation, is_self, first_seen_us, last_seen_us, heard_us, "
            "heartbeat_us, every_us, head_incarnation, head_lsn, clock_us, clock_steady, release, schema_sha256, "
            "policies_sha256) "
            "VALUES ('<script>19', '<script>20', 'x', FALSE, 1, 1, 1, 1, 1, '<script>21', 5, 0, FALSE, "
            "'<script>22', '', '')"
        )
        connection.exec_driver_sql(
            "INSERT INTO rf_paused (table_name, since_us, paused_by) VALUES ('<script>23', 1, '<script>24')"
        )
    seen = ""
    name = json.dumps(["<script>2", "<script>1"])
    paths = (
        "/",
        "/page/nodes/one?id=<script>19",
        "/page/dead-letters",
        "/page/dead-letters/one?source=<script>2&tx=<script>1",
        "/page/dead-letters/one?source=<script>2&tx=<script>1&whole=1",
        f"/page/dead-letters/replay?letter={name}",
        f"/page/dead-letters/discard?letter={name}",
        "/page/dead-letters?source=<script>&table=<script>&tx=<script>",
        "/page/conflicts",
        "/page/conflicts?table=<script>&source=<script>",
        "/page/conflicts/one?id=1",
        "/page/conflicts/ask?id=1&do=resolve&take=theirs",
        "/page/conflicts/ask?id=1&do=resolve&take=ours",
        "/page/audit",
        "/page/audit?actor=<script>",
        "/page/rows?table=<script>&key=<script>",
        "/page/rows?table=item&key=7",
    )
    settled = ("/page/conflicts?state=settled", "/page/conflicts/one?id=1")
    for path in (*paths, "settle", *settled):
        if path == "settle":
            with database.begin() as connection:
                connection.exec_driver_sql("UPDATE rf_conflict SET state = 'settled', settled_by = '<script>25'")
            continue
        answer = anna.get(path)
        assert answer.headers["content-type"].startswith("text/html"), path
        assert answer.status_code in (200, 422), (path, answer.text)
        body = re.sub(r'<script src="/page/static/[a-z.]+\?v=[0-9a-f]+" defer></script>', "", answer.text)
        assert "<script" not in body, path
        seen += body
    for number in (1, 2, *range(4, 20), 22, 23, 25):
        assert f"&lt;script&gt;{number}" in seen, f"{number} was not shown at all"


def test_long_values_are_cut_with_a_way_to_the_whole(node: Served, anna: Person) -> None:
    long = "x" * 5_000
    conflict_of(node, long)
    cut = anna.get("/page/conflicts/one?id=1")
    assert long not in cut.text
    assert "…" in cut.text
    assert long in anna.get(link(cut.text, "Show long values whole")).text


def test_lists_are_paged(node: Served, anna: Person) -> None:
    origin = Origin("a")
    txs = [origin.put(number, "many", 10) for number in range(60)]
    push(node, *(resealed(tx.body, b'"item"', b'"fresh"') for tx in txs))
    first = anna.get("/page/dead-letters?source=a")
    assert first.text.count('type="checkbox"') == 50
    second = anna.get(link(first.text, "Older"))
    assert second.text.count('type="checkbox"') == 10
    assert "source=a" in str(second.url)
    back = anna.get(link(second.text, "← Newer"))
    assert back.text.count('type="checkbox"') == 50
    audit = anna.get("/page/audit")
    assert "Older" in audit.text


def test_a_page_that_looks_again_gets_only_what_may_change(node: Served, anna: Person) -> None:
    letter_of(node)
    for path in ("/", "/page/dead-letters", "/page/conflicts", "/page/audit"):
        whole, part = anna.get(path).text, anna.get(path, headers={"HX-Request": "true"}).text
        assert "<html" in whole
        assert "<html" not in part
        assert '<form class="filter"' not in part, "what somebody types is not replaced"
        assert f'hx-get="{path}"' in whole


def test_a_message_waits_for_a_whole_page(node: Served, anna: Person) -> None:
    anna.get("/page/dead-letters/replay")
    assert "choose at least one" not in anna.get("/page/dead-letters", headers={"HX-Request": "true"}).text
    assert "choose at least one" in anna.get("/page/dead-letters").text
    assert "choose at least one" not in anna.get("/page/dead-letters").text
