"""What other nodes and clients send is shown, and commands no terminal."""

from __future__ import annotations

import io
import json
import logging
import re
import shlex

import pytest

from common.console import Console
from common.logs import JsonLines, TextLines
from common.visible import as_argument, visible

HOSTILE = "a\x1b]0;title\x07\x1b[2Jb\rc\bd\x7fe\x9b31mf\u202eg\u2066h\u2028i\u061cj"
COMMANDS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u2028\u202e\u2066]")


def said(tell: str, text: str) -> str:
    stream = io.StringIO()
    console = Console(out=stream, err=stream)
    match tell:
        case "table":
            console.table(text, ["id", text], [[text, text]])
        case "print_json" | "print_json_line":
            getattr(console, tell)({text: text})
        case _:
            getattr(console, tell)(text)
    return stream.getvalue()


@pytest.mark.parametrize("tell", ["say", "warn", "error", "table", "print_json", "print_json_line"])
def test_no_text_commands_the_terminal(tell: str) -> None:
    told = said(tell, HOSTILE)
    assert not COMMANDS.search(told)
    assert "\\u001b]0;title" in told


@pytest.mark.parametrize("tell", ["print_json", "print_json_line"])
def test_a_document_says_the_same(tell: str) -> None:
    assert json.loads(said(tell, HOSTILE)) == {HOSTILE: HOSTILE}


def test_newlines_tabs_and_other_scripts_stay() -> None:
    text = "zwei\n\tZeilen: äöü 日本語 🙂 \\ [red]"
    assert visible(text) == text
    assert "[red]" in said("say", text)


def test_a_value_of_several_lines_adds_no_field() -> None:
    stream = io.StringIO()
    console = Console(out=stream)
    console.field("note", f"lost\nstate: replayed\n{HOSTILE}")
    console.field("by", "anna")
    told = stream.getvalue()
    assert [line for line in told.splitlines() if not line.startswith(" ")] == ["note: lost", "by: anna"]
    assert "    state: replayed" in told
    assert not COMMANDS.search(told)


@pytest.mark.parametrize("style", [TextLines, JsonLines])
def test_no_field_of_a_log_line_commands_the_terminal(style: type[logging.Formatter]) -> None:
    fields = {"path": "/\x1b]0;title\x07", "spaced": f"x {HOSTILE}", "many": [HOSTILE], "inner": {"a": HOSTILE}}
    record = logging.makeLogRecord({"msg": "http.too_slow", "levelname": "WARNING", "name": "x", **fields})
    line = style().format(record)
    assert not COMMANDS.search(line)
    assert "\\u001b]0;title" in line
    assert "\n" not in line


@pytest.mark.parametrize(
    ("name", "typed"),
    [
        ("sale", "sale"),
        ("shop.straße", "shop.straße"),
        ("Order line", '"Order line"'),
        ("a;b", '"a;b"'),
        ("cost in $", "'cost in $'"),
    ],
)
def test_a_name_in_a_command_is_one_argument(name: str, typed: str) -> None:
    assert as_argument(name) == typed
    assert shlex.split(typed) == [name]
