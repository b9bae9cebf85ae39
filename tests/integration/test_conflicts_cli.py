"""`conflicts` and `audit` as an operator calls them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from common.versions import Version
from tests.support.applying import Origin, Write, close_world, open_world, sqlite_url
from tests.support.cli import document, rowferry


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A shop in which a write of its own stepped back behind main's, and one that came in behind its own."""
    url = sqlite_url(tmp_path)
    sections = {"node": {"id": "shop", "database": url, "main": "hq"}, "tables": {"policy": {"item": "main-wins"}}}
    world = open_world(url, **sections)
    world.execute("INSERT INTO item VALUES (1, 'ours', 1.5)", "INSERT INTO item VALUES (2, 'two', 1)")
    world.node.database.sealer(world.node.facts).seal()
    hq, other = Origin("hq"), Origin("other")
    world.receive(hq.tx(Write("I", "item", {"id": 1, "name": "main's", "price": "2"}, 10, epoch=1)).body)
    world.receive(other.put(2, "older", 5).body)
    world.receive(other.tx(Write("D", "item", {"id": 1, "name": "x", "price": "1"}, 7, Version(0, 3, "other"))).body)
    close_world(world)
    file = tmp_path / "rowferry.toml"
    file.write_text(f"""[node]
id = "shop"
database = "{url}"
main = "hq"

[tables.policy]
item = "main-wins"
""")
    return file


def test_a_node_is_told_which_of_its_writes_stepped_back(config: Path) -> None:
    everything = document(config, "conflicts", "list")
    assert [(one["table"], one["pk"], one["kind"], one["winner"], one["rule"]) for one in everything] == [
        ("item", {"id": 1}, "insert", "theirs", "main-wins"),
        ("item", {"id": 2}, "insert", "ours", "main-wins"),
        ("item", {"id": 1}, "delete", "ours", "main-wins"),
    ]
    (lost,) = document(config, "conflicts", "list", "--lost")
    assert lost == everything[0]
    assert (lost["our_version"][2], lost["their_version"]) == ("shop", [1, 10, "hq"])
    assert document(config, "conflicts", "list", "--winner", "ours", "--source", "other") == everything[1:]
    assert document(config, "conflicts", "list", "--limit", "1") == everything[2:]
    for options, is_cut in ((["--limit", "2"], True), (["--limit", "2", "--json"], True), (["--limit", "3"], False)):
        told = rowferry(config, "conflicts", "list", *options)
        assert ("left out" in told.stderr, "left out" in told.stdout) == (is_cut, False)
    assert document(config, "conflicts", "list", "--state", "waiting") == []
    assert document(config, "conflicts", "list", "--table", "none") == []
    shown = rowferry(config, "conflicts", "list")
    assert shown.exit_code == 0
    assert "main-wins" in shown.stdout
    assert "no such conflicts" in rowferry(config, "conflicts", "list", "--table", "none").stdout


def test_a_conflict_is_shown_with_both_images(config: Path) -> None:
    first, _, last = (one["id"] for one in document(config, "conflicts", "list"))
    found = document(config, "conflicts", "show", str(first))
    assert (found["our_image"]["name"], found["their_image"]["name"]) == ("ours", "main's")
    assert document(config, "conflicts", "show", str(last))["their_image"] is None
    lines = rowferry(config, "conflicts", "show", str(first)).stdout.splitlines()
    assert [line for line in lines if "name" in line and "ours" in line and "main's" in line]
    assert "(deleted)" in rowferry(config, "conflicts", "show", str(last)).stdout
    unknown = rowferry(config, "conflicts", "show", "999")
    assert unknown.exit_code == 2
    assert "conflicts list" in unknown.stderr


