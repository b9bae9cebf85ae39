"""A node's own page: both ways in numbers and ages, what needs a person, and what is not known said to be so."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from consumer.apply.committing import Committing
from producer.cursors import Cursors
from tests.support.applying import DATABASES
from tests.support.fleet_scene import now_us, scene
from tests.support.page import Person, signed_in
from tests.support.web import Served


@pytest.fixture(params=DATABASES)
def main(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Of each shop something else is known: see `fleet_scene`."""
    url = request.getfixturevalue("pg_database") if request.param == "postgresql" else None
    with scene(tmp_path_factory.mktemp("scene"), url) as node:
        yield node


@pytest.fixture
def anna(main: Served) -> Iterator[Person]:
    with signed_in(main) as person:
        yield person


def shown(anna: Person, name: str, **query: str) -> str:
    """The text of a node's page, in one line."""
    answer = anna.get("/page/nodes/one", params={"id": name, **query})
    assert answer.status_code == 200, answer.text
    live = answer.text[answer.text.index('<div id="live"') :]
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", live)).replace(" ,", ",").replace(" ;", ";")


def test_a_silent_node_tells_what_waits_both_ways(anna: Person) -> None:
    fleet = anna.get("/").text
    assert '<a href="/page/nodes/one?id=shop-2">shop-2</a>' in fleet
    page = shown(anna, "shop-2")
    assert "needs attention Why shop-2 has been silent since" in page
    assert "Waits 14 changes, since when is not known here" in page
    assert "Its log ends at LSN 14, as it said" in page
    assert "Arrived up to nothing has arrived yet" in page
    assert "Waits 1 change, the oldest for 40 min" in page
    assert "The log of main ends at LSN 2" in page.replace("&#39;", "'")
    assert "Sent to the shared folder up to LSN 2" in page
    assert "It has all up to LSN 1, as is known since" in page
    assert "They come through the shared folder" in page
    assert "They go as files in the shared folder" in page
    assert "Heartbeat every 1 min, last" in page
    assert "Release 0.1.0 Settings the same Clock right, against that of main" in page
    assert "its graphs are on its own page" in page
    assert "No dead letters of its transactions here, and no conflict with it that waits." in page


def test_what_is_wrong_with_a_node_leads_to_where_it_is_mended(anna: Person, main: Served) -> None:
    page = anna.get("/page/nodes/one?id=shop-1").text
    letters = re.search(r'href="(/page/dead-letters\?source=shop-1[^"]+)">1 dead letter: unknown-table', page)
    assert letters is not None
    assert "voucher" in anna.get(letters[1].replace("&amp;", "&")).text
    assert '<a href="/page/conflicts?source=shop-1">1 conflict waits for a choice' in page
    assert "Conflict 1" in anna.get("/page/conflicts?source=shop-1").text
    text = shown(anna, "shop-1")
    head = main.world.query("SELECT head_lsn FROM rf_node WHERE node_id = 'shop-1'")[0][0]
    assert f"Arrived up to LSN {head} Done here up to LSN {head}, last" in text
    assert "nothing: all that is known of its log is here" in text


def test_this_nodes_page_has_its_graphs(anna: Person) -> None:
    page = shown(anna, "main")
    assert "this node" in page
    assert "The last hour on main" in page
    assert "From main to the others" in page
    assert "oldest change not applied yet" in page
    assert "Last heard" not in page, "it need not hear itself"
    week = anna.get("/page/nodes/one?id=main&window=week").text
    assert '<a href="/page/nodes/one?id=main&amp;window=week#graphs" aria-current="true">week</a>' in week


def more(main: Served, key: int) -> None:
    """Write one more change of main, sealed and not sent."""
    main.world.clock.us = now_us()
    main.world.execute(f"INSERT INTO item VALUES ({key}, 'Cocoa', 2)")
    Committing(main.world.node).seal()


def sent(main: Served, lsn: int) -> None:
    Cursors(main.world.node.database, main.world.clock).save("directory", main.world.node.facts.incarnation, lsn)


def fleet_row(anna: Person, name: str) -> str:
    page = anna.get("/").text
    (row,) = [one for one in page.split("<tr>") if f"one?id={name}" in one]
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", row.partition("</tr>")[0])).replace(" ,", ",")


