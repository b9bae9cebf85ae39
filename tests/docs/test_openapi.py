"""docs/reference/openapi.json is what the node serves, and docs/reference/http.md names every route."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.web.openapi import current, render

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"


def routes() -> list[str]:
    """Return every route as the page writes it."""
    return [f"{method.upper()} {path}" for path, methods in current()["paths"].items() for method in methods]


def test_the_description_is_up_to_date() -> None:
    written = (REFERENCE / "openapi.json").read_text(encoding="utf-8")
    assert written == render(), "run: python -m common.web.openapi > docs/reference/openapi.json"


@pytest.mark.parametrize("route", routes())
def test_the_page_names_every_route(route: str) -> None:
    assert f"`{route}`" in (REFERENCE / "http.md").read_text(encoding="utf-8")
