"""The operations page in a real browser, as an operator uses it who has read nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from common.http.scopes import Scope
from tests.support.applying import DATABASES, Origin, resealed
from tests.support.browser import PHONE, Tab, chromium, tab
from tests.support.fleet_scene import MAKE_VOUCHER, scene
from tests.support.page import push
from tests.support.web import Served

PAGES = (
    "/",
    "/?window=week",
    "/page/nodes/one?id=main",
    "/page/nodes/one?id=shop-1",
    "/page/nodes/one?id=shop-2",
    "/page/nodes/one?id=nobody",
    "/page/words",
    "/page/rows",
    "/page/rows?table=item&key=7",
    "/page/rows?table=item&key=none",
    "/page/dead-letters",
    "/page/dead-letters?source=nobody",
    "/page/conflicts",
    "/page/conflicts/one?id=1",
    "/page/conflicts/ask?id=1&do=resolve&take=theirs",
    "/page/audit",
    "/page/audit?from=2020-01-01&action=nothing",
    "/page/conflicts/one?id=99",
)
ERRORS = {404, 422}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as one:
        yield one


@pytest.fixture
def main(tmp_path: Path) -> Iterator[Served]:
    with scene(tmp_path) as node:
        yield node


def log_in(one: Tab, node: Served, name: str = "anna") -> None:
    one.go("/")
    one.page.get_by_label("Token").fill(node.token(name, Scope.OPS))
    one.page.get_by_role("button", name="Log in").click()
    expect(one.page.get_by_role("heading", name="Fleet")).to_be_visible()


def links_of(one: Tab) -> list[str]:
    """The pages behind the links of the dead-letter list."""
    one.go("/page/dead-letters")
    found = one.page.locator("th[scope=row] a").evaluate_all("all => all.map(one => one.getAttribute('href'))")
    asks = [re.sub("/one\\?source=([^&]+)&tx=(.+)", r'/replay?letter=["\1","\2"]', href) for href in found]
    return [*found, *asks, *(ask.replace("/replay", "/discard") for ask in asks)]


@pytest.mark.parametrize("database", DATABASES)
def test_an_operator_finds_what_is_wrong_and_mends_it(
    browser: Browser, tmp_path: Path, database: str, request: pytest.FixtureRequest
) -> None:
    url = request.getfixturevalue("pg_database") if database == "postgresql" else None
    with scene(tmp_path, url) as node, tab(browser, node.url) as one:
        page = one.page
        one.go("/")
        one.check_accessible()
        one.shoot("login")
        log_in(one, node)

        # Why are the shops behind?
        expect(page.get_by_role("row", name="shop-2")).to_contain_text("has been silent since")
        expect(page.get_by_role("row", name="shop-2")).to_contain_text(
            "14 changes of it are stuck there until it is back"
        )
        assert not re.search(r"\d\.\d{6}Z", page.inner_text("body")), "instants are for people"
        expect(page.get_by_role("row", name="shop-2")).to_contain_text(
            "1 change of main had not reached it when it last spoke"
        )
        expect(page.get_by_role("row", name="shop-1")).to_contain_text(
            "1 transaction of it could not be applied here and waits as a dead letter: unknown-table (1)"
        )
        expect(page.get_by_role("row", name="shop-3")).to_contain_text("up to date")
        one.shoot("fleet")
        one.shoot("graphs", ".two")
        page.get_by_role("link", name="shop-2", exact=True).click()
        expect(page.get_by_role("heading", name="From shop-2 to main")).to_be_visible()
        expect(page.get_by_text("LSN 14, as it said")).to_be_visible()
        one.shoot("node")
        page.get_by_role("link", name="Back to the fleet").click()

        # What would the dead letter do?
        page.get_by_role("link", name="Dead letters", exact=True).click()
        expect(page.get_by_role("row", name="voucher")).to_contain_text("create or configure the table")
        one.shoot("dead-letters")
        # The first page leads to the only one at once.
        one.go("/")
        page.get_by_role("link", name="Look at 1 dead letter").click()
        expect(page.get_by_text("there is no table 'voucher' here").first).to_be_visible()
        expect(page.get_by_role("cell", name="SPRING-10")).to_be_visible()
        node.world.execute(MAKE_VOUCHER)
        page.reload()
        expect(page.get_by_text("would apply it: 2 of 2 changes would be written")).to_be_visible()
        one.shoot("dead-letter")
        page.get_by_role("button", name="Replay…").click()
        expect(page.get_by_text("would be inserted")).to_have_count(2)
        one.shoot("replay")
        assert node.world.rows("voucher") == []
        page.get_by_role("button", name="Yes, replay").click()
        expect(page.get_by_role("status").filter(has_text="was applied: 2 of 2 changes were written")).to_be_visible()
        assert len(node.world.rows("voucher")) == 2

        settle_by_keyboard(one, node)

        # What has happened to this row?
        page.get_by_role("link", name="Its whole history").click()
        expect(page.get_by_text("is as it was written by this node")).to_be_visible()
        expect(page.get_by_text("anna took shop-1's version (conflict 1)")).to_be_visible()
        expect(page.get_by_text("anna decided it the other way: main's version stands (conflict 1)")).to_be_visible()
        lines = (
            page.get_by_role("list", name="What happened").get_by_role("listitem").filter(has=page.locator("strong"))
        )
        expect(lines).to_have_count(4)
        expect(lines.nth(0)).to_contain_text("not sent yet to the shared folder")
        expect(lines.nth(2)).to_contain_text(
            "shop-1 inserted it: met main's write, and waited for a choice; settled by"
        )
        expect(lines.nth(3)).to_contain_text("main inserted it: sent to the shared folder")
        bullet = "getComputedStyle(document.querySelector('ol.story ul li'), '::before').content"
        assert page.evaluate(bullet) == "none", "one bullet to a line"
        one.check_accessible()
        one.shoot("row")
        page.get_by_role("link", name="Audit").click()
        for action in (
            "replayed a dead letter",
            "settled a conflict: shop-1",
            "decided a conflict the other way: main",
        ):
            expect(page.get_by_role("cell", name=action).first).to_be_visible()
        expect(page.get_by_role("cell", name="anna", exact=True).first).to_be_visible()
        save_the_audit(one)
        page.get_by_role("button", name="Log out").click()
        expect(page.get_by_label("Token")).to_be_visible()


def save_the_audit(one: Tab) -> None:
    """Filter it by time, and save what is left."""
    page = one.page
    page.get_by_label("From (UTC)").fill("2020-01-01T00:00")
    page.get_by_label("Who").fill("anna")
    page.get_by_role("button", name="Filter").click()
    expect(page.get_by_label("From (UTC)")).to_have_value(re.compile("2020-01-01T00:00"))
    one.shoot("audit")
    with page.expect_download() as saved:
        page.get_by_role("link", name="CSV").click()
    assert re.fullmatch(r"audit-main-anna-from-20200101T000000Z-[0-9TZ]+\.csv", saved.value.suggested_filename)
    text = Path(saved.value.path()).read_text(encoding="utf-8-sig")
    assert "decided a conflict the other way" in text
    assert "rowferry by itself" not in text, "only what is filtered"


def settle_by_keyboard(one: Tab, node: Served) -> None:
    """Settle the conflict and undo it, without a mouse."""
    page, press = one.page, one.page.keyboard.press
    one.tab_to("Conflicts")
    press("Enter")
    expect(page.get_by_role("heading", name="Conflicts")).to_be_visible()
    one.tab_to("Conflict 1")
    press("Enter")
    expect(page.get_by_role("heading", name="Conflict 1 in item")).to_be_visible()
    expect(page.get_by_role("cell", name="Coffee, ground")).to_be_visible()
    one.shoot("conflict")
    one.tab_to("Take shop-1's version")
    press("Enter")
    expect(page.get_by_role("heading", name="Settle conflict 1?")).to_be_visible()
    assert ("Coffee",) in [row[1:2] for row in node.world.rows()]
    one.tab_to("Yes, take shop-1's version")
    press("Enter")
    told = page.locator(".messages")
    expect(told).to_contain_text("Done on main: conflict 1 is settled, shop-1's version stands now.")
    expect(told).to_contain_text("The other nodes get it by themselves.")
    assert "Coffee, ground" in [row[1] for row in node.world.rows()]
    one.tab_to("Undo: switch to main's version")
    press("Enter")
    expect(page.get_by_role("heading", name="Undo, and switch to main's version?")).to_be_visible()
    one.tab_to("Yes, switch to main's version")
    press("Enter")
    expect(page.get_by_role("status").filter(has_text="main's version stands now")).to_be_visible()
    assert "Coffee, ground" not in [row[1] for row in node.world.rows()]


def test_what_is_wrong_with_a_page_is_seen(browser: Browser, main: Served) -> None:
    """The checks below can fail."""
    with tab(browser, main.url) as one:
        one.go("/page/login")
        one.check_accessible()
        one.page.evaluate("document.querySelector('label').remove()")
        with pytest.raises(AssertionError, match="label"):
            one.check_accessible()
        one.page.evaluate("document.querySelector('h1').className = 'wide'")
        one.page.evaluate("document.querySelector('h1').textContent = 'x'.repeat(2000)")
        with pytest.raises(AssertionError, match="wide in a window"):
            one.check_width()
        one.page.evaluate("fetch('http://127.0.0.1:9/').catch(() => 0)")
        one.page.evaluate("document.body.insertAdjacentHTML('beforeend', '<p onclick=\"x()\">')")
        one.page.wait_for_timeout(500)
        seen, one.complaints = one.complaints, []
        assert any("Content Security Policy" in complaint for complaint in seen), seen


@pytest.mark.parametrize("colours", ["light", "dark"])
def test_every_page_is_for_everybody(browser: Browser, main: Served, colours: str) -> None:
    with tab(browser, main.url, color_scheme=colours) as one:
        one.allowed_statuses = ERRORS
        log_in(one, main)
        for path in (*PAGES, *links_of(one)):
            one.go(path)
            one.check_accessible()


@pytest.mark.parametrize("colours", ["light", "dark"])
def test_every_page_fits_a_phone(browser: Browser, main: Served, colours: str) -> None:
    with tab(browser, main.url, viewport=PHONE, color_scheme=colours, has_touch=True, is_mobile=True) as one:
        one.allowed_statuses = ERRORS
        log_in(one, main)
        for path in (*PAGES, *links_of(one)):
            one.go(path)
            one.check_width()
            one.check_accessible()
        if colours == "dark":
            one.go("/")
            one.shoot("phone-dark")


def late_letter(node: Served) -> str:
    """Push one more tx that can't be applied; return its id."""
    other = Origin("shop-3")
    other.made = 5
    tx = other.put(1, "late", 10)
    push(node, resealed(tx.body, b'"item"', b'"missing"'), source="shop-3")
    return tx.tx_id