def test_where_nothing_waits_that_is_said(anna: Person) -> None:
    assert "up to date Nothing waits either way" in shown(anna, "shop-3")
    assert "it has all" in fleet_row(anna, "shop-3")


def test_nothing_waits_is_said_only_where_nothing_does(anna: Person, main: Served) -> None:
    more(main, 20)
    more(main, 21)
    page, row = shown(anna, "shop-3"), fleet_row(anna, "shop-3")
    for text in (page, row):
        assert "Nothing waits" not in text
        assert "up to date" not in text
        assert "2 changes of main are not sent to it yet" in text
    # One and the same change is told of once.
    assert (
        "Waits nothing of what was written before it last spoke; 2 changes written since, none of them sent yet" in page
    )


def test_what_nobody_knows_to_have_arrived_is_no_nothing(anna: Person, main: Served) -> None:
    more(main, 20)
    more(main, 21)
    sent(main, 4)
    page, row = shown(anna, "shop-3"), fleet_row(anna, "shop-3")
    assert "Nothing waits" not in page
    assert "Nothing known of waits; 2 changes written since it last spoke: whether it has them is not known yet" in page
    assert "had everything when it last spoke; 2 changes written since" in row
    # What is counted apart adds up: its log ends at 4, and 1 is taken.
    page, row = shown(anna, "shop-2"), fleet_row(anna, "shop-2")
    assert "Waits 1 change, the oldest for 40 min; 2 changes written since" in page
    assert "1 change, oldest waits 40 min; 2 changes written since" in row
    assert "The log of main ends at LSN 4" in page.replace("&#39;", "'")
    assert "It has all up to LSN 1" in page


def test_how_long_a_change_waits_is_known_from_its_first_second(anna: Person, main: Served) -> None:
    more(main, 20)
    page = shown(anna, "main")
    assert "Waits 1 change, the oldest for" in page
    assert "since when is not known" not in page


@pytest.mark.parametrize(
    "path", ["/", "/page/nodes/one?id=shop-2", "/page/dead-letters", "/page/conflicts", "/page/audit"]
)
def test_what_a_page_puts_in_by_itself_begins_as_it_stands_there(anna: Person, path: str) -> None:
    """No word of the title stands before the first box."""
    whole, part = anna.get(path).text, anna.get(path, headers={"HX-Request": "true"}).text
    begins = whole[whole.index('<div id="live"') :].partition(">")[2].lstrip()
    assert part.lstrip()[:20] == begins[:20]


def test_a_node_that_never_spoke_is_not_given_numbers(anna: Person, main: Served) -> None:
    with main.world.node.database.engine.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO rf_node (node_id, role, incarnation, is_self, first_seen_us, last_seen_us) "
            "VALUES ('shop-9', 'branch', 'x', FALSE, 1000000000000000, 1000000000000000)"
        )
    page = shown(anna, "shop-9")
    assert "not known: it has said nothing about its log, and nothing has arrived" in page
    assert "not known: no heartbeat from it has arrived" in page
    assert "not known: it has not said up to where it has the log of main" in page
    assert "It has not known: it has not said so" in page
    assert "Heartbeat none has arrived yet" in page
    assert "Release not said yet" in page
    assert "Clock not said yet" in page
    assert "LSN 0" not in page


@pytest.mark.parametrize("name", ["nobody", "", "<b>x</b>"])
def test_a_node_that_there_is_not_is_not_found(anna: Person, name: str) -> None:
    answer = anna.get("/page/nodes/one", params={"id": name})
    assert answer.status_code == 404
    assert "<b>x" not in answer.text


def test_a_nodes_page_looks_again_by_itself(anna: Person) -> None:
    part = anna.get("/page/nodes/one?id=shop-2", headers={"HX-Request": "true"}).text
    assert "<html" not in part
    assert "Back to the fleet" not in part
    assert "14 changes" in part


@pytest.mark.parametrize(("seconds", "words"), [(-30, "at most 30 s behind"), (30, "30 s ahead"), (0, "right")])
def test_a_clock_that_looks_behind_may_just_have_been_heard_late(
    anna: Person, main: Served, seconds: int, words: str
) -> None:
    main.world.execute(f"UPDATE rf_node SET clock_us = {seconds * 1_000_000} WHERE node_id = 'shop-3'")
    assert f"clock {words}" in fleet_row(anna, "shop-3")
    assert f"Clock {words}, against that of main" in shown(anna, "shop-3")
