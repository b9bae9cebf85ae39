"""The page of words."""

from fastapi import APIRouter, Request, Response

from common.web.page.access import SignedIn
from common.web.page.glossary import TERMS, WORDS
from common.web.page.page import PageRoute, page_of


def word_routes() -> APIRouter:
    """Return the route."""
    router = APIRouter(route_class=PageRoute, include_in_schema=False)

    @router.get(WORDS)
    def words(request: Request, viewer: SignedIn) -> Response:
        return page_of(request).answer(request, viewer, "common/words.html", terms=TERMS)

    return router
