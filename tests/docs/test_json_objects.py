"""docs/reference/json-schemas: `list` commands print lists, `audit` too, all others an object."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

SCHEMAS = sorted((Path(__file__).parents[2] / "docs" / "reference" / "json-schemas").glob("*.json"))


@pytest.mark.parametrize("file", SCHEMAS, ids=lambda file: file.stem)
def test_only_list_commands_print_lists(file: Path) -> None:
    schema = json.loads(file.read_text(encoding="utf-8"))
    is_list = file.stem.endswith("-list") or file.stem == "audit"
    assert schema.get("type", "object") == ("array" if is_list else "object")