def test_a_page_tells_what_is_new_by_itself(browser: Browser, main: Served) -> None:
    with tab(browser, main.url) as one:
        page = one.page
        log_in(one, main)
        one.go("/page/dead-letters")
        box = page.get_by_label("From node")
        box.fill("half ty")
        tx_id = late_letter(main)
        expect(page.get_by_text(tx_id)).to_be_visible(timeout=30_000)
        assert box.input_value() == "half ty", "what is being typed stays"
        assert "source" in one.focused(), "and so does the focus"
        expect(page.locator("#news")).to_have_text("2 dead letters on this page")


@pytest.mark.parametrize("path", ["/", "/page/nodes/one?id=shop-2", "/page/dead-letters"])
def test_a_page_that_looks_again_moves_nothing(browser: Browser, main: Served, path: str) -> None:
    with tab(browser, main.url) as one:
        page = one.page
        log_in(one, main)
        one.go(path)
        top = "document.querySelector('#live > *').getBoundingClientRect().top"
        stray = (
            "[...document.querySelector('#live').childNodes].filter(x => x.nodeType === 3).map(x => x.data).join('')"
        )
        before = page.evaluate(top)
        with page.expect_response(lambda answer: "hx-request" in answer.request.headers):
            page.evaluate("document.querySelector('#live > *').id = 'old'")
        expect(page.locator("#old")).to_have_count(0)
        assert page.evaluate(top) == before
        assert not str(page.evaluate(stray)).strip()


