"""What must stand in the end, worked out from the batches alone: no code of the product decides here."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

Row = dict[str, Any]
Key = tuple[str, int]


class Model:
    """The last write of every row, and the rule put as simply as can be. Tables must come parents first."""

    def __init__(self, unique: dict[str, Any], references: dict[str, dict[str, str]]) -> None:
        """`unique`: table → what gives the values of each of its unique keys, None for a key that does not hold.
        `references`: table → column → parent table, whose key is `id`."""
        self._unique = unique
        self._references = references
        self.last: dict[Key, tuple[list[Any], list[Any] | None, Row | None]] = {}

    def take(self, bodies: Iterable[bytes]) -> None:
        """Take batches, in any order, parts of large ones too: no change line of these tests is cut."""
        lines = (json.loads(line) for body in bodies for line in body.splitlines())
        self.take_changes(line for line in lines if line["type"] == "change")

    def take_changes(self, changes: Iterable[dict[str, Any]]) -> None:
        """Take change lines, in any order."""
        for change in changes:
            key = change["table"], change["pk"]["id"]
            if key not in self.last or change["version"] > self.last[key][0]:
                self.last[key] = change["version"], change["base"], change["after"]

    def standing(self, tables: Iterable[str]) -> dict[Key, Row]:
        """Return the rows that stand, by table and key."""
        found: dict[Key, Row] = {}
        for table in tables:
            rows = {key: row for key, (_, _, row) in self.last.items() if key[0] == table and row is not None}
            rows = self._whole(table, rows, found)
            taken: set[Any] = set()
            for key in sorted(rows, key=self._rank, reverse=True):
                values = [(place, one) for place, one in enumerate(self._unique[table](rows[key])) if one is not None]
                if taken.isdisjoint(values):
                    taken.update(values)
                    found[key] = rows[key]
        return found

    def _rank(self, key: Key) -> Any:
        version, base, _ = self.last[key]
        return (
            version[0] > (base or [0])[0],
            version[1],
            version[2],
            key[0],
            json.dumps({"id": key[1]}, separators=(",", ":")),
        )

    def _whole(self, table: str, rows: dict[Key, Row], found: dict[Key, Row]) -> dict[Key, Row]:
        """Leave out children without a parent until every one left has all of its parents."""
        while True:
            left = {
                key: row
                for key, row in rows.items()
                if all(
                    row[column] is None or (parent, row[column]) in (rows if parent == table else found)
                    for column, parent in self._references.get(table, {}).items()
                )
            }
            if left == rows:
                return left
            rows = left
