"""The door: the form for the token, the way out, and the files that every page needs."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import FileResponse

from common.http.problems import ProblemError
from common.web.page.access import FormSent, LoginNeededError, door_of, read_form
from common.web.page.page import HOME, LOGIN, STATIC_FILES, STATIC_KINDS, PageRoute, page_of, to


def door_routes() -> APIRouter:
    """Return the routes that need no session, and the one that ends it."""
    router = APIRouter(route_class=PageRoute, include_in_schema=False)

    @router.get(LOGIN)
    def login_form(request: Request) -> Response:
        try:
            door_of(request).find(request, by_person=False)
        except LoginNeededError:
            return page_of(request).login(request)
        return to(HOME)

    @router.post(LOGIN)
    def login(request: Request, fields: Annotated[dict[str, list[str]], Depends(read_form)]) -> Response:
        answer = to(HOME)
        door_of(request).login(request, answer, "".join(fields.get("token", [])).strip())
        return answer

    @router.post("/page/logout")
    def logout(request: Request, form: FormSent) -> Response:
        answer = to(LOGIN)
        door_of(request).logout(request, answer, form.session.caller)
        return answer

    @router.get("/page/static/{name}")
    def static(name: str) -> Response:
        if name not in STATIC_FILES:
            raise ProblemError(404, "there is nothing of this name")
        file = STATIC_FILES[name]
        # Its address changes with its content.
        headers = {"Cache-Control": "public, max-age=31536000, immutable"}
        return FileResponse(file, headers=headers, media_type=STATIC_KINDS[file.suffix])

    return router