def test_what_is_chosen_is_not_taken_away(browser: Browser, main: Served) -> None:
    with tab(browser, main.url) as one:
        page = one.page
        log_in(one, main)
        one.go("/page/dead-letters")
        page.get_by_role("button", name="Choose all on this page").click()
        box = page.get_by_role("checkbox")
        expect(box).to_be_checked()
        asked: list[str] = []
        page.on("request", lambda request: "hx-request" in request.headers and asked.append(request.url))
        late_letter(main)
        page.wait_for_timeout(12_000)
        assert asked == []
        expect(box).to_be_checked()
        page.get_by_role("button", name="Replay the chosen").click()
        expect(page.get_by_text("would fail again")).to_be_visible()


def test_a_word_is_explained_by_keyboard_and_without_leaving_its_page(browser: Browser, main: Served) -> None:
    with tab(browser, main.url) as one:
        log_in(one, main)
        one.go("/page/nodes/one?id=shop-2")
        one.tab_to("LSN")
        said = "getComputedStyle(document.activeElement, '::after').content"
        assert "number of a change in the log" in str(one.page.evaluate(said))
        one.check_accessible()
        one.page.keyboard.press("Enter")
        expect(one.page.get_by_role("heading", name="Words")).to_be_visible()
        assert one.page.url.endswith("/page/words#lsn")
        expect(one.page.get_by_text("The number of a change in the log of the node that wrote it")).to_be_in_viewport()


