"""One page as it is answered: its template in the layout, its headers, and what an error looks like to a person."""

import hashlib
from collections.abc import Callable, Coroutine, Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import sqlalchemy as sa
from fastapi import Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.routing import APIRoute
from jinja2 import Environment, FileSystemLoader, PrefixLoader, StrictUndefined

from common.clock import Clock
from common.http.problems import ProblemError
from common.ports.http_part import PageLink
from common.web.page import words
from common.web.page.access import LoginNeededError, Viewer
from common.web.page.glossary import explained, term
from common.web.page.sessions import Session
from common.web.refusals import problem_of

_HERE = Path(__file__).parent
HOME, LOGIN, ROWS = "/", "/page/login", "/page/rows"
NODES = "/page/nodes"
"""Below it, `/one` is one of those that the first page lists."""
LETTERS, CONFLICTS = "/page/dead-letters", "/page/conflicts"
"""Of the consumer's pages, that others lead to; below each, `/one` is one of them."""
STATIC_KINDS = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
STATIC_FILES = {file.name: file for file in (_HERE / "static").iterdir() if file.suffix in STATIC_KINDS}
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    # With no-referrer, browsers would tell Origin: null for our own forms too.
    "Referrer-Policy": "same-origin",
}
_SHORTEST_KEY = 12


class Page:
    """The templates of the node and its parts, and what all of them show. Any thread."""

    def __init__(self, node_id: str, clock: Clock, links: Sequence[PageLink], templates: Mapping[str, Path]) -> None:
        folders = {"common": _HERE / "templates", **templates}
        # Everything that a database holds is somebody else's text: no name or value is ever taken for markup.
        self._environment = Environment(
            loader=PrefixLoader({name: FileSystemLoader(folder) for name, folder in folders.items()}),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        self._environment.filters |= words.filters(clock) | {"explained": explained}
        self._environment.globals |= {
            "node_id": node_id,
            "links": list(links),
            "static": _static_urls(),
            "url": url_of,
            "term": term,
        }

    def answer(
        self, request: Request, viewer: Viewer, template: str, *, status: int = 200, **context: Any
    ) -> HTMLResponse:
        """Return a page, or of a page that looks again only what may have changed."""
        messages = [] if viewer.is_live else viewer.session.take_messages()
        return self._render(
            request, template, viewer.session, status, is_live=viewer.is_live, messages=messages, **context
        )

    def login(self, request: Request, status: int = 200, error: str = "") -> HTMLResponse:
        """Return the form for the token."""
        return self._render(request, "common/login.html", None, status, is_live=False, messages=[], error=error)

    def refuse(self, request: Request, error: Exception) -> Response:
        """Return what an error looks like; one that is a fault of Rowferry's is raised again."""
        if isinstance(error, LoginNeededError):
            return self._ask_for_login(request, error)
        if isinstance(error, sa.exc.SQLAlchemyError):
            error = request.app.state.translate(error)
        problem = problem_of(error)
        if request.url.path == LOGIN:
            # Before the login: what is wrong inside is nobody's business.
            is_inside = problem.status_code >= 500
            told = "The node can't look at tokens just now: try again." if is_inside else str(problem.detail)
            answer = self.login(request, problem.status_code, told)
        else:
            answer = self._error(request, problem)
        answer.headers.update(problem.headers or {})
        return answer

    def _ask_for_login(self, request: Request, error: LoginNeededError) -> Response:
        if "hx-request" in request.headers:
            # Whoever types into the page meanwhile keeps what is typed: only a note comes in.
            return self._render(request, "common/ended.html", None, 401, is_live=True, messages=[], error=str(error))
        if request.method == "GET" and not str(error):
            return to(LOGIN)
        told = f"{error} Nothing was done." if request.method == "POST" else str(error)
        return self.login(request, 401, told.strip())

    def _error(self, request: Request, problem: ProblemError) -> HTMLResponse:
        title = HTTPStatus(problem.status_code).phrase
        is_live = "hx-request" in request.headers
        return self._render(
            request,
            "common/error.html",
            None,
            problem.status_code,
            is_live=is_live,
            messages=[],
            title=title,
            detail=str(problem.detail),
            was_asked=request.method == "GET",
            request_id=request.state.request_id,
        )

    def _render(
        self, request: Request, template: str, session: Session | None, status: int, **context: Any
    ) -> HTMLResponse:
        here = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        text = self._environment.get_template(template).render(
            here=here, path=request.url.path, session=session, status=status, **context
        )
        return HTMLResponse(text, status, HEADERS)


class PageRoute(APIRoute):
    """A route whose refusals are pages too."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        plain = super().get_route_handler()

        async def handle(request: Request) -> Response:
            try:
                return await plain(request)
            except Exception as error:  # noqa: BLE001 - what is no refusal is raised again
                return page_of(request).refuse(request, error)

        return handle


def page_of(request: Request) -> Page:
    """Return the page of the application."""
    page: Page = request.app.state.page
    return page


def to(path: str, **query: str | int | None) -> RedirectResponse:
    """Send the browser on, with a GET. `path` is one of ours: nothing that a client gave ever goes into it."""
    return RedirectResponse(url_of(path, **query), 303, HEADERS)


def url_of(path: str, **query: Any) -> str:
    """Return `path` with what of `query` is given."""
    given = {name: value for name, value in query.items() if value is not None and value != ""}
    return f"{path}?{urlencode(given, doseq=True)}" if given else path


def _static_urls() -> dict[str, str]:
    """Return each file's address, which is another one in each release whose file is another one."""
    return {
        file.name: f"/page/static/{file.name}?v={hashlib.sha256(file.read_bytes()).hexdigest()[:_SHORTEST_KEY]}"
        for file in STATIC_FILES.values()
    }