def test_the_audit_tells_who_did_what(config: Path) -> None:
    everything = document(config, "audit")
    assert {line["action"] for line in everything} == {"applied"}
    assert [line["source_node"] for line in everything] == ["hq", "other", "other"]
    assert [json.loads(line) for line in rowferry(config, "audit").stdout.splitlines()] == everything
    (one,) = document(config, "audit", "--source", "hq", "--action", "applied", "--actor", "rowferry")
    assert one == everything[0]
    assert one["detail"] == {"changes": 1, "won": 1, "conflicts": 1}
    assert document(config, "audit", "--tx", one["tx_id"]) == [one]
    assert document(config, "audit", "--limit", "2") == everything[1:]
    for options, is_cut in ((["--limit", "2"], True), (["--limit", "2", "--json"], True), (["--limit", "3"], False)):
        told = rowferry(config, "audit", *options)
        assert ("left out" in told.stderr, "left out" in told.stdout) == (is_cut, False)
    assert document(config, "audit", "--action", "discarded") == []
    # Its clock stands far ahead of the lines that the test's own clock gave.
    assert document(config, "audit", "--since", "36500d") == everything
    assert document(config, "audit", "--since", "1999-12-31", "--until", "2999-12-31T23:59Z") == everything
    assert document(config, "audit", "--until", "1999-12-31T00:00+02:00") == []
    assert document(config, "audit", "--until", "36500d") == []
    backwards = rowferry(config, "audit", "--since", "1d", "--until", "2d")
    assert (backwards.exit_code, "--since 1d is after --until 2d" in backwards.stderr) == (2, True)
    for option, value in (("--until", "2026-13-01"), ("--since", "soon")):
        wrong = rowferry(config, "audit", option, value)
        assert wrong.exit_code == 2
        assert "give an age like 30m, or an instant like 2026-11-26" in wrong.stderr


@pytest.fixture
def waiting(tmp_path: Path) -> Path:
    """A shop on which a write of another one waits beside its own."""
    url = sqlite_url(tmp_path)
    world = open_world(url, node={"id": "shop", "database": url}, tables={"policy": {"item": "manual"}})
    world.execute("INSERT INTO item VALUES (1, 'ours', 1.5)")
    world.node.database.sealer(world.node.facts).seal()
    world.receive(Origin("other").put(1, "theirs", 5).body)
    close_world(world)
    file = tmp_path / "rowferry.toml"
    file.write_text(f'[node]\nid = "shop"\ndatabase = "{url}"\n\n[tables.policy]\nitem = "manual"\n')
    return file


def test_a_replay_that_leaves_a_conflict_waiting_says_so(tmp_path: Path) -> None:
    url = sqlite_url(tmp_path)
    world = open_world(url, node={"id": "shop", "database": url}, tables={"policy": {"item": "manual"}})
    world.execute("INSERT INTO item VALUES (1, 'ours', 1.5)")
    world.node.database.sealer(world.node.facts).seal()
    other, rewound = Origin("other"), Origin("other", made=50)
    world.receive(other.put(2, "two", 5).body)
    world.receive(rewound.put(1, "theirs", 2 * 10**15).body)
    close_world(world)
    config = tmp_path / "rowferry.toml"
    config.write_text(f'[node]\nid = "shop"\ndatabase = "{url}"\n\n[tables.policy]\nitem = "manual"\n')
    (letter,) = document(config, "dlq", "list")
    shown = document(config, "dlq", "show", letter["tx_id"])
    assert (shown["would"]["waiting"], [row["effect"] for row in shown["rows"]]) == (1, ["waits"])
    assert document(config, "dlq", "replay", "--all", "--dry-run")["results"][0]["rows"][0]["effect"] == "waits"
    done = rowferry(config, "dlq", "replay", "--all")
    assert (done.exit_code, "1 conflict to be decided" in done.stdout) == (4, True)
    assert document(config, "status")["conflicts"]["waiting"] == 1


def test_what_waits_for_a_choice_has_no_winner_yet(waiting: Path) -> None:
    """`null` is what takes a row away: it must not look as if that had won."""
    assert [document(waiting, "conflicts", "list", "--winner", side) for side in ("ours", "theirs")] == [[], []]
    (one,) = document(waiting, "conflicts", "list")
    listed, shown = (rowferry(waiting, "conflicts", *what).stdout for what in (["list"], ["show", str(one["id"])]))
    assert ("nobody yet" in listed, "winner: nobody yet" in shown) == (True, True)
    assert "null" not in listed + shown


