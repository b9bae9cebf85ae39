"""What test modules take from each other is there: else the whole suite would be the first to see that it is not."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]


@cache
def names_of(module: str) -> frozenset[str] | None:
    """Every name that a module of the tests has at its top, and its submodules; None if there is no such module."""
    place = ROOT.joinpath(*module.split("."))
    below = {one.stem for one in place.iterdir()} if place.is_dir() else set()
    file = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
    if not file.exists():
        return frozenset(below) or None
    tree = ast.parse(file.read_text())
    return frozenset(below.union(*(_made_by(node) for node in ast.walk(tree))))


def _made_by(node: ast.AST) -> set[str]:
    match node:
        case ast.Import(names=names) | ast.ImportFrom(names=names):
            return {one.asname or one.name.split(".")[0] for one in names}
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            return {name}
        case ast.Name(id=name, ctx=ast.Store()):
            return {name}
    return set()


def test_what_tests_import_from_tests_is_there() -> None:
    missing = []
    found = 0
    for file in sorted((ROOT / "tests").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "tests":
                names = names_of(node.module or "")
                found += 1
                missing += [
                    f"{file.relative_to(ROOT)}:{node.lineno}: {node.module}.{one.name}"
                    for one in node.names
                    if names is None or one.name not in names
                ]
    assert found > 100
    assert missing == []
