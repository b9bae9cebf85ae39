"""Loads the sides that are installed. Hosts know them only through the `Part` protocol."""

from importlib.metadata import entry_points

from common.ports.part import Part
from common.runtime.node import Node

GROUP = "rowferry.parts"


def load_parts() -> list[Part[Node]]:
    """Return the installed parts by name, the producer before the consumer's intake: last in the alphabet first.

    What is sealed and sent then stands before what is received, in `status` as in `run --once`."""
    found: list[Part[Node]] = [point.load() for point in entry_points(group=GROUP)]
    return sorted(found, key=lambda part: part.name, reverse=True)
