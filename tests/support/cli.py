"""Commands run inside the test's process, and their documents held against the published schemas."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result
from jsonschema import Draft202012Validator

from common.cli.main import build
from tests.support.nodes import CliNode

SCHEMAS = Path(__file__).parents[2] / "docs" / "reference" / "json-schemas"


def rowferry(config: Path, *arguments: str) -> Result:
    """Run one command; return what it printed and its exit code."""
    return CliRunner().invoke(build(), ["--config", str(config), *arguments])


def document(config: Path, *arguments: str, code: int = 0) -> Any:
    """Run one command with `--json`, check its document against its schema, and return it."""
    result = rowferry(config, *arguments, "--json")
    assert result.exit_code == code, result.output
    return checked(_name(arguments), json.loads(result.stdout))


def call(node: CliNode, *arguments: str) -> Result:
    """Run one command of a node in this process: some tests run many."""
    return rowferry(node.folder / "rowferry.toml", *arguments)


def ok(node: CliNode, *arguments: str) -> str:
    """The same where it must end with 0; return what it printed."""
    done = call(node, *arguments)
    assert done.exit_code == 0, done.output
    return done.output


def checked(command: str, printed: Any) -> Any:
    """Return a document that is as docs/reference/json-schemas says."""
    _validator(command).validate(printed)
    return printed


def _name(arguments: tuple[str, ...]) -> str:
    """Return the command's name as its schema file is called."""
    candidates = ("-".join(arguments[:2]), arguments[0])
    return next(name for name in candidates if (SCHEMAS / f"{name}.json").exists())


@cache
def _validator(command: str) -> Draft202012Validator:
    return Draft202012Validator(json.loads((SCHEMAS / f"{command}.json").read_text(encoding="utf-8")))