def test_a_conflict_that_waits_is_settled_and_flipped(waiting: Path) -> None:
    (one,) = document(waiting, "conflicts", "list", "--state", "waiting")
    assert (one["winner"], one["rule"]) == (None, "manual")
    number = str(one["id"])
    assert document(waiting, "status")["conflicts"]["waiting"] == 1
    assert rowferry(waiting, "conflicts", "undo", number).exit_code == 2
    assert rowferry(waiting, "conflicts", "resolve", number, "--take", "their").exit_code == 2
    settled = document(waiting, "conflicts", "resolve", number, "--take", "theirs")
    assert (settled["winner"], settled["closed"]) == ("theirs", [one["id"]])
    assert [version[2] for version in settled["resolves"]] == ["other", "shop"]
    shown = document(waiting, "conflicts", "show", number)
    assert (shown["state"], shown["winner"]) == ("settled", "theirs")
    assert shown["settled_at"] is not None
    again = rowferry(waiting, "conflicts", "resolve", number, "--take", "ours")
    assert again.exit_code == 2
    assert "conflicts undo" in again.stderr
    flipped = rowferry(waiting, "conflicts", "undo", number)
    assert "our image wins" in flipped.stdout
    assert [line["action"] for line in document(waiting, "audit")][-2:] == ["resolved", "undone"]


def test_a_choice_can_say_what_it_saw(waiting: Path) -> None:
    (one,) = document(waiting, "conflicts", "list", "--state", "waiting")
    choose = "conflicts", "resolve", str(one["id"]), "--take", "theirs", "--seen"
    unread = rowferry(waiting, *choose, "[0]")
    assert (unread.exit_code, "our_version" in unread.stderr) == (2, True)
    other = rowferry(waiting, *choose, '[0, 17, "shop"]')
    assert (other.exit_code, "was written again by shop" in other.stderr) == (2, True)
    assert document(waiting, *choose, json.dumps(one["our_version"]))["winner"] == "theirs"


def test_undoing_can_say_what_it_saw(waiting: Path) -> None:
    (one,) = document(waiting, "conflicts", "list", "--state", "waiting")
    document(waiting, "conflicts", "resolve", str(one["id"]), "--take", "theirs")
    undo = "conflicts", "undo", str(one["id"]), "--seen"
    unread = rowferry(waiting, *undo, "[0]")
    assert (unread.exit_code, "--seen: " in unread.stderr, "row_version" in unread.stderr) == (2, True, True)
    other = rowferry(waiting, *undo, json.dumps(one["their_version"]), "--force")
    assert (other.exit_code, "was written again by shop" in other.stderr) == (2, True)
    shown = document(waiting, "conflicts", "show", str(one["id"]))
    assert document(waiting, *undo, json.dumps(shown["row_version"]))["winner"] == "ours"


def test_a_choice_between_two_rows_can_say_what_it_saw(waiting: Path) -> None:
    url = sqlite_url(waiting.parent)
    waiting.write_text(waiting.read_text().replace('item = "manual"', 'item = "manual"\ncode = "manual"'))
    tables = {"policy": {"item": "manual", "code": "manual"}}
    world = open_world(url, (), node={"id": "shop", "database": url}, tables=tables)
    world.receive(Origin("a").tx(Write("I", "code", {"id": 1, "code": "X"}, 11)).body)
    world.receive(Origin("b").tx(Write("I", "code", {"id": 2, "code": "X"}, 20)).body)
    world.execute("INSERT INTO code VALUES (2, 'W')")
    close_world(world)
    (one,) = (one for one in document(waiting, "conflicts", "list") if one["kind"] == "unique")
    choose = "conflicts", "resolve", str(one["id"]), "--take", "theirs"
    refused = rowferry(waiting, *choose, "--seen", json.dumps(one["our_version"]))
    assert (refused.exit_code, "written again by shop" in refused.stderr) == (2, True)
    shown = document(waiting, "conflicts", "show", str(one["id"]))
    assert (shown["kind"], shown["our_image"], shown["our_version"][2]) == ("insert", {"id": 2, "code": "W"}, "shop")
    seen = "--seen", json.dumps(shown["our_version"])
    assert document(waiting, *choose, *seen, "--displace")["winner"] == "theirs"


