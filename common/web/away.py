"""What `serve` answers while the node can't be opened: the process lives, the node can do nothing, try again."""

from collections.abc import Iterator
from contextlib import contextmanager

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from common.config.model import ServerSection
from common.errors import OutageError
from common.http.problems import problem_response
from common.metrics import DATABASE_UP, Measure
from common.web.guard import Guard, WebLimits
from common.web.metrics import exposed, is_local, registry_of
from common.web.probes import DATABASE_AWAY, Health, readiness
from common.web.progress import Waits
from common.web.refusals import NODE_AWAY, problem_of
from common.web.server import serving

_ALL_METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]


@contextmanager
def answering_meanwhile(server: ServerSection) -> Iterator[None]:
    """Answer probes, and refuse all else for now, until the context ends.

    Raises ConfigError, and RowferryError where the port is taken."""
    limits = WebLimits(slow_seconds=server.slow_seconds, body_seconds=server.body_seconds)
    with serving(Guard(away_app(has_proxies=bool(server.proxies)), limits), server):
        yield


def away_app(*, has_proxies: bool) -> Starlette:
    """Return the application. `has_proxies`: then nobody is surely on this machine."""
    registry = registry_of(lambda: [Measure(DATABASE_UP, 0)])

    async def healthz(_request: Request) -> Response:
        return JSONResponse(Health(status="ok").model_dump())

    async def readyz(_request: Request) -> Response:
        return JSONResponse(readiness(DATABASE_AWAY, Waits()).model_dump(), 503)

    async def metrics(request: Request) -> Response:
        # Whether a token has scope ops only the database knows.
        if has_proxies or not is_local(request):
            return await refuse(request)
        return exposed(registry, request)

    async def refuse(request: Request) -> Response:
        return problem_response(problem_of(OutageError(NODE_AWAY)), request.state.request_id)

    probes = [
        Route(path, answer) for path, answer in (("/healthz", healthz), ("/readyz", readyz), ("/metrics", metrics))
    ]
    return Starlette(routes=[*probes, Route("/{path:path}", refuse, methods=_ALL_METHODS)])
