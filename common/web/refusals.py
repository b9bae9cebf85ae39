"""How an error reads over HTTP, as a problem document or as a page."""

from http import HTTPStatus

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from common.errors import ContentionError, EarlyError, OutageError, PoisonError, UsageError
from common.http.problems import ProblemError

NODE_AWAY = "the node can't do its work just now: try again; its log tells more"
_AGAIN_SECONDS = 5


def problem_of(error: Exception) -> ProblemError:
    """Return how an error reads over HTTP; one that is a fault of Rowferry's is raised again."""
    match error:
        case ProblemError():
            return error
        case RequestValidationError():
            return ProblemError(422, _first_fault(error), reason="request")
        case HTTPException():
            detail = str(error.detail)
            if detail == HTTPStatus(error.status_code).phrase:
                detail = {404: "there is nothing of this name", 405: "not by this method"}.get(
                    error.status_code, detail
                )
            return ProblemError(error.status_code, detail, headers=error.headers)
        case OutageError() | ContentionError():
            return ProblemError(503, str(error), reason="outage", headers={"Retry-After": str(_AGAIN_SECONDS)})
        case PoisonError():
            return ProblemError(422, str(error), reason=error.reason.value)
        case EarlyError():
            # Nothing that was asked for is wrong; the table it concerns is paused, or not captured for now.
            return ProblemError(409, str(error), reason=error.reason.value)
        case UsageError():
            return ProblemError(409, str(error), reason="usage")
        case _:
            raise error


def _first_fault(error: RequestValidationError) -> str:
    first = error.errors()[0]
    return f"{'.'.join(str(step) for step in first['loc'])}: {first['msg']}"
