"""A real browser for tests of the operations page: Chromium through Playwright, with an eye on what no page may do."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request, sync_playwright
from playwright.sync_api import Error as BrowserError

from tests.support.container_engine import unavailable

DEBIANS = "/usr/bin/chromium"
HIGHEST_PICTURE = 1_000
DESK, PHONE = {"width": 1180, "height": 700}, {"width": 390, "height": 844}
# Who does not run as root has Chromium's own sandbox; the pages here are ours.
_OPTIONS = ["--no-sandbox", "--disable-gpu"]


@contextmanager
def chromium() -> Iterator[Browser]:
    """Give the browser that `ROWFERRY_TEST_CHROMIUM` names, else Debian's, else Playwright's own."""
    named = os.environ.get("ROWFERRY_TEST_CHROMIUM") or (DEBIANS if Path(DEBIANS).exists() else None)
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=named, args=_OPTIONS)
        except BrowserError as error:
            unavailable("no Chromium, and ROWFERRY_TEST_CHROMIUM names none", error)
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Tab:
    """One tab, and what was wrong in it."""

    page: Page
    origin: str
    allowed_statuses: set[int] = field(default_factory=set)
    """Answers that are errors and are meant to be here."""
    complaints: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("request", self._watch_request)
        self.page.on("console", self._watch_console)
        self.page.on("pageerror", lambda error: self.complaints.append(f"script: {error}"))

    def _watch_request(self, request: Request) -> None:
        if not request.url.startswith(self.origin + "/"):
            self.complaints.append(f"left the node: {request.url}")

    def _watch_console(self, message: ConsoleMessage) -> None:
        expected = any(f"status of {status}" in message.text for status in self.allowed_statuses)
        if message.type in ("error", "warning") and not expected:
            self.complaints.append(f"console: {message.text}")

    def go(self, path: str) -> None:
        self.page.goto(self.origin + path)

    def tab_to(self, name: str, most: int = 80) -> None:
        """Press Tab until something with this text has the focus."""
        for _ in range(most):
            self.page.keyboard.press("Tab")
            if name in self.focused():
                return
        raise AssertionError(f"Tab does not reach {name!r}")

    def focused(self) -> str:
        """What has the focus, as its text, its label or its name."""
        return str(
            self.page.evaluate(
                "(() => { const one = document.activeElement; return [one.textContent, one.getAttribute('aria-label'), "
                "one.id, one.value].filter(Boolean).join(' | ') })()"
            )
        )

    def check_accessible(self) -> None:
        """Hold the page against axe-core's rules, contrast in the present colours among them."""
        self.page.evaluate(axe())
        found = self.page.evaluate("axe.run(document, {resultTypes: ['violations']})")
        told = [
            f"{one['id']}: {one['help']}: {[node['html'][:200] for node in one['nodes']][:3]}"
            for one in found["violations"]
        ]
        assert told == [], f"{self.page.url}: {json.dumps(told, indent=1)}"

    def check_width(self) -> None:
        """Nothing stands out at the side."""
        # Of a phone `innerWidth` is no measure: it grows with what stands out.
        inner, outer = self.page.evaluate("[document.documentElement.scrollWidth, screen.width]")
        assert inner <= outer, f"{self.page.url} is {inner} wide in a window of {outer}"

    def shoot(self, name: str, part: str | None = None) -> None:
        """Write a picture for the docs where `ROWFERRY_TEST_SCREENSHOTS` names a folder: of the top, or a part."""
        folder = os.environ.get("ROWFERRY_TEST_SCREENSHOTS")
        if not folder:
            return
        # Written here: Playwright would start a thread for it, which outlives the test.
        if part is not None:
            picture = self.page.locator(part).screenshot(animations="disabled")
        else:
            width, height = self.page.evaluate("[innerWidth, document.documentElement.scrollHeight]")
            clip = {"x": 0, "y": 0, "width": width, "height": min(height, HIGHEST_PICTURE)}
            picture = self.page.screenshot(full_page=True, animations="disabled", clip=clip)  # type: ignore[arg-type]
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / f"{name}.png").write_bytes(picture)


def axe() -> str:
    """Return axe-core."""
    return (files("axe_playwright_python") / "axe.min.js").read_text(encoding="utf-8")


@contextmanager
def tab(browser: Browser, origin: str, **options: Any) -> Iterator[Tab]:
    """Give a tab of a browser of its own; in the end nothing may have been wrong in it."""
    context: BrowserContext = browser.new_context(**({"viewport": DESK} | options))
    context.set_default_timeout(20_000)
    try:
        one = Tab(context.new_page(), origin)
        yield one
        assert one.complaints == []
    finally:
        context.close()
