"""Refusals as RFC 9457 problem documents, and how the description of the routes names them."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from common.errors import PoisonError, Reason

MEDIA_TYPE = "application/problem+json"
SCHEMA = "Problem"


class ProblemDocument(BaseModel):
    """What every refusal looks like."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(description="about:blank: the status says all; else urn:rowferry:REASON.")
    title: str
    status: int
    detail: str = Field(description="What is wrong, and what would be right.")
    instance: str = Field(description="The id of this request, as in the node's log.")


class ProblemError(HTTPException):
    """Ends a request with a problem document; also while its body is read."""

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        reason: str | None = None,
        headers: Mapping[str, str] | None = None,
        **more: Any,
    ) -> None:
        super().__init__(status, detail, headers)
        self.reason = reason
        self.more = more


def refused_body(error: PoisonError, consequence: str, **more: Any) -> ProblemError:
    """Return the end of a request whose body can't be taken. `consequence`: what became of it."""
    status = 413 if error.reason is Reason.LIMIT else 422
    return ProblemError(status, f"{error}; {consequence}", reason=error.reason.value, **more)


def problem_response(error: ProblemError, instance: str) -> JSONResponse:
    """Return the answer that `error` calls for."""
    document = {
        "type": "about:blank" if error.reason is None else f"urn:rowferry:{error.reason}",
        "title": HTTPStatus(error.status_code).phrase,
        "status": error.status_code,
        "detail": error.detail,
        "instance": instance,
        **error.more,
    }
    return JSONResponse(document, error.status_code, error.headers, MEDIA_TYPE)


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return what a route's description says of its refusals; those that any request may meet are always there."""
    return {status: _described(status) for status in sorted({*statuses, 400, 429, 500, 503})}


def guarded(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the same for a route that asks for a token."""
    return problems(401, 403, *statuses)


def _described(status: int) -> dict[str, Any]:
    return {
        "description": HTTPStatus(status).phrase,
        "content": {MEDIA_TYPE: {"schema": {"$ref": f"#/components/schemas/{SCHEMA}"}}},
    }


class BrokenOffError(Exception):
    """An answer that has begun must not go on. The client sees that it does not end; no fault of anybody's."""
