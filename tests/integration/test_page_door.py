"""The operations page's door: who comes in, how long, and what another site can have a browser do."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest

from common.config.model import ServerSection
from common.errors import OutageError
from common.http.scopes import Scope
from common.web.page.login_audit import LoginAudit
from tests.support.applying import sqlite_url
from tests.support.page import Person
from tests.support.web import Served, served, served_on_sqlite

CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
COOKIE = "rowferry-here"
PAGES = ("/", "/page/rows", "/page/dead-letters", "/page/conflicts", "/page/audit")


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Served]:
    with served_on_sqlite(tmp_path) as one:
        yield one


@pytest.fixture
def anna(node: Served) -> Iterator[Person]:
    person = Person(node)
    with person.client:
        yield person


def is_in(person: Person) -> bool:
    return person.get("/").status_code == 200


def test_without_a_login_there_is_only_the_form(anna: Person) -> None:
    for path in PAGES:
        answer = anna.get(path)
        assert (answer.status_code, answer.headers["location"]) == (303, "/page/login")
    form = anna.get("/page/login")
    assert form.status_code == 200
    assert "scope" in form.text
    assert anna.get("/", headers={"HX-Request": "true"}).status_code == 401
    refused = anna.send("/page/logout", {"csrf": "x"})
    assert refused.status_code in (303, 401)


def test_an_ops_token_opens_a_session_and_logging_out_ends_it(anna: Person) -> None:
    answer = anna.login()
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith(f"{COOKIE}=")
    for wanted in ("HttpOnly", "SameSite=strict", "Path=/"):
        assert wanted in cookie
    assert "Max-Age" not in cookie
    assert is_in(anna)
    assert anna.get("/page/login").headers["location"] == "/"
    kept = anna.client.cookies[COOKIE]
    assert anna.send("/page/logout", {"csrf": anna.csrf()}).headers["location"] == "/page/login"
    anna.client.cookies.set(COOKIE, kept)
    assert not is_in(anna), "the session ended, not only its cookie"


def test_pages_carry_a_strict_policy_and_are_stored_nowhere(anna: Person) -> None:
    anna.login()
    for path in (*PAGES, "/page/login"):
        headers = anna.get(path).headers
        assert headers["content-security-policy"] == CSP
        assert headers["cache-control"] == "no-store"
        assert headers["x-frame-options"] == "DENY"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "same-origin"


def test_no_page_has_a_script_or_a_style_of_its_own(anna: Person) -> None:
    anna.login()
    for path in PAGES:
        text = anna.get(path).text
        assert "style=" not in text
        assert "<style" not in text
        assert "onclick" not in text
        assert text.count("<script") == text.count("<script src=")
        assert "http://" not in text.replace(anna.node.url, "").replace("http://www.w3.org/2000/svg", "")


def test_files_are_kept_by_the_browser_and_no_other_file_is_given(anna: Person) -> None:
    for name in ("page.css", "page.js", "htmx.min.js", "icon.svg"):
        answer = anna.get(f"/page/static/{name}")
        assert answer.status_code == 200
        assert "immutable" in answer.headers["cache-control"]
    for name in ("htmx.LICENSE", "..%2fpage.py", "nothing"):
        assert anna.get(f"/page/static/{name}").status_code == 404


@pytest.mark.parametrize("scopes", [(Scope.PUSH, Scope.PULL), (Scope.PUSH, Scope.PULL, Scope.FORWARD)])
def test_a_nodes_token_does_not_open_the_page(node: Served, anna: Person, scopes: tuple[Scope, ...]) -> None:
    answer = anna.login(node.token("shop", *scopes))
    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers
    assert "scope ops" in answer.text


def test_wrong_tokens_are_counted_with_those_of_programs(node: Served, anna: Person) -> None:
    token_id = anna.token.split("_")[1]
    wrong = f"rf_{token_id}_{'x' * 43}"
    for _ in range(5):
        assert anna.login(wrong).status_code == 401
    with node.client(wrong) as program:
        for _ in range(5):
            assert program.get("/audit").status_code == 401
        assert program.get("/audit").status_code == 429
    answer = anna.login(wrong)
    assert answer.status_code == 429
    assert int(answer.headers["retry-after"]) > 0
    assert "too many wrong tokens" in answer.text


def audited(node: Served) -> list[tuple[str, str, dict[str, object]]]:
    rows = node.world.query("SELECT action, actor, detail FROM rf_audit WHERE action LIKE 'page-%' ORDER BY id")
    return [(action, actor, json.loads(detail)) for action, actor, detail in rows]


def test_who_came_and_went_stands_in_the_audit(node: Served, anna: Person) -> None:
    token_id = anna.token.split("_")[1]
    anna.login()
    anna.login()
    anna.send("/page/logout", {"csrf": anna.csrf()})
    who = f"anna by token {token_id}"
    detail = {"token_id": token_id, "node_id": "anna", "address": "127.0.0.1"}
    # Logging in anew ends the session that the browser had.
    assert audited(node) == [
        ("page-login", who, detail),
        ("page-logout", who, detail),
        ("page-login", who, detail),
        ("page-logout", who, detail),
    ]
    anna.login()
    shown = anna.get("/page/audit").text
    assert "logged in to this page" in shown
    assert "logged out of this page" in shown


def test_a_refused_login_stands_in_the_audit_under_the_tokens_name_but_without_the_secret(
    node: Served, anna: Person
) -> None:
    token_id, secret = anna.token.split("_", 2)[1:]
    wrong, revoked, expired = "x" * 43, node.token("berta", Scope.OPS), node.token("carl", Scope.OPS, lives_us=1)
    node.tokens.revoke(revoked.split("_")[1], "test")
    node.world.clock.pass_seconds(1)
    for token in (f"rf_{token_id}_{wrong}", revoked, expired, node.token("shop", Scope.PUSH), f"rf_{'a' * 12}_{wrong}"):
        assert anna.login(token).status_code in (401, 403)
    assert anna.login("my password").status_code == 401
    assert [(action, actor, detail.get("node_id"), detail["reason"]) for action, actor, detail in audited(node)] == [
        ("page-login-refused", "rowferry", "anna", "a wrong secret"),
        ("page-login-refused", "rowferry", "berta", "the token is revoked"),
        ("page-login-refused", "rowferry", "carl", "the token is expired"),
        ("page-login-refused", "rowferry", "shop", "the token has no scope ops"),
        ("page-login-refused", "rowferry", None, "no such token"),
    ]
    everything = str(node.world.query("SELECT * FROM rf_audit"))
    for hidden in (wrong, secret, revoked.split("_", 2)[2], "my password", "a" * 12):
        assert hidden not in everything
    anna.login()
    shown = anna.get("/page/audit").text
    assert "refused a login to this page" in shown
    assert "token of anna, a wrong secret, from 127.0.0.1" in shown


def test_guessing_does_not_fill_the_audit(node: Served, anna: Person) -> None:
    token_id = anna.token.split("_")[1]
    anna.login()
    for _ in range(14):
        anna.login(f"rf_{token_id}_{'x' * 43}")
    assert sum(action == "page-login-refused" for action, _, _ in audited(node)) == 10


def test_nor_does_a_right_token_that_opens_nothing(node: Served, anna: Person) -> None:
    shop = node.token("shop", Scope.PUSH)
    for _ in range(14):
        assert anna.login(shop).status_code == 403
    assert len(audited(node)) == 10


def test_nor_do_many_addresses_together(node: Served) -> None:
    audit = LoginAudit(node.world.node.database, node.world.node.clock).refusals
    for number in range(150):
        audit.refused(f"192.0.2.{number}", "no such token", None)
    assert len(audited(node)) == 100


def test_what_was_left_out_is_counted_in_the_next_line(node: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    passed = [0.0]
    monkeypatch.setattr("common.web.auth.time", SimpleNamespace(monotonic=lambda: time.monotonic() + passed[0]))
    audit = LoginAudit(node.world.node.database, node.world.node.clock).refusals
    for _ in range(13):
        audit.refused("192.0.2.1", "a wrong secret", ("a" * 12, "anna"))
    passed[0] = 61.0
    audit.refused("192.0.2.1", "a wrong secret", ("a" * 12, "anna"))
    assert [detail.get("left_out_before") for _, _, detail in audited(node)] == [None] * 10 + [3]


def test_nobody_logs_in_past_the_audit(anna: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: object) -> None:
        raise OutageError("the disk is full")

    monkeypatch.setattr(LoginAudit, "_write", away)
    answer = anna.login()
    assert answer.status_code == 503
    assert "set-cookie" not in answer.headers


def test_what_is_typed_is_not_shown_again(anna: Person) -> None:
    answer = anna.login("<script>alert(1)</script>")
    assert answer.status_code == 401
    assert "alert(1)" not in answer.text


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://elsewhere.example"},
        {"Origin": "null"},
        {"Origin": ""},
        {"Origin": "http://127.0.0.1"},
        {"Origin": "http://["},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "none"},
    ],
)
def test_a_form_from_another_site_does_nothing(anna: Person, headers: dict[str, str]) -> None:
    assert anna.login(**headers).status_code == 403
    anna.login()
    assert anna.send("/page/logout", {"csrf": anna.csrf()}, **headers).status_code == 403
    assert is_in(anna)


def test_a_form_without_an_origin_does_nothing(anna: Person) -> None:
    assert anna.client.post("/page/login", data={"token": anna.token}).status_code == 403
    same = {"Sec-Fetch-Site": "same-origin"}
    assert anna.client.post("/page/login", data={"token": anna.token}, headers=same).status_code == 303


@pytest.mark.parametrize("csrf", [None, "", "wrong", "ä", ["twice", "twice"]])
def test_a_form_without_this_sessions_word_does_nothing(anna: Person, csrf: str | None) -> None:
    anna.login()
    fields = {"other": "1"} if csrf is None else {"csrf": csrf}
    assert anna.send("/page/logout", fields).status_code == 403
    assert is_in(anna)


def test_the_word_of_one_session_is_none_in_another(node: Served, anna: Person) -> None:
    anna.login()
    other = Person(node, "berta")
    with other.client:
        other.login()
        assert other.send("/page/logout", {"csrf": anna.csrf()}).status_code == 403
        assert is_in(other)


def test_an_id_that_somebody_planted_is_not_taken_over(anna: Person) -> None:
    anna.client.cookies.set(COOKIE, "planted")
    assert not is_in(anna)
    answer = anna.login()
    assert "planted" not in answer.headers["set-cookie"]
    before = answer.headers["set-cookie"].split(";")[0].partition("=")[2]
    anna.client.cookies.clear()
    anna.client.cookies.set(COOKIE, before)
    again = anna.login().headers["set-cookie"].split(";")[0].partition("=")[2]
    assert again != before
    anna.client.cookies.clear()
    anna.client.cookies.set(COOKIE, before)
    assert not is_in(anna), "logging in anew ends the session of before"


def test_a_session_ends_with_its_token(node: Served, anna: Person) -> None:
    anna.login()
    assert is_in(anna)
    node.tokens.revoke(anna.token.split("_")[1], "test")
    answer = anna.get("/")
    assert answer.status_code == 401
    assert "revoked" in answer.text
    assert anna.get("/").status_code == 401, "and stays ended"


def test_a_session_ends_when_its_token_expires(node: Served, anna: Person) -> None:
    anna.login(node.token("anna", Scope.OPS, lives_us=60_000_000))
    assert is_in(anna)
    node.world.clock.pass_seconds(61)
    live = anna.get("/", headers={"HX-Request": "true"})
    assert live.status_code == 401
    assert "expired" in live.text
    assert "<html" not in live.text


def test_a_form_of_a_session_that_ended_does_nothing_and_says_so(node: Served, anna: Person) -> None:
    anna.login()
    csrf = anna.csrf()
    node.tokens.revoke(anna.token.split("_")[1], "test")
    answer = anna.send("/page/logout", {"csrf": csrf})
    assert answer.status_code == 401
    assert "Nothing was done" in answer.text


def test_over_tls_the_cookie_is_bound_to_this_host(tmp_path: Path) -> None:
    behind_proxy = ServerSection(port=0, proxies=("127.0.0.1",))
    with served_on_sqlite(tmp_path, behind_proxy, server={"proxies": ["127.0.0.1"]}) as node:
        person = Person(node)
        with person.client:
            cookie = person.login(**{"X-Forwarded-Proto": "https"}).headers["set-cookie"]
    assert cookie.startswith(f"__Host-{COOKIE}=")
    assert "Secure" in cookie
    assert "Domain" not in cookie


def test_behind_tls_a_form_that_came_without_it_is_refused(tmp_path: Path) -> None:
    """Whoever sits in the network can put a page at http://HOST; browsers tell that it is no page of ours."""
    behind_proxy = ServerSection(port=0, proxies=("127.0.0.1",))
    with served_on_sqlite(tmp_path, behind_proxy, server={"proxies": ["127.0.0.1"]}) as node:
        person = Person(node)
        with person.client:
            named = {"Host": "hq.example", "X-Forwarded-Proto": "https"}
            assert person.login(**named, Origin="http://hq.example").status_code == 403
            assert person.login(**named, Origin="https://hq.example").status_code == 303
            # Some proxies tell nothing of how they were asked.
            assert person.login(Host="hq.example", Origin="http://hq.example").status_code == 403
            assert person.login(Host="hq.example", Origin="https://hq.example").status_code == 303
            # From the machine itself, past the proxy.
            assert person.login().status_code == 303


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"token=" + b"x" * 70_000, "application/x-www-form-urlencoded", 413),
        (b"&".join(b"a%d=1" % number for number in range(600)), "application/x-www-form-urlencoded", 422),
        (b"token=%00", "application/x-www-form-urlencoded", 422),
        (b"token=%ff", "application/x-www-form-urlencoded", 422),
        (b"token=\xff", "application/x-www-form-urlencoded", 422),
        (b'{"token": "x"}', "application/json", 415),
        (b"token=x", "text/plain", 415),
        (b"token=x", "", 415),
    ],
)
def test_a_form_that_is_none_is_refused(anna: Person, body: bytes, kind: str, status: int) -> None:
    headers = {"Origin": anna.node.url, "Content-Type": kind}
    answer = anna.client.post("/page/login", content=body, headers=headers)
    assert answer.status_code == status
    assert answer.headers["content-type"].startswith("text/html")


