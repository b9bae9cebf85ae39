"""The first sync of two nodes that both have rows from before `migrate`, on both kinds of databases."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.cli import call, document, ok
from tests.support.nodes import CliNode
from tests.support.verifying import Pair, application, damage, made_pair, pair_with

DDL = (
    "CREATE TABLE parent (id integer PRIMARY KEY, name text)",
    "CREATE TABLE item (id integer PRIMARY KEY, parent_id integer REFERENCES parent (id), name text,"
    " price numeric(9, 2))",
    "CREATE TABLE pair (a text, b numeric(9, 2), v text, PRIMARY KEY (a, b))",
)
MAIN = (
    "INSERT INTO parent VALUES (1, 'one'), (2, 'two, main'), (3, 'main alone')",
    "INSERT INTO item VALUES (1, 1, 'same', 1.50), (2, 3, 'main', 2), (3, 3, 'main alone', NULL)",
    "INSERT INTO pair VALUES ('k', 1.50, 'main'), ('m', 7, 'm')",
)
SHOP = (
    "INSERT INTO parent VALUES (1, 'one'), (2, 'two, shop'), (9, 'shop alone')",
    "INSERT INTO item VALUES (1, 1, 'same', 1.5), (2, 1, 'shop', 2), (9, 9, 'shop alone', 9)",
    "INSERT INTO pair VALUES ('k', 1.50, 'shop'), ('s', 7, 's')",
)
TABLES = ("parent", "item", "pair")


@contextmanager
def first_met(folder: Path, main_url: str, shop_url: str, policy: str | None = None, **sections: Any) -> Iterator[Pair]:
    """Main and a branch that had rows before `migrate`; `policy`: of all three tables, on both."""
    if policy is not None:
        sections["tables"] = {"policy": dict.fromkeys(TABLES, policy)}
    with made_pair(folder, main_url, shop_url, (*DDL, *MAIN), (*DDL, *SHOP), **sections) as pair:
        if policy is not None:
            config = pair.branch.folder / "rowferry.toml"
            lines = "".join(f'{name} = "{policy}"\n' for name in TABLES)
            config.write_text(config.read_text().replace("\n# [tables.keys]", f"\n{lines}\n# [tables.keys]"))
            ok(pair.branch, "migrate")
        yield pair


@pytest.fixture
def pair(tmp_path: Path, main_url: str, shop_url: str) -> Iterator[Pair]:
    with first_met(tmp_path, main_url, shop_url) as one:
        yield one


@pytest.fixture
def sqlite_pair(tmp_path: Path) -> Iterator[Pair]:
    with first_met(tmp_path, f"sqlite:///{tmp_path / 'main.db'}", f"sqlite:///{tmp_path / 'shop.db'}") as one:
        yield one


def adopt(pair: Pair, *arguments: str, code: int = 0) -> Any:
    return document(pair.branch.folder / "rowferry.toml", "adopt", *arguments, code=code)


def contents(pair: Pair) -> tuple[Any, Any]:
    """All rows, of main and of the branch; numbers as text."""
    queries = (
        "SELECT id, name FROM parent ORDER BY 1",
        "SELECT id, parent_id, name, CAST(price AS float) FROM item ORDER BY 1",
        "SELECT a, CAST(b AS float), v FROM pair ORDER BY 1, 2",
    )
    return tuple([one.query(query) for query in queries] for one in (pair.main.world, pair.branch))  # type: ignore[return-value]


def conflicts(pair: Pair) -> list[tuple[Any, ...]]:
    """What the branch has on record: table, first value of the key, kind, state, winner, both names."""
    columns = "table_name, pk, kind, state, winner, our_image, their_image"
    query = f"SELECT {columns} FROM rf_conflict ORDER BY table_name, pk, id"
    return [
        (table, *json.loads(pk).values(), kind, state, winner, *(_name(image) for image in (ours, theirs)))
        for table, pk, kind, state, winner, ours, theirs in pair.branch.query(query)
    ]


def _name(image: str) -> Any:
    found = json.loads(image)
    return found.get("name", found.get("v"))


def test_mains_image_stands_and_the_other_is_a_conflict(pair: Pair) -> None:
    told = adopt(pair, "--from", "main")
    assert (told["node"], told["peer"], told["from"], told["refused"]) == ("shop", "main", "main", 0)
    assert (told["given_here"], told["given_there"]) == (3, 6)
    by_table = {one["table"]: one for one in told["tables"]}
    assert {name: (one["only_here"], one["only_there"], one["other_values"]) for name, one in by_table.items()} == {
        "parent": (1, 1, 1),
        "item": (1, 1, 1),
        "pair": (1, 1, 1),
    }
    pair.sync()
    main, shop = contents(pair)
    assert main == shop
    assert main == [
        [(1, "one"), (2, "two, main"), (3, "main alone"), (9, "shop alone")],
        [(1, 1, "same", 1.5), (2, 3, "main", 2.0), (3, 3, "main alone", None), (9, 9, "shop alone", 9.0)],
        [("k", 1.5, "main"), ("m", 7.0, "m"), ("s", 7.0, "s")],
    ]
    assert conflicts(pair) == [
        ("item", 2, "first-sync", "settled", "theirs", "shop", "main"),
        ("pair", "k", "1.5", "first-sync", "settled", "theirs", "shop", "main"),
        ("parent", 2, "first-sync", "settled", "theirs", "two, shop", "two, main"),
    ]
    assert pair.main.world.query("SELECT count(*) FROM rf_conflict") == [(0,)]
    assert ok(pair.branch, "dlq", "list", "--json").strip() == "[]"
    assert pair.verify()["equal"]


def test_each_gives_its_own_and_the_policy_decides(pair: Pair) -> None:
    told = adopt(pair, "main", "--from", "each")
    # Nobody knows which was written later: the greater name of a node decides, and only that node gives its own.
    assert (told["given_here"], told["given_there"]) == (6, 3)
    pair.sync()
    main, shop = contents(pair)
    assert main == shop
    assert (2, "two, shop") in main[0]
    assert ("k", 1.5, "shop") in main[2]
    (kept,) = pair.main.world.query("SELECT kind, winner, our_image FROM rf_conflict WHERE table_name = 'parent'")
    assert (*kept[:2], _name(kept[2])) == ("first-sync", "theirs", "two, main")
    assert pair.verify()["equal"]


@pytest.mark.parametrize("side", ["main", "each"])
def test_in_a_main_wins_table_mains_image_stands_either_way(
    tmp_path: Path, main_url: str, shop_url: str, side: str
) -> None:
    with first_met(tmp_path, main_url, shop_url, "main-wins") as pair:
        told = adopt(pair, "--from", side)
        assert (told["given_here"], told["given_there"]) == (3, 6)
        pair.sync()
        main, shop = contents(pair)
        assert main == shop
        assert (2, "two, main") in main[0]


def test_in_a_manual_table_someone_chooses_where_each_gives_its_own(
    tmp_path: Path, main_url: str, shop_url: str
) -> None:
    with first_met(tmp_path, main_url, shop_url, "manual") as pair:
        adopt(pair, "--from", "each")
        call(pair.branch, "run", "--once")
        call(pair.branch, "run", "--once")
        listed = json.loads(ok(pair.branch, "conflicts", "list", "--json"))
        assert {(one["table"], one["state"]) for one in listed} == {(name, "waiting") for name in TABLES}
        for one in listed:
            ok(pair.branch, "conflicts", "resolve", str(one["id"]), "--take", "theirs")
        pair.sync()
        main, shop = contents(pair)
        assert main == shop
        assert (2, "two, main") in main[0]


def test_in_a_manual_table_each_waits_whichever_comes_first(tmp_path: Path, main_url: str, shop_url: str) -> None:
    """What the branch has given reaches main before main has given its own."""
    with first_met(tmp_path, main_url, shop_url, "manual") as pair:
        rows = [{"table": "parent", "pk": {"id": 2}, "each": True}]
        with pair.main.client(pair.main.token("shop")) as client:
            assert client.post("/sync/adopt", json={"rows": rows}).json()["results"][0]["outcome"] == "given"
        call(pair.branch, "run", "--once")
        (one,) = json.loads(ok(pair.branch, "conflicts", "list", "--json"))
        assert (one["table"], one["state"], one["their_version"]) == ("parent", "waiting", [0, 1, "main"])
        told = adopt(pair, "--from", "each")
        assert told["refused"] == 0
        call(pair.branch, "run", "--once")
        call(pair.branch, "run", "--once")
        listed = json.loads(ok(pair.branch, "conflicts", "list", "--json"))
        assert {one["state"] for one in listed} == {"waiting"}
        for one in listed:
            call(pair.branch, "conflicts", "resolve", str(one["id"]), "--take", "ours")
        pair.sync()
        main, shop = contents(pair)
        assert main == shop
        assert (2, "two, shop") in main[0]


def test_in_a_manual_table_a_write_stands_above_a_first_version_without_a_choice(
    tmp_path: Path, main_url: str, shop_url: str
) -> None:
    with first_met(tmp_path, main_url, shop_url, "manual") as pair:
        pair.branch.execute("UPDATE parent SET name = 'written' WHERE id = 2")
        with pair.main.client(pair.main.token("shop")) as client:
            client.post("/sync/adopt", json={"rows": [{"table": "parent", "pk": {"id": 2}}]})
        pair.sync()
        main, shop = contents(pair)
        assert main[0][1] == shop[0][1] == (2, "written")
        assert pair.main.world.query("SELECT count(*) FROM rf_conflict WHERE state = 'waiting'") == [(0,)]


def test_who_is_main_has_to_be_known_where_main_wins(tmp_path: Path) -> None:
    urls = [f"sqlite:///{tmp_path / name}.db" for name in ("main", "shop")]
    with first_met(tmp_path, *urls, "main-wins") as pair:
        shop = pair.branch
        other = CliNode("other", tmp_path / "other", f"sqlite:///{tmp_path / 'other.db'}")
        other.folder.mkdir()
        ok(other, "init", "--node", "other", "--database", other.database)
        other.execute(*DDL, *SHOP)
        ok(other, "migrate")
        ok(other, "verify", "--export", str(tmp_path / "other.jsonl"))
        refused = call(shop, "adopt", "--from", "each", "--file", str(tmp_path / "other.jsonl"))
        assert refused.exit_code == 2
        assert "[node] main" in refused.stderr


def test_columns_that_one_side_alone_has_are_named(tmp_path: Path) -> None:
    urls = [f"sqlite:///{tmp_path / name}.db" for name in ("main", "shop")]
    wider = tuple(one.replace("name text)", "name text, note text)") for one in DDL[:1])
    shop = tuple(one.replace("VALUES (9, 'shop alone')", "VALUES (9, 'shop alone', 'n')") for one in SHOP[:1])
    shop = tuple(one.replace("INTO parent VALUES", "INTO parent (id, name) VALUES") for one in shop)
    with made_pair(tmp_path, *urls, (DDL[0], MAIN[0]), (*wider, *shop)) as pair:
        told = adopt(pair, "--from", "main", "--dry-run")
        assert told["tables"][0]["columns_only_here"] == ["note"]
        assert "only one side has note" in call(pair.branch, "adopt", "--from", "main", "--dry-run").stderr


@pytest.mark.parametrize("policy", ["manual", "append-only"])
def test_mains_image_stands_at_once_whatever_the_policy(
    tmp_path: Path, main_url: str, shop_url: str, policy: str
) -> None:
    with first_met(tmp_path, main_url, shop_url, policy) as pair:
        adopt(pair, "--from", "main")
        pair.sync()
        main, shop = contents(pair)
        assert main == shop
        assert (2, "two, main") in main[0]
        assert ok(pair.branch, "dlq", "list", "--json").strip() == "[]"
        assert {row[-4] for row in conflicts(pair)} == {"settled"}


def test_a_dry_run_tells_the_same_and_does_nothing(pair: Pair) -> None:
    before = contents(pair)
    told = adopt(pair, "--from", "main", "--dry-run")
    assert told["dry_run"]
    assert (told["given_here"], told["given_there"]) == (0, 0)
    by_table = {one["table"]: (one["from_here"], one["from_there"]) for one in told["tables"]}
    assert by_table == {"parent": (1, 2), "item": (1, 2), "pair": (1, 2)}
    pair.sync()
    assert contents(pair) == before


def test_a_second_time_finds_nothing_to_do(pair: Pair) -> None:
    adopt(pair, "--from", "main")
    again = adopt(pair, "--from", "main")
    assert (again["given_here"], again["given_there"], again["rows"]) == (0, 0, [])
    assert sum(one["on_their_way"] for one in again["tables"]) == 9
    pair.sync()
    last = adopt(pair, "--from", "each")
    assert (last["given_here"], last["given_there"], last["rows"]) == (0, 0, [])


def test_what_somebody_has_written_since_stands_above_a_first_version(pair: Pair) -> None:
    """Also where the first version is given after it, by a node that does not know of the write yet."""
    pair.branch.execute("UPDATE parent SET name = 'written' WHERE id = 2", "DELETE FROM item WHERE id = 2")
    told = adopt(pair, "--from", "main")
    assert sum(one["on_their_way"] for one in told["tables"]) == 2
    assert (told["given_here"], told["given_there"]) == (3, 4)
    # Of what differs main's part was left out. It gives it all the same to who does not know of the write.
    question = {"rows": [{"table": "parent", "pk": {"id": 2}}, {"table": "item", "pk": {"id": 2}}]}
    with pair.main.client(pair.main.token("shop")) as client:
        answer = client.post("/sync/adopt", json=question).json()
    assert [one["outcome"] for one in answer["results"]] == ["given", "given"]
    pair.sync()
    main, shop = contents(pair)
    assert main == shop
    assert (2, "written") in main[0]
    assert [row[0] for row in main[1]] == [1, 3, 9]


def test_a_third_node_keeps_its_own_image_as_a_conflict(tmp_path: Path) -> None:
    """It has not adopted yet when the first version of a row reaches it."""
    with ExitStack() as stack:
        urls = [f"sqlite:///{tmp_path / name}.db" for name in ("main", "shop", "third")]
        pair = stack.enter_context(first_met(tmp_path, urls[0], urls[1]))
        own = [one.replace("shop", "third").replace("(9,", "(8,").replace(" 9, ", " 8, ") for one in SHOP]
        application(urls[2], *DDL, *own)
        third = pair_with(pair.main, "third", tmp_path, urls[2])
        adopt(pair, "--from", "main")
        pair.sync()
        third.sync()
        _, other = contents(third)
        assert (2, "two, main") in other[0]
        assert ("item", 2, "first-sync", "settled", "theirs", "third", "main") in conflicts(third)
        told = adopt(third, "--from", "main")
        assert told["given_here"] == 2
        for one in (third, pair, third):
            one.sync()
        assert contents(third)[0] == contents(third)[1] == contents(pair)[1]
        assert pair.verify()["equal"]
        assert third.verify()["equal"]


def test_a_choice_can_be_undone(sqlite_pair: Pair) -> None:
    adopt(sqlite_pair, "--from", "main")
    sqlite_pair.sync()
    listed = json.loads(ok(sqlite_pair.branch, "conflicts", "list", "--json"))
    (number,) = [one["id"] for one in listed if one["table"] == "parent"]
    assert "two, shop" in ok(sqlite_pair.branch, "conflicts", "show", str(number))
    ok(sqlite_pair.branch, "conflicts", "undo", str(number))
    sqlite_pair.sync()
    main, shop = contents(sqlite_pair)
    assert main == shop
    assert (2, "two, shop") in main[0]


def test_by_files_each_node_gives_its_own_part(tmp_path: Path, main_url: str, shop_url: str) -> None:
    nodes = []
    for name, url, rows in (("main", main_url, MAIN), ("shop", shop_url, SHOP)):
        node = CliNode(name, tmp_path / name, url)
        node.folder.mkdir()
        role = ["--role", "main"] if name == "main" else []
        ok(node, "init", "--node", name, "--database", url, *role, "--directory", str(tmp_path / "exchange"))
        node.execute(*DDL, *rows)
        ok(node, "migrate")
        ok(node, "verify", "--export", str(tmp_path / f"{name}.jsonl.zst"))
        nodes.append(node)
    main, shop = nodes
    config = shop.folder / "rowferry.toml"
    shop.configure("[node]", 'main = "main"')
    told = document(config, "adopt", "--from", "main", "--file", str(tmp_path / "main.jsonl.zst"))
    assert (told["given_here"], told["given_there"], told["asked_there"]) == (3, 0, False)
    printed = ok(main, "adopt", "--from", "main", "--file", str(tmp_path / "shop.jsonl.zst"))
    assert "main gave 6" in printed
    assert "shop has to give 3: rowferry verify --export FILE here" in printed
    for node in (main, shop, main, shop):
        ok(node, "run", "--once")
    for name in TABLES:
        assert main.query(f"SELECT count(*) FROM {name}") == shop.query(f"SELECT count(*) FROM {name}")
    ok(main, "verify", "--export", str(tmp_path / "last.jsonl"))
    assert document(config, "verify", "--file", str(tmp_path / "last.jsonl"))["equal"]


def test_what_is_told_on_a_terminal(sqlite_pair: Pair) -> None:
    dry = ok(sqlite_pair.branch, "adopt", "--from", "main", "--dry-run")
    assert "9 rows differ from before the first sync: shop would give 3, main 6" in dry
    assert "would be given at main" in dry
    done = ok(sqlite_pair.branch, "adopt", "--from", "main")
    assert "shop gave 3, main 6" in done
    sqlite_pair.sync()
    assert "no rows from before the first sync that differ" in ok(sqlite_pair.branch, "adopt", "--from", "main")


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        pytest.param((), 2, "--from", id="no side"),
        pytest.param(("--from", "shop"), 2, "main", id="another side"),
        pytest.param(("nobody", "--from", "main"), 2, "no [peers] section", id="no such peer"),
        pytest.param(("main", "--from", "main", "--file", "x"), 2, "give only one of", id="two of them"),
        pytest.param(("--from", "main", "--file", "x"), 2, "no such file", id="no such file"),
        pytest.param(("--from", "main", "--tables", "nothing"), 2, "nothing", id="no such table"),
    ],
)
def test_wrong_arguments(sqlite_pair: Pair, arguments: tuple[str, ...], code: int, told: str) -> None:
    done = call(sqlite_pair.branch, "adopt", *arguments)
    assert done.exit_code == code
    assert told in done.stderr


def test_a_paused_table_is_left_out_and_said(sqlite_pair: Pair) -> None:
    ok(sqlite_pair.branch, "pause", "pair")
    told = adopt(sqlite_pair, "--from", "main", code=4)
    assert told["not_compared"] == [{"table": "pair", "reason": "paused"}]
    assert told["given_here"] == 2
    ok(sqlite_pair.branch, "resume", "pair")
    assert adopt(sqlite_pair, "--from", "main")["given_here"] == 1


def test_rows_that_changed_past_rowferry_are_not_decided(sqlite_pair: Pair) -> None:
    """A row with a version is none from before the first sync."""
    adopt(sqlite_pair, "--from", "main")
    sqlite_pair.sync()
    damage(sqlite_pair.branch.database, "UPDATE parent SET name = 'past' WHERE id = 2")
    told = adopt(sqlite_pair, "--from", "main")
    assert told["given_here"] == told["given_there"] == 0
    assert sum(one["otherwise"] for one in told["tables"]) == 1