def test_a_hidden_tab_asks_nothing(browser: Browser, main: Served) -> None:
    with tab(browser, main.url) as one:
        log_in(one, main)
        one.page.add_init_script("Object.defineProperty(document, 'hidden', {get: () => true})")
        one.go("/")
        asked: list[str] = []
        one.page.on("request", lambda request: "hx-request" in request.headers and asked.append(request.url))
        one.page.wait_for_timeout(7_000)
        assert asked == []


def test_a_session_that_ends_says_so_and_takes_nothing_away(browser: Browser, main: Served) -> None:
    with tab(browser, main.url) as one:
        one.allowed_statuses = {401}
        token = main.token("anna", Scope.OPS)
        one.go("/")
        one.page.get_by_label("Token").fill(token)
        one.page.keyboard.press("Enter")
        expect(one.page.get_by_role("heading", name="Fleet")).to_be_visible()
        main.tokens.revoke(token.split("_")[1], "test")
        note = one.page.get_by_text("Your session has ended: the token is revoked.")
        expect(note).to_be_visible(timeout=60_000)
        asked: list[str] = []
        one.page.on("request", lambda request: asked.append(request.url))
        one.page.wait_for_timeout(7_000)
        assert asked == [], "it is said once"
        expect(one.page.get_by_role("row", name="shop-2")).to_be_visible()
        one.page.get_by_role("link", name="Log in again").click()
        expect(one.page.get_by_label("Token")).to_be_visible()


def test_without_scripts_all_of_it_works(browser: Browser, main: Served) -> None:
    with tab(browser, main.url, java_script_enabled=False) as one:
        page = one.page
        log_in(one, main)
        main.world.execute(MAKE_VOUCHER)
        page.get_by_role("link", name="Dead letters", exact=True).click()
        page.get_by_role("checkbox").check()
        page.get_by_role("button", name="Replay the chosen").click()
        page.get_by_role("button", name="Yes, replay").click()
        expect(page.get_by_text("was applied: 2 of 2 changes were written")).to_be_visible()
        one.go("/page/conflicts/one?id=1")
        page.get_by_role("button", name="Keep main's version").click()
        page.get_by_role("button", name="Yes, keep main's version").click()
        expect(page.get_by_text("main's version stands now")).to_be_visible()


def test_another_site_can_neither_frame_it_nor_send_its_forms(browser: Browser, main: Served) -> None:
    with tab(browser, main.url) as one:
        log_in(one, main)
        cookies = one.page.context.cookies()
        other = one.page.context.new_page()
        # Another port is another origin, though the same site: the browser sends the cookie along.
        frame = f'<iframe src="{main.url}/"></iframe>'
        fields = '<input name="csrf" value="x"><button>go</button>'
        form = f'<form method="post" action="{main.url}/page/logout">{fields}</form>'
        other.route("http://127.0.0.1:9/", lambda route: route.fulfill(body=frame + form, content_type="text/html"))
        other.goto("http://127.0.0.1:9/")
        assert "Fleet" not in (other.frames[1].content() if len(other.frames) > 1 else "")
        other.get_by_role("button", name="go").click()
        expect(other.get_by_text("was not sent from this page")).to_be_visible()
        one.page.reload()
        expect(one.page.get_by_role("heading", name="Fleet")).to_be_visible()
        assert one.page.context.cookies() == cookies
        assert all(cookie["httpOnly"] and cookie["sameSite"] == "Strict" for cookie in cookies)