def test_a_database_that_is_away_is_a_page_too(node: Served, anna: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    from common.ops.tokens import Tokens

    anna.login()

    def away(*_: object) -> None:
        raise OutageError("<b>the database</b> is away")

    monkeypatch.setattr(Tokens, "find", away)
    answer = anna.get("/")
    assert answer.status_code == 503
    assert "&lt;b&gt;the database&lt;/b&gt; is away" in answer.text
    assert answer.headers["content-security-policy"] == CSP


def test_a_database_that_is_away_tells_strangers_nothing(anna: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    from common.ops.tokens import Tokens

    def away(*_: object) -> None:
        raise OutageError("no way to db.internal.example")

    monkeypatch.setattr(Tokens, "find", away)
    answer = anna.login()
    assert answer.status_code == 503
    assert "try again" in answer.text
    assert "db.internal" not in answer.text


def test_two_nodes_of_one_machine_do_not_log_each_other_out(tmp_path: Path, anna: Person) -> None:
    anna.login()
    there = {"id": "there", "database": sqlite_url(tmp_path, "there.db")}
    with served(there["database"], node=there) as other:
        with other.client() as client:
            client.cookies.update(anna.client.cookies)
            answer = client.post(
                "/page/login", data={"token": other.token("anna", Scope.OPS)}, headers={"Origin": other.url}
            )
            assert answer.status_code == 303
            anna.client.cookies.update(client.cookies)
        assert is_in(anna)


def test_the_programs_routes_take_no_cookie(anna: Person) -> None:
    anna.login()
    assert anna.get("/dead-letters").status_code == 401
    assert anna.client.post("/conflicts/1/resolve", json={"take": "ours"}).status_code == 401


def test_a_header_can_not_be_made_by_what_is_given(anna: Person) -> None:
    anna.login()
    answer: httpx.Response = anna.send(
        "/page/logout", {"csrf": anna.csrf(), "next": "https://elsewhere.example\r\nX: y"}
    )
    assert answer.headers["location"] == "/page/login"
    assert "x" not in answer.headers
