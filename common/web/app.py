"""The application: the routes of the parts behind one gate, each refusal a problem document."""

import logging
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version

import anyio.to_thread
import sqlalchemy as sa
from fastapi import Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from common.config.model import ServerSection
from common.errors import ContentionError, EarlyError, OutageError, PoisonError, UsageError
from common.http.callers import KNOWN
from common.http.problems import ProblemError, problem_response
from common.http.wire import ADOPT_PATH, PUSH_PATH, ROWS_PATH
from common.http.words import only_known
from common.ops.progress import sides_of
from common.ops.sampling import Sampler
from common.ports.http_part import AnswersHttp, HttpShare
from common.ports.part import Part, Service
from common.runtime.node import Node
from common.seldom import Seldom
from common.web.auth import TokenGate
from common.web.guard import FAULT, Guard, WebLimits, answers_head
from common.web.metrics import metric_routes
from common.web.openapi import describe
from common.web.page.adding import add_page
from common.web.probes import probes
from common.web.refusal_audit import AuditedGate
from common.web.refusals import NODE_AWAY, problem_of
from common.web.state import state_routes

log = logging.getLogger(__name__)

_THREADS = 12


@dataclass(frozen=True, slots=True)
class Web:
    """What `serve` runs."""

    app: FastAPI
    services: tuple[Service, ...]

    def guarded(self, server: ServerSection) -> ASGIApp:
        """Return the application behind what limits its clients."""
        return Guard(
            self.app,
            WebLimits(
                body_bytes_at=dict.fromkeys((PUSH_PATH, ROWS_PATH, ADOPT_PATH), server.max_body_bytes),
                slow_seconds=server.slow_seconds,
                body_seconds=server.body_seconds,
            ),
        )


def build_web(node: Node, parts: Sequence[Part[Node]], stop: threading.Event) -> Web:
    """Put the parts' routes together. Opens nothing; the services are the caller's to run."""
    shares = {part.name: part.http(node, stop) for part in parts if isinstance(part, AnswersHttp)}
    app = FastAPI(
        title="Rowferry",
        version=version("rowferry"),
        summary="Push and pull batches, look after dead letters and conflicts.",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=_lifespan,
        dependencies=[Depends(only_known)],
    )
    gate = TokenGate(node.database, node.clock)
    app.state.gate = AuditedGate(gate, node.database, node.clock)
    app.state.translate = node.database.translate
    add_page(app, node, gate, parts, shares)
    app.include_router(probes(node, parts))
    app.include_router(state_routes(node))
    app.include_router(metric_routes(node, parts))
    for share in shares.values():
        _include(app, share)
    _handle_errors(app)
    describe(app)
    services = [service for share in shares.values() for service in share.services]
    # Where no `run` writes samples; beside one it leaves that to it.
    look = partial(sides_of, parts, node)
    services.append(Sampler(node.database, node.config, node.facts, node.clock, look, stands_back=True))
    return Web(app, tuple(services))


@asynccontextmanager
async def _lifespan(_app: FastAPI) -> AsyncIterator[None]:
    # Each thread may hold a connection of the database, whose pool is bounded.
    anyio.to_thread.current_default_thread_limiter().total_tokens = _THREADS
    yield


def _include(app: FastAPI, share: HttpShare) -> None:
    for router in share.routers:
        app.include_router(router)


def _methods_at(request: Request) -> list[str]:
    """Return the methods of a path: several routes share one, and the framework names those of the first."""
    path = getattr(request.scope.get("route"), "path", request.url.path)
    described = request.app.openapi()["paths"].get(path)
    methods = described if described is not None else getattr(request.scope.get("route"), "methods", ())
    names = {method.upper() for method in methods}
    return sorted(names | {"HEAD"} if "GET" in names and answers_head(path) else names)


def _handle_errors(app: FastAPI) -> None:
    seldom = Seldom(log)

    async def answer(request: Request, error: Exception) -> Response:
        problem = problem_of(error)
        if problem.status_code == 405:
            problem.headers = {"Allow": ", ".join(_methods_at(request))}
        if problem.status_code >= 500:
            is_known = getattr(request.state, KNOWN, False)
            fields = {"request_id": request.state.request_id, "error": problem.detail}
            # Pages look again by themselves, programs try again; and while the database is away nobody can be known, so
            # whoever shows any token would fill the log.
            seldom.warn("http.unavailable", is_known, problem.detail, **fields)
            if not is_known:
                # Where its database is and by which name it is asked is nobody's business who showed no token.
                problem = ProblemError(problem.status_code, NODE_AWAY, reason=problem.reason, headers=problem.headers)
        return problem_response(problem, request.state.request_id)

    async def answer_driver(request: Request, error: Exception) -> Response:
        if not isinstance(error, sa.exc.SQLAlchemyError):
            raise error
        translated = request.app.state.translate(error)
        if isinstance(translated, OutageError | ContentionError):
            return await answer(request, translated)
        raise error

    async def answer_fault(request: Request, _error: Exception) -> Response:
        # It goes on up to the guard, which logs it.
        return problem_response(FAULT, request.state.request_id)

    app.add_exception_handler(Exception, answer_fault)
    known = (OutageError, ContentionError, EarlyError, PoisonError, UsageError)
    for kind in (HTTPException, RequestValidationError, *known):
        app.add_exception_handler(kind, answer)
    app.add_exception_handler(sa.exc.SQLAlchemyError, answer_driver)
