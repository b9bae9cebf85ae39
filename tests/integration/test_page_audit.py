"""The audit by time, and as a file: of just what is filtered, in bounded memory, and changing nothing."""

from __future__ import annotations

import collections
import csv
import html
import io
import json
import re
from collections.abc import Iterator

import httpx
import pytest

from common.clock import from_us
from common.http.scopes import Scope
from common.schema import tables as rf
from consumer.audit_reading import Asked, ends
from consumer.page.audit_file import AT_ONCE, pieces
from tests.support.applying import DATABASES
from tests.support.page import Person, page_node, signed_in
from tests.support.web import Served

HOUR_US = 3_600_000_000
TEN = 1_764_151_200_000_000
"""2025-11-26 10:00 UTC."""


@pytest.fixture(params=DATABASES)
def node(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with page_node(request, tmp_path_factory) as one:
        yield one


@pytest.fixture
def anna(node: Served) -> Iterator[Person]:
    with signed_in(node) as person:
        yield person


def note(node: Served, *lines: tuple[int, str, str]) -> None:
    """Write lines of the audit: when, who, and why."""
    rows = [
        {"at_us": at, "actor": who, "action": "discarded", "source_node": "a", "tx_id": "x", "detail": json.dumps(why)}
        for at, who, text in lines
        for why in ({"reason": text},)
    ]
    with node.world.node.database.engine.begin() as connection:
        connection.execute(rf.audit.insert(), rows)


def three_hours(node: Served) -> None:
    note(node, *((TEN + hour * HOUR_US, "anna by token 1", f"at {10 + hour}") for hour in range(3)))


def reasons(text: str) -> list[str]:
    return re.findall(r"at \d\d(?=</span>)", html.unescape(text))


def link(page: str, words: str) -> str:
    found = re.search(rf'href="([^"]+)" download>{words}', page)
    assert found is not None
    return html.unescape(found[1])


def test_the_page_is_filtered_by_time_which_is_said_to_be_utc(node: Served, anna: Person) -> None:
    three_hours(node)
    query = {"action": "discarded", "from": "2025-11-26T10:30", "to": "2025-11-26T12:00"}
    page = anna.get("/page/audit", params=query).text
    assert reasons(page) == ["at 11"], "from then on, and before"
    assert '<label for="from">From (UTC)</label>' in page
    assert 'value="2025-11-26T10:30:00"' in page
    assert page.count("all times are UTC") == 1
    for same in ("2025-11-26T11:00Z", "2025-11-26T12:00:00+01:00", "2025-11-26 11:00"):
        page = anna.get("/page/audit", params={"action": "discarded", "from": same}).text
        assert reasons(page) == ["at 12", "at 11"], same
        assert 'value="2025-11-26T11:00:00"' in page, "the form shows what is filtered"
    for wrong in ("yesterday", "2025-13-01", "10:00"):
        for path in ("/page/audit", "/page/audit/file?kind=csv"):
            assert anna.get(path, params={"kind": "csv", "from": wrong}).status_code == 422, wrong


def test_an_export_holds_what_is_filtered_and_changes_nothing(node: Served, anna: Person) -> None:
    three_hours(node)
    note(node, (TEN, "ben by token 2", "not asked for"))
    token = node.token("carla", Scope.OPS)
    before = node.world.query("SELECT count(*) FROM rf_audit")
    page = anna.get("/page/audit", params={"actor": "anna", "action": "discarded", "from": "2025-11-26T11:00"}).text
    answer = anna.get(link(page, "JSON lines"))
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert re.fullmatch(
        r'attachment; filename="audit-here-discarded-anna-from-20251126T110000Z-\d{8}T\d{6}Z\.jsonl"',
        answer.headers["content-disposition"],
    )
    with node.client(token) as client:
        told = client.get("/audit", params={"action": "discarded", "since": "2025-11-26T11:00"}).json()
    assert [json.loads(line) for line in answer.text.splitlines()] == told
    assert [one["detail"]["reason"] for one in told] == ["at 11", "at 12"]
    rows = list(csv.DictReader(io.StringIO(anna.get(link(page, "CSV")).content.decode("utf-8-sig"))))
    assert [(row["time (UTC)"], row["who"], row["did"], row["more"]) for row in rows] == [
        ("2025-11-26 11:00:00", "anna", "discarded a dead letter", "at 11"),
        ("2025-11-26 12:00:00", "anna", "discarded a dead letter", "at 12"),
    ]
    assert node.world.query("SELECT count(*) FROM rf_audit") == before


def test_no_spreadsheet_takes_what_others_wrote_for_a_formula(node: Served, anna: Person) -> None:
    note(node, (TEN, "=1+1", "@SUM(A1)"), (TEN, "-2", '+cmd|"/c calc"!A1'))
    text = anna.get("/page/audit/file", params={"kind": "csv", "action": "discarded"}).content.decode("utf-8-sig")
    for row in list(csv.reader(io.StringIO(text)))[1:]:
        assert not [field for field in row if field[:1] in ("=", "+", "-", "@", "\t", "\r")], row


@pytest.mark.parametrize("written", ["x;=1+1", "x\t=1+1", "x\n=1+1", "\n=1+1", "\uff1d1+1", "x;\uff0b1", ";;@SUM(A1)"])
def test_nor_one_that_ends_fields_elsewhere(node: Served, anna: Person, written: str) -> None:
    note(node, (TEN, "anna", written), (TEN, written, "why"))
    text = anna.get("/page/audit/file", params={"kind": "csv", "action": "discarded"}).content.decode("utf-8-sig")
    for row in list(csv.reader(io.StringIO(text)))[1:]:
        cells = [cell for field in row for cell in re.split(r"[;\t\r\n]", field)]
        assert not [cell for cell in cells if re.match("[=+\\-@\uff1d\uff0b\uff0d\uff20]", cell)], row


def test_an_export_says_what_was_done_to_and_is_called_after_its_filters(node: Served, anna: Person) -> None:
    detail = {"conflict": 5, "table": "item", "pk": {"id": 7}, "winner": "ours"}
    rows = [{"at_us": TEN, "actor": "anna by token 1", "action": "resolved", "source_node": "a", "tx_id": "x"}]
    with node.world.node.database.engine.begin() as connection:
        connection.execute(rf.audit.insert(), [one | {"detail": json.dumps(detail)} for one in rows])
    query = {"kind": "csv", "action": "resolved", "actor": "anna", "from": "2025-11-26T09:00", "to": "2025-11-26T11:00"}
    answer = anna.get("/page/audit/file", params=query)
    (row,) = csv.DictReader(io.StringIO(answer.content.decode("utf-8-sig")))
    assert row["to what"] == "conflict 5, item 7"
    name = answer.headers["content-disposition"]
    asked = "resolved-anna-from-20251126T090000Z-to-20251126T110000Z"
    assert re.fullmatch(rf'attachment; filename="audit-here-{asked}-\d{{8}}T\d{{6}}Z\.csv"', name), name
    for path in ("/page/audit", "/page/audit/file"):
        refused = anna.get(path, params=query | {"from": "2025-11-26T12:00"})
        assert refused.status_code == 422
        assert "from: 2025-11-26T12:00:00 is after to: 2025-11-26T11:00:00" in refused.text


def test_an_export_of_nothing_is_a_file_too(node: Served, anna: Person) -> None:
    assert anna.get("/page/audit/file?kind=jsonl&action=purged").text == ""
    assert len(anna.get("/page/audit/file?kind=csv&action=purged").text.splitlines()) == 1
    assert anna.get("/page/audit/file?kind=xls").status_code == 422
    assert anna.get("/page/audit/file").status_code == 422


def test_only_who_is_logged_in_gets_a_file(node: Served) -> None:
    with node.client() as client:
        answer = client.get("/page/audit/file?kind=csv")
        assert (answer.status_code, answer.headers["location"]) == (303, "/page/login")
    with node.client(node.token("anna", Scope.OPS)) as client:
        assert client.get("/page/audit/file?kind=csv").status_code == 303, "programs' tokens are for /audit"


def test_many_lines_go_out_piece_by_piece_each_once(node: Served, anna: Person) -> None:
    count = 2 * AT_ONCE + 7
    note(node, *((TEN + number, "anna by token 1", f"n{number}") for number in range(count)))
    asked = Asked("discarded")
    found = pieces(node.world.node, asked, "jsonl")
    sizes = [len(piece.splitlines()) for piece in found]
    assert sizes == [AT_ONCE, AT_ONCE, 7]
    # What is written meanwhile does not make it endless.
    begun = pieces(node.world.node, asked, "jsonl")
    next(begun)
    note(node, (TEN, "anna by token 1", "later"))
    rest = b"".join(begun)
    assert b"later" not in rest
    text = anna.get("/page/audit/file?kind=jsonl&action=discarded").text
    numbers = [json.loads(line)["detail"]["reason"] for line in text.splitlines()]
    assert numbers == [*(f"n{number}" for number in range(count)), "later"]
    with node.world.node.database.engine.begin() as connection:
        assert ends(connection, Asked("purged")) == (1, 0)


def test_a_file_breaks_off_when_its_token_is_revoked(
    node: Served, anna: Person, caplog: pytest.LogCaptureFixture
) -> None:
    reason = "x" * 2_000
    note(node, *((TEN + number, "anna by token 1", reason) for number in range(16_000)))
    with anna.client.stream("GET", "/page/audit/file?kind=jsonl&action=discarded") as answer:
        rest = answer.iter_bytes()
        next(rest)
        with node.world.node.database.engine.begin() as connection:
            connection.execute(rf.token.update().values(revoked_us=TEN))
        with pytest.raises(httpx.RemoteProtocolError):
            collections.deque(rest, 0)
    assert "http.failed" not in [record.message for record in caplog.records]


@pytest.fixture
def ops(node: Served) -> Iterator[httpx.Client]:
    with node.client(node.token("anna", Scope.OPS)) as client:
        yield client


def test_programs_filter_by_instants_too(node: Served, ops: httpx.Client) -> None:
    three_hours(node)

    def told(**query: str | float) -> list[str]:
        answer = ops.get("/audit", params={"action": "discarded", **query})
        assert answer.status_code == 200, answer.text
        return [one["detail"]["reason"] for one in answer.json()]

    assert told(since="2025-11-26T11:00:00Z") == ["at 11", "at 12"]
    assert told(until="2025-11-26T11:00") == ["at 10"]
    assert told(since="2025-11-26T11:30+01:00", until="2025-11-26T11:30") == ["at 11"]
    node.world.clock.us = TEN + 2 * HOUR_US
    assert told(since_seconds=3600, since="2025-11-26T10:00") == ["at 11", "at 12"], "both count"
    assert told(since="2025-11-27") == []
    for wrong in ("soon", "2025-11-26T25:00", str(TEN)):
        answer = ops.get("/audit", params={"since": wrong})
        assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json"), wrong
    for span in (
        {"since": "2025-11-26T12:00", "until": "2025-11-26T11:00"},
        {"since_seconds": "1", "until": "2025-11-26"},
    ):
        answer = ops.get("/audit", params=span)
        assert (answer.status_code, "is after until" in answer.json()["detail"]) == (422, True), span
    assert from_us(TEN).isoformat() == "2025-11-26T10:00:00+00:00"
