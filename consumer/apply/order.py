"""The order in which tables are written: parents before their children. Pure."""

from collections.abc import Iterable
from graphlib import CycleError, TopologicalSorter

from consumer.tables import TableUse


def parents_first(uses: Iterable[TableUse]) -> list[TableUse]:
    """Return `uses` so that a table comes after those it refers to, where that can be had; else by name."""
    by_name = sorted(uses, key=lambda use: use.name)
    names = {use.name for use in by_name}
    graph = {use.name: _parents(use) & names for use in by_name}
    try:
        rank = {name: place for place, name in enumerate(TopologicalSorter(graph).static_order())}
    except CycleError:
        return by_name
    return sorted(by_name, key=lambda use: rank[use.name])


def _parents(use: TableUse) -> set[str]:
    return {key.parent for key in use.shape.foreign_keys if key.parent != use.name}
