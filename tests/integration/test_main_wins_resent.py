"""What the main node sends again without having written it does not go above what others write meanwhile."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from common.versions import Version
from tests.support.applying import DATABASES, Origin, World, close_world, item, open_world, sqlite_url


@pytest.fixture(params=DATABASES)
def main(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    url = sqlite_url(tmp_path) if request.param == "sqlite" else request.getfixturevalue("pg_database")
    node = {"id": "hq", "database": url, "role": "main"}
    made = open_world(url, node=node, tables={"policy": {"item": "main-wins"}})
    yield made
    close_world(made)


def sealed(world: World) -> list[dict[str, Any]]:
    """Seal, and return every change of the log."""
    facts = world.node.facts
    while world.node.database.sealer(facts).seal().more:
        pass
    return [json.loads(line) for tx in world.node.database.log(facts).read(0, 2**40) for line in tx.lines()]


def test_a_row_merged_of_a_branch_s_write_stays_in_its_epoch(main: World) -> None:
    """The branch may have written the row again before it hears of the merge, and main has written nothing."""
    main.execute("ALTER TABLE item ADD COLUMN note TEXT")
    main.node.database.capture().install(list(main.node.captured_tables().values()))
    main.execute("INSERT INTO item VALUES (1, 'mine', 1.50, 'kept')")
    (own,) = sealed(main)
    assert own["version"][0] == 1
    theirs = Version(1, own["version"][1] + 10, "b")
    main.receive(Origin("b").tx(replace(item(1, "theirs", theirs.hlc, Version(*own["version"]), "U"), epoch=1)).body)
    _, merged = sealed(main)
    assert merged["after"]["note"] == "kept"
    assert merged["after"]["name"] == "theirs"
    assert merged["base"] == [1, theirs.hlc, "b"]
    assert merged["version"] == [1, theirs.hlc + 1, "hq"]
    main.execute("UPDATE item SET name = 'mine again' WHERE id = 1")
    assert sealed(main)[-1]["version"][0] == 2
