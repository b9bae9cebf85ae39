"""The description of the routes as it is served at `/openapi.json` and kept in `docs/reference/openapi.json`.

`python -m common.web.openapi` prints it."""

import json
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from common.http.problems import MEDIA_TYPE, SCHEMA, ProblemDocument

_OF_THE_FRAMEWORK = ("HTTPValidationError", "ValidationError")


def describe(app: FastAPI) -> None:
    """Make the description tell what this application does: its refusals are problem documents."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _described(app)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _described(app: FastAPI) -> dict[str, Any]:
    found = get_openapi(
        title=app.title, version=app.version, summary=app.summary, routes=app.routes, openapi_version="3.1.0"
    )
    schemas = found.setdefault("components", {}).setdefault("schemas", {})
    for name in _OF_THE_FRAMEWORK:
        schemas.pop(name, None)
    schemas[SCHEMA] = ProblemDocument.model_json_schema(ref_template="#/components/schemas/{model}")
    problem = {"content": {MEDIA_TYPE: {"schema": {"$ref": f"#/components/schemas/{SCHEMA}"}}}}
    for operations in found["paths"].values():
        for operation in operations.values():
            if "422" in operation["responses"]:
                operation["responses"]["422"] = {"description": "Unprocessable Content", **problem}
    return found


def current() -> dict[str, Any]:
    """Return the description of this release, of a node made for it alone."""
    # Not at the top: the application imports this module.
    from common.clock import SystemClock
    from common.config.model import Config
    from common.dialects import open_database
    from common.ops.migration import migrate
    from common.runtime.node import open_node
    from common.runtime.parts import load_parts
    from common.web.app import build_web

    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{Path(folder) / 'node.db'}"
        config = Config.model_validate({"node": {"id": "node", "database": url}})
        database = open_database(url)
        migrate(database, config, SystemClock())
        database.close()
        with open_node(config) as node:
            return build_web(node, load_parts(), threading.Event()).app.openapi()


def render() -> str:
    """Return the page of docs/reference."""
    return json.dumps(current(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.stdout.write(render())