@pytest.mark.parametrize("command", [("show",), ("undo",), ("resolve", "--take", "ours")])
@pytest.mark.parametrize("number", ["0", str(2**63), "9" * 30])
def test_a_number_that_no_conflict_can_have_is_the_callers_mistake(
    config: Path, command: tuple[str, ...], number: str
) -> None:
    told = rowferry(config, "conflicts", *command, number)
    assert (told.exit_code, "not in the range" in told.stderr) == (2, True)


def test_a_row_that_names_a_column_twice_is_refused(waiting: Path) -> None:
    (one,) = document(waiting, "conflicts", "list", "--state", "waiting")
    told = rowferry(waiting, "conflicts", "resolve", str(one["id"]), "--take", '{"name": "a", "name": "b"}')
    assert (told.exit_code, "'name' is given twice" in told.stderr) == (2, True)


def test_a_row_that_is_refused_is_named_by_its_option(waiting: Path) -> None:
    (one,) = document(waiting, "conflicts", "list", "--state", "waiting")
    for wrong in ('{"nowhere": 1}', '{"price": 1e100000000}', '{"name": 5}', "[1]"):
        told = rowferry(waiting, "conflicts", "resolve", str(one["id"]), "--take", wrong)
        assert (told.exit_code, "--take: " in told.stderr) == (2, True)


def test_a_value_that_its_column_can_not_hold_is_the_callers_mistake(waiting: Path) -> None:
    (one,) = document(waiting, "conflicts", "list", "--state", "waiting")
    told = rowferry(waiting, "conflicts", "resolve", str(one["id"]), "--take", '{"price": "dear"}')
    assert (told.exit_code, "price" in told.stderr, "nothing was changed" in told.stderr) == (2, True, True)
    assert ("give the row with a value" in told.stderr, "in its way" in told.stderr) == (True, False)
    assert [one["id"] for one in document(waiting, "conflicts", "list", "--state", "waiting")] == [one["id"]]


def test_a_write_for_which_a_third_row_was_given_has_stepped_back_too(waiting: Path) -> None:
    assert document(waiting, "conflicts", "list", "--lost") == [], "nobody has decided yet"
    (one,) = document(waiting, "conflicts", "list", "--state", "waiting")
    rowferry(waiting, "conflicts", "resolve", str(one["id"]), "--take", '{"name": "given"}')
    assert [lost["winner"] for lost in document(waiting, "conflicts", "list", "--lost")] == ["neither"]


@pytest.mark.parametrize("command", [("conflicts", "list"), ("audit",)])
def test_more_than_any_database_counts_is_out_of_range(config: Path, command: tuple[str, ...]) -> None:
    told = rowferry(config, *command, "--limit", "9" * 30)
    assert (told.exit_code, "not in the range" in told.stderr) == (2, True)


def test_an_age_before_all_time_is_everything(config: Path) -> None:
    assert document(config, "audit", "--since", "9" * 400 + "d") == document(config, "audit")
    assert document(config, "audit", "--since", "9" * 30 + "d") == document(config, "audit")


def test_past_conflicts_are_run_under_another_policy(config: Path) -> None:
    found = document(config, "conflicts", "simulate", "--policy", "item=lww")
    assert (found["conflicts"], found["differ"]) == (3, 1)
    (one,) = found["results"]
    assert (one["pk"], one["rule"], one["now"], one["then"]) == ({"id": 1}, "main-wins", "theirs", "ours")
    assert document(config, "conflicts", "simulate", "--policy", "item=main-wins")["differ"] == 0
    assert len(document(config, "conflicts", "simulate", "--policy", "item=manual")["results"]) == 3
    assert len(document(config, "conflicts", "simulate", "--policy", "item=lww", "--all")["results"]) == 3
    refused = document(config, "conflicts", "simulate", "--policy", "item=append-only")["results"]
    assert [(one["kind"], one["then"]) for one in refused if one["kind"] == "delete"] == [("delete", "refused")]
    for wrong in ("item", "item=newest"):
        refused = rowferry(config, "conflicts", "simulate", "--policy", wrong)
        assert refused.exit_code == 2
        assert "TABLE=POLICY" in refused.stderr
    refused = rowferry(config, "conflicts", "simulate", "--policy", "item=lww", "--policy", "itme=lww")
    assert (refused.exit_code, "no table 'itme' is captured here" in refused.stderr) == (2, True)
