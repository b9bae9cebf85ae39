"""docs/reference: the commands as they are, every setting, every JSON document."""

from __future__ import annotations

import json
import re
from pathlib import Path

import click
import pytest
from jsonschema import Draft202012Validator
from pydantic import BaseModel

from common.cli.main import build
from common.cli.reference import render, walk
from common.config.model import Config

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"
SCHEMAS = REFERENCE / "json-schemas"


def leaf_commands() -> list[str]:
    """Return every command that runs something, as `dlq list`."""
    return [
        ctx.command_path.removeprefix("rowferry ")
        for command, ctx in walk(build())
        if not isinstance(command, click.Group)
    ]


def settings() -> list[str]:
    """Return every setting of the configuration tree, as `node.id`."""
    found = []
    for section, field in Config.model_fields.items():
        kinds = [field.annotation, *getattr(field.annotation, "__args__", ())]
        model = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)
        # A section without a model of its own has a line for each node.
        found += [f"{section}.{name}" for name in (["NODE"] if model is None else model.model_fields)]
    return found


def test_the_page_of_commands_is_up_to_date() -> None:
    written = (REFERENCE / "cli.md").read_text(encoding="utf-8")
    assert written == render(build()), "run: python -m common.cli.reference > docs/reference/cli.md"


@pytest.mark.parametrize("command", leaf_commands())
def test_every_command_says_what_it_does(command: str) -> None:
    found = {ctx.command_path.removeprefix("rowferry "): one for one, ctx in walk(build())}[command]
    assert found.help
    assert [param.name for param in found.params if isinstance(param, click.Option) and not param.help] == []


def test_no_line_of_a_list_of_commands_breaks_off() -> None:
    broken = []
    for command, ctx in walk(build()):
        ctx.terminal_width = 80
        if isinstance(command, click.Group):
            listed = command.get_help(ctx).split("Commands:")[1]
            broken += [line for line in listed.splitlines() if line.endswith("...")]
    assert broken == []


@pytest.mark.parametrize("setting", settings())
def test_every_setting_is_described(setting: str) -> None:
    page = (REFERENCE / "configuration.md").read_text(encoding="utf-8")
    rows = re.findall(rf"^\| `{re.escape(setting)}` \| (.+?) \| (.+?) \|$", page, re.MULTILINE)
    assert len(rows) == 1, f"docs/reference/configuration.md needs one table row for `{setting}`"


def test_no_setting_is_described_that_there_is_not() -> None:
    page = (REFERENCE / "configuration.md").read_text(encoding="utf-8")
    described = re.findall(r"^\| `([a-z_]+\.(?:[a-z_]+|NODE))` \|", page, re.MULTILINE)
    secret_files = {"node.database_file", "node.signing_key_file", "broker.url_file"}
    assert set(described) == set(settings()) | secret_files


@pytest.mark.parametrize("command", leaf_commands())
def test_every_document_has_a_schema(command: str) -> None:
    file = SCHEMAS / f"{command.replace(' ', '-')}.json"
    assert file.exists(), f"{file.name} is missing"
    schema = json.loads(file.read_text(encoding="utf-8"))
    Draft202012Validator.check_schema(schema)
    assert f"json-schemas/{file.name}" in (REFERENCE / "json.md").read_text(encoding="utf-8")


def test_no_schema_is_left_over() -> None:
    expected = {f"{command.replace(' ', '-')}.json" for command in leaf_commands()}
    assert {file.name for file in SCHEMAS.glob("*.json")} == expected
