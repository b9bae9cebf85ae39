"""The door: the form for the token, the way out, and the files that every page needs."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import FileResponse

from common.http.problems import ProblemError
from common.web.page.access import FormSent, LoginNeededError, door_of, read_form
from common.web.page.page import HOME, LOGIN, STATIC, PageRoute, page_of, to

_KINDS = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
_FILES = {file.name: file for file in STATIC.iterdir() if file.suffix in _KINDS}


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
        del form
        answer = to(LOGIN)
        door_of(request).logout(request, answer)
        return answer

    @router.get("/page/static/{name}")
    def static(name: str) -> Response:
        if name not in _FILES:
            raise ProblemError(404, "there is nothing of this name")
        file = _FILES[name]
        # Its address changes with its content.
        headers = {"Cache-Control": "public, max-age=31536000, immutable"}
        return FileResponse(file, headers=headers, media_type=_KINDS[file.suffix])

    return router
