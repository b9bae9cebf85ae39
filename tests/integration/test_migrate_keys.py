"""What `migrate` and `status` say of tables that number their own rows, and of `[tables.keys]`."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.cli import document, rowferry


def place(tmp_path: Path, schema: str, node: str = "", keys: str = "") -> Path:
    config = tmp_path / "rowferry.toml"
    with closing(sqlite3.connect(tmp_path / "app.db")) as connection:
        connection.execute(schema)
    document(config, "init", "--node", "a", "--database", f"sqlite:///{tmp_path / 'app.db'}", "--force")
    text = config.read_text().replace("[node]\n", f"[node]\n{node}\n")
    config.write_text(text + (f"\n[tables.keys]\n{keys}\n" if keys else ""))
    return config


COUNTED = "CREATE TABLE sale (id INTEGER PRIMARY KEY AUTOINCREMENT, v)"
PLAIN = "CREATE TABLE sale (id INTEGER PRIMARY KEY, v)"


def test_status_warns_until_a_setting_says_whose_keys_are_whose(tmp_path: Path) -> None:
    config = place(tmp_path, PLAIN)
    assert "[tables.keys]" in rowferry(config, "migrate").stderr
    told = rowferry(config, "status")
    assert "sale numbers its own keys" in told.stderr
    assert document(config, "status")["own_keys"] == ["sale"]
    assert document(config, "status")["state"] == "up to date"

    config.write_text(config.read_text() + '\n[tables.keys]\nsale = "shared"\n')
    assert rowferry(config, "migrate").stderr == ""
    assert rowferry(config, "status").stderr == ""
    assert document(config, "status")["own_keys"] == []


def test_stride_without_autoincrement_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    config = place(tmp_path, PLAIN, "number = 1", 'sale = "stride"')
    refused = rowferry(config, "migrate")
    assert refused.exit_code == 2
    assert "sale: SQLite gives its keys without AUTOINCREMENT" in refused.stderr
    assert "rowferry pause" in refused.stderr
    with closing(sqlite3.connect(tmp_path / "app.db")) as connection:
        assert connection.execute("SELECT name FROM sqlite_schema WHERE name GLOB 'rf_*'").fetchall() == []


@pytest.mark.parametrize(
    ("node", "keys", "told"),
    [
        ("", 'sale = "stride"', "node.number is missing"),
        ("number = 65", 'sale = "stride"', r"node.number must be 1 to 64"),
        ("number = 1", 'sale = "strides"', "tables.keys.sale"),
    ],
)
def test_settings_that_can_not_be(tmp_path: Path, node: str, keys: str, told: str) -> None:
    refused = rowferry(place(tmp_path, COUNTED, node, keys), "migrate")
    assert refused.exit_code != 0
    assert told in refused.stderr


def test_names_that_mean_nothing_are_told(tmp_path: Path) -> None:
    config = place(
        tmp_path, "CREATE TABLE sale (id TEXT PRIMARY KEY)", "number = 1", 'sale = "stride"\nsael = "shared"'
    )
    told = rowferry(config, "migrate").stderr
    assert "the database generates no keys for sale here" in told
    assert "tables.keys names 'sael'" in told


def test_main_only_binds_branches_alone(tmp_path: Path) -> None:
    config = place(tmp_path, PLAIN, "", 'sale = "main-only"')
    document(config, "migrate")
    with closing(sqlite3.connect(tmp_path / "app.db")) as connection:
        with pytest.raises(sqlite3.IntegrityError, match=r"keys of sale are given on the main node alone"):
            connection.execute("INSERT INTO sale (v) VALUES (1)")
        connection.rollback()
        config.write_text(config.read_text().replace('role = "branch"', 'role = "main"'))
        document(config, "migrate")
        connection.execute("INSERT INTO sale (v) VALUES (1)")


def test_dry_run_shows_what_unmigrate_puts_back(tmp_path: Path) -> None:
    config = place(tmp_path, COUNTED, "number = 2", 'sale = "stride"')
    planned = document(config, "migrate", "--dry-run")["sql"]
    assert any("sqlite_sequence" in line for line in planned)
    ran = document(config, "migrate")["sql"]
    assert [line for line in ran if "sqlite_sequence" in line] == [
        line for line in planned if "sqlite_sequence" in line
    ]
    with closing(sqlite3.connect(tmp_path / "app.db")) as connection:
        assert connection.execute(
            "SELECT seq > 4503599627370495 FROM sqlite_sequence WHERE name = 'sale'"
        ).fetchone() == (1,)
    document(config, "unmigrate", "--yes", "--force")
    with closing(sqlite3.connect(tmp_path / "app.db")) as connection:
        connection.execute("INSERT INTO sale (v) VALUES (1)")
        assert connection.execute("SELECT id FROM sale").fetchone() == (1,)


def numbered_pair(tmp_path: Path, numbers: tuple[int, int] = (1, 2)) -> tuple[Path, Path]:
    """Two migrated nodes that share a folder and number their sales in shares of their own."""
    configs = []
    for name, number in zip(("a", "b"), numbers, strict=True):
        (tmp_path / name).mkdir()
        config = place(tmp_path / name, COUNTED, f"number = {number}", 'sale = "stride"')
        text = config.read_text().replace('id = "a"', f'id = "{name}"')
        config.write_text(re.sub(r"(?m)^path = .*$", f'path = "{tmp_path / "exchange"}"', text))
        document(config, "migrate")
        configs.append(config)
    return configs[0], configs[1]


def write(config: Path, statement: str) -> None:
    with closing(sqlite3.connect(config.parent / "app.db")) as connection, connection:
        connection.execute(statement)


def test_two_nodes_of_one_number_are_noticed(tmp_path: Path) -> None:
    configs = numbered_pair(tmp_path, (1, 1))
    for config in configs:
        write(config, f"INSERT INTO sale (v) VALUES ('{config.parent.name}')")
    for config in (*configs, configs[0]):
        document(config, "run", "--once")
    for config in configs:
        found = document(config, "status")
        assert (found["clashing_keys"], found["state"]) == ([{"table": "sale", "conflicts": 1}], "needs attention")
        assert "do two nodes have the same node.number?" in " ".join(found["reasons"])


def test_a_row_sent_anew_as_an_insert_is_no_key_given_twice(tmp_path: Path) -> None:
    """What comparing finds goes as an insert on top of what the row was: the key was given once."""
    one, two = numbered_pair(tmp_path)
    write(one, "INSERT INTO sale (v) VALUES ('first')")
    for config in (one, two):
        document(config, "run", "--once")
    document(one, "pause", "sale")
    write(one, "UPDATE sale SET v = 'mine'")
    write(two, "UPDATE sale SET v = 'theirs'")
    document(one, "resume", "sale")
    for config in (one, two, one):
        document(config, "run", "--once")
    assert [met["kind"] for met in document(two, "conflicts", "list")] == ["insert"]
    for config in (one, two):
        found = document(config, "status")
        assert (found["clashing_keys"], found["state"]) == ([], "up to date")
