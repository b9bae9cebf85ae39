"""The dashboard and the alerts ask for metrics and labels that are served, and the how-to tells of every alert."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from common.metrics import METRICS

ROOT = Path(__file__).parents[2]
RULES = ROOT / "infra" / "monitoring" / "rowferry-alerts.yml"
DASHBOARD = ROOT / "infra" / "monitoring" / "rowferry-dashboard.json"
HOWTO = ROOT / "docs" / "howto" / "monitoring.md"

OF_THE_SCRAPER = {"instance", "job"}
LABELS = {metric.name: {*metric.labels, *OF_THE_SCRAPER} for metric in METRICS} | {
    "up": OF_THE_SCRAPER,
    "process_resident_memory_bytes": OF_THE_SCRAPER,
}
WORDS = {"by", "without", "on", "ignoring", "and", "or", "unless", "bool", "offset", "group_left", "group_right"}
FUNCTIONS = {"sum", "max", "min", "avg", "count", "rate", "increase", "abs", "vector", "label_values", "deriv"}
TOKEN = re.compile(
    r'\s*(?:(?P<string>"(?:[^"\\]|\\.)*")|(?P<range>\[[^\]]*\])|(?P<name>[A-Za-z_:][\w:]*)'
    r"|(?P<number>\d+(?:\.\d+)?)|(?P<sign>=~|!~|==|!=|>=|<=|[-+*/%<>=(){},]))"
)


class NotAnExpressionError(ValueError):
    """What it says is no query, or asks for what nobody serves."""


def tokens(expression: str) -> Iterator[tuple[str, str]]:
    place = 0
    while expression[place:].strip():
        found = TOKEN.match(expression, place)
        if found is None:
            raise NotAnExpressionError(f"{expression[place:]!r} in {expression!r}")
        place = found.end()
        yield str(found.lastgroup), found.group(found.lastgroup or 0)


def check(expression: str) -> set[str]:
    """Return the metrics of an expression. Raises NotAnExpressionError."""
    found, open_signs = set[str](), list[str]()
    grouped_by, metric, asked = False, None, set[str]()
    stream = list(tokens(expression))
    for index, (kind, text) in enumerate(stream):
        following = stream[index + 1][1] if index + 1 < len(stream) else ""
        if text in ("(", "{"):
            open_signs.append("by" if grouped_by and text == "(" else text)
            grouped_by = False
        elif text in (")", "}"):
            opened = open_signs.pop() if open_signs else ""
            if (opened, text) not in {("(", ")"), ("by", ")"), ("{", "}")}:
                raise NotAnExpressionError(f"{text} in {expression!r}")
        elif kind == "name" and open_signs and open_signs[-1] == "{":
            if metric is None or text not in LABELS[metric]:
                raise NotAnExpressionError(f"{metric} has no label {text}: {expression!r}")
        elif kind == "name" and open_signs and open_signs[-1] == "by":
            asked.add(text)
        elif kind == "name" and text in WORDS:
            grouped_by = text in {"by", "without", "on", "ignoring"}
        elif (kind == "name" and following == "(") or text in FUNCTIONS:
            if text not in FUNCTIONS:
                raise NotAnExpressionError(f"{text}: no such function: {expression!r}")
        elif kind == "name":
            if text not in LABELS:
                raise NotAnExpressionError(f"{text}: nobody serves that: {expression!r}")
            metric = text
            found.add(text)
    if open_signs or not found:
        raise NotAnExpressionError(expression)
    for label in asked:
        if not any(label in LABELS[name] for name in found):
            raise NotAnExpressionError(f"none of {found} has the label {label}")
    return found


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def targets() -> list[tuple[str, str]]:
    """Return the expression and the legend of each line that the dashboard draws, and of its variables."""
    board = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    drawn = [(one["expr"], one["legendFormat"]) for panel in board["panels"] for one in panel["targets"]]
    lists = [one["query"]["query"] for one in board["templating"]["list"] if one["type"] == "query"]
    names = [re.fullmatch(r"label_values\((\w+), (\w+)\)", one) for one in lists]
    assert all(names)
    return drawn + [(one[1], f"{{{{{one[2]}}}}}") for one in names if one]


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_an_alert_asks_for_what_is_served_and_is_explained(rule: dict[str, Any]) -> None:
    names = check(rule["expr"])
    for label in re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]):
        assert any(label in LABELS[name] for name in names), label
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    page, anchor = rule["annotations"]["runbook"].split("#")
    assert (ROOT / page) == HOWTO
    assert anchor == rule["alert"].lower()
    assert f"### {rule['alert']}\n" in HOWTO.read_text(encoding="utf-8")


@pytest.mark.parametrize(("expression", "legend"), targets())
def test_the_dashboard_asks_for_what_is_served(expression: str, legend: str) -> None:
    names = check(expression)
    for label in re.findall(r"\{\{(\w+)\}\}", legend):
        assert any(label in LABELS[name] for name in names), label


def test_panels_do_not_overlap_and_fit() -> None:
    taken = set[tuple[int, int]]()
    for panel in json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells


def test_the_howto_tells_of_no_other_alert() -> None:
    told = re.findall(r"^### (Rowferry\w+)$", HOWTO.read_text(encoding="utf-8"), re.MULTILINE)
    assert told == [rule["alert"] for rule in rules()]


@pytest.mark.parametrize(
    "wrong",
    [
        "rowferry_no_such_metric > 0",
        'rowferry_dead_letters{peer="a"}',
        "sum by (road) (rowferry_dead_letters)",
        "sum(rowferry_dead_letters",
        "rowferry_dead_letters} > 0",
        "median(rowferry_dead_letters)",
        "1 > 0",
        "rowferry_dead_letters ? 1",
    ],
)
def test_a_wrong_expression_is_noticed(wrong: str) -> None:
    with pytest.raises(NotAnExpressionError):
        check(wrong)


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not here (Debian: package prometheus)")
def test_prometheus_takes_the_rules_and_does_with_them_what_is_meant(tmp_path: Path) -> None:
    tests = tmp_path / "test.yml"
    given = Path(__file__).with_name("rowferry-alerts.test.yml").read_text(encoding="utf-8")
    tests.write_text(given.replace("[RULES]", f"[{RULES}]"), encoding="utf-8")
    for arguments in (("check", "rules", str(RULES)), ("test", "rules", str(tests))):
        done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
