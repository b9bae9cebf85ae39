"""Somebody with the shared folder, or the broker's account, speaks as another node: nothing of it is applied."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.nodes import CliNode, sqlite_database

CREATE = "CREATE TABLE sale (id TEXT PRIMARY KEY, amount NUMERIC)"


@pytest.fixture(params=["folder", pytest.param("rabbitmq", marks=pytest.mark.containers)])
def three(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[CliNode, CliNode, CliNode]]:
    """Main, shop, and somebody who says to be shop: with the same way, another database, and no key."""
    way = ("--broker", request.getfixturevalue("rabbitmq_url")) if request.param == "rabbitmq" else ()
    made = []
    for name, node_id in (("main", "main"), ("shop", "shop"), ("forger", "shop")):
        folder = tmp_path / name
        folder.mkdir()
        more = ("--role", "main") if name == "main" else ()
        shared = () if way else ("--directory", str(tmp_path / "exchange"))
        made.append(CliNode.init(node_id, folder, sqlite_database(folder, "app.db", [CREATE]), *more, *way, *shared))
    for node in made[:2]:
        node.ok("migrate")
    yield made[0], made[1], made[2]
    for node in made:
        node.close()


def test_a_forged_batch_is_set_aside_and_the_real_one_applied(three: tuple[CliNode, CliNode, CliNode]) -> None:
    main, shop, forger = three
    made = shop.report("key", "create")
    shop.configure("[node]", 'signing_key_file = "shop.key"')
    main.configure("[signers]", f'shop = "{made["public_key"]}"')
    forger.ok("migrate")
    forger.execute("INSERT INTO sale VALUES ('forged', 1000000)")
    forger.ok("run", "--once", "--only", "producer")

    main.ok("run", "--once", code=4)
    assert main.rows(["sale"])["sale"] == []
    (letter,) = main.report("dlq", "list")
    assert (letter["source_node"], letter["reason"], letter["state"]) == ("shop", "unsigned", "dead")
    assert [one["action"] for one in main.report("audit") if one["tx_id"] == letter["tx_id"]] == ["set-aside"]
    assert main.watermark("shop") == 0

    shop.execute("INSERT INTO sale VALUES ('real', 5)")
    shop.ok("run", "--once")
    main.ok("run", "--once")
    assert [row[0] for row in main.rows(["sale"])["sale"]] == ["real"]
    assert main.watermark("shop") == shop.head()
    findings = {(one["area"], one["level"]) for one in main.report("doctor")["findings"]}
    # It looks at shop's signatures, and signs nothing itself.
    assert ("signatures", "note") in findings
