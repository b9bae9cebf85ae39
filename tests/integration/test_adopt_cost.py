"""What first versions cost where they come to: no statement a row."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from common.versions import FIRST
from tests.support.applying import Origin, World, Write
from tests.support.verifying import damage


def asked(world: World, origin: Origin, numbers: range) -> int:
    """Receive first versions of rows that stand with other values; return how many conflicts' and choices' looks."""
    values = ", ".join(f"({number}, 'here')" for number in numbers)
    damage(world.node.config.node.database, f"INSERT INTO item (id, name) VALUES {values}")
    rows = [
        Write("I", "item", {"id": number, "name": "there", "price": "1.50"}, 1, resolves=FIRST) for number in numbers
    ]
    found: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_more: Any) -> None:
        if statement.startswith("SELECT") and ("rf_choice" in statement or "rf_conflict" in statement):
            found.append(statement)

    sa.event.listen(sa.Engine, "before_cursor_execute", note)
    try:
        world.receive(origin.tx(*rows).body)
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", note)
    return len(found)


def test_what_is_known_of_rows_is_read_at_once(world: World) -> None:
    origin = Origin("a")
    few, many = asked(world, origin, range(1, 3)), asked(world, origin, range(1_000, 1_200))
    assert few == many > 0
    assert world.one("SELECT count(*) FROM rf_conflict WHERE kind = 'first-sync' AND our_image IS NOT NULL") == 202
