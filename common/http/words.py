"""Parameters that many routes take, with what no database takes refused at the door."""

from typing import Annotated

from fastapi import Path, Query, Request

from common.clock import from_iso, to_iso
from common.http.problems import ProblemError

_NO_NUL = r"^[^\x00]*$"
_LONGEST = 200
MOST = 10_000


def only_known(request: Request) -> None:
    """Refuse a parameter that a route does not know, or that is given twice: it would be left out in silence.

    Raises ProblemError."""
    names = [name for name, _ in request.query_params.multi_items()]
    if not names:
        return
    known = _parameters(request)
    if known is None:
        return
    for name in names:
        if name not in known:
            there = ", ".join(sorted(known)) or "none"
            raise ProblemError(422, f"query.{name}: there is no such parameter; there are: {there}", reason="request")
        if names.count(name) > 1:
            raise ProblemError(422, f"query.{name}: given more than once", reason="request")


def _parameters(request: Request) -> frozenset[str] | None:
    """Return what the description says of a route; None where it is not described (a page for people), and where it is
    open: who looks whether a node lives may add what he likes."""
    operations = request.app.openapi()["paths"].get(getattr(request.scope["route"], "path", ""))
    operation = (operations or {}).get(request.method.lower())
    if operation is None or "security" not in operation:
        return None
    return frozenset(one["name"] for one in operation.get("parameters", ()) if one["in"] == "query")


Word = Annotated[str | None, Query(min_length=1, max_length=_LONGEST, pattern=_NO_NUL)]
"""A condition; left out, it is none."""
TxId = Annotated[str, Path(min_length=1, max_length=_LONGEST, pattern=r"^[A-Za-z0-9_.:-]+$")]
Number = Annotated[int, Path(ge=1, le=2**63 - 1)]
Limit = Annotated[int, Query(ge=1, le=MOST, description="At most so many, the newest.")]
Since = Annotated[
    str | None,
    Query(
        max_length=40, description="From this instant on: ISO 8601, like 2026-11-26T09:30Z; without a zone it is UTC."
    ),
]
Until = Annotated[str | None, Query(max_length=40, description="Before this instant, told as `since`.")]


def asked_instant(name: str, text: str | None) -> int | None:
    """Return an instant of a query as microseconds since the epoch; None where there is none. Raises ProblemError."""
    if not text:
        return None
    try:
        return from_iso(text)
    except ValueError as error:
        told = f"{name}: give an instant like 2026-11-26T09:30Z; without a zone it is UTC"
        raise ProblemError(422, told, reason="request") from error


def check_span(first: str, since_us: int | None, last: str, until_us: int | None) -> None:
    """Refuse a stretch of time that ends before it begins: it would look as if nothing had happened.

    `first`, `last`: what the two are called. Raises ProblemError."""
    if since_us is not None and until_us is not None and since_us > until_us:
        told = f"{first}: {to_iso(since_us)} is after {last}: {to_iso(until_us)}: no line is in between"
        raise ProblemError(422, told, reason="request")
