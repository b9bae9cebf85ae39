"""`init`, `migrate`, `seed`, `status` and `unmigrate` on both kinds of database."""

from __future__ import annotations

import shutil
import sqlite3
import stat
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from tests.support.cli import document, rowferry

TRIAL = {"company", "store", "product", "sale"}


@dataclass(frozen=True)
class Place:
    """A database, and the configuration beside it."""

    config: Path
    url: str

    def init(self, *options: str) -> None:
        document(self.config, "init", "--node", "store-1", "--database", self.url, "--force", *options)

    @contextmanager
    def engine(self) -> Iterator[sa.Engine]:
        engine = sa.create_engine(self.url.replace("postgresql://", "postgresql+psycopg://"), poolclass=sa.NullPool)
        try:
            yield engine
        finally:
            engine.dispose()

    def execute(self, *statements: str) -> None:
        with self.engine() as engine, engine.begin() as connection:
            for statement in statements:
                connection.exec_driver_sql(statement)

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        with self.engine() as engine, engine.connect() as connection:
            return [tuple(row) for row in connection.exec_driver_sql(statement)]

    def tables(self) -> set[str]:
        with self.engine() as engine:
            return set(sa.inspect(engine).get_table_names())

    def leftovers(self) -> list[tuple[Any, ...]]:
        """Name everything in the database that is neither a table nor an index of one."""
        if self.url.startswith("sqlite"):
            return self.query("SELECT type, name FROM sqlite_schema WHERE type NOT IN ('table', 'index')")
        return self.query(
            "SELECT 'function', proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace "
            "UNION ALL SELECT 'trigger', tgname FROM pg_trigger WHERE NOT tgisinternal "
            "UNION ALL SELECT 'relation', relname FROM pg_class WHERE starts_with(relname::text, 'rf_') "
            "UNION ALL SELECT 'type', typname FROM pg_type WHERE starts_with(typname::text, 'rf_')"
        )


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    config = tmp_path / "rowferry.toml"
    if request.param == "sqlite":
        yield Place(config, f"sqlite:///{tmp_path / 'store.db'}")
        return
    server = request.getfixturevalue("postgres_server")
    url = server.create_database()
    yield Place(config, url)
    server.drop_database(url)


def test_migrate_seed_status_unmigrate(place: Place) -> None:
    place.init()
    first = document(place.config, "migrate")
    assert (first["changed"], first["tables"]) == (True, [])
    seeded = document(place.config, "seed", "--rows", "30")
    assert set(seeded["made_tables"]) == set(seeded["captured"]) == TRIAL

    again = document(place.config, "migrate")
    assert (again["changed"], again["sql"], set(again["tables"])) == (False, [], TRIAL)
    assert again["incarnation"] == first["incarnation"]
    assert "Nothing to do" in rowferry(place.config, "migrate").stdout

    before = place.query("SELECT count(*), sum(quantity) FROM sale")
    removed = document(place.config, "unmigrate", "--yes", "--force")
    assert removed["changed"]
    assert place.tables() == TRIAL
    assert place.leftovers() == []
    assert place.query("SELECT count(*), sum(quantity) FROM sale") == before
    assert not document(place.config, "unmigrate", "--yes")["changed"]


def test_a_dry_run_prints_and_changes_nothing(place: Place) -> None:
    place.init()
    place.execute("CREATE TABLE sale (id TEXT PRIMARY KEY)")
    plan = document(place.config, "migrate", "--dry-run")
    assert (plan["changed"], plan["incarnation"], plan["tables"]) == (True, None, ["sale"])
    assert "CREATE TABLE rf_node" in plan["sql"][0]
    assert place.tables() == {"sale"}

    document(place.config, "migrate")
    place.execute("CREATE TABLE store (id TEXT PRIMARY KEY)")
    more = document(place.config, "migrate", "--dry-run")
    assert any("TRIGGER" in statement for statement in more["sql"])
    printed = rowferry(place.config, "migrate", "--dry-run")
    assert "TRIGGER" in printed.stdout
    assert document(place.config, "status")["drifted"] == ["store"]
    document(place.config, "migrate")
    nothing = document(place.config, "migrate", "--dry-run")
    assert (nothing["changed"], nothing["sql"]) == (False, [])


def test_what_a_dry_run_prints_can_be_run(place: Place) -> None:
    """As `psql -f` and `sqlite3` do: each statement is committed at once, but for what stands in a transaction."""
    place.init()
    place.execute("CREATE TABLE sale (id TEXT PRIMARY KEY)")
    printed = rowferry(place.config, "migrate", "--dry-run").stdout
    if place.url.startswith("sqlite"):
        with closing(sqlite3.connect(place.url.removeprefix("sqlite:///"), isolation_level=None)) as connection:
            connection.executescript(printed)
    else:
        script = place.config.with_name("plan.sql")
        script.write_text(printed)
        run = ["psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", str(script), place.url.replace("+psycopg", "")]
        subprocess.run(run, check=True, capture_output=True, timeout=60)
    assert "rf_node" in place.tables()
    document(place.config, "migrate")
    place.execute("INSERT INTO sale VALUES ('x')")
    assert document(place.config, "export-change-log", "--out", str(place.config.with_name("x.jsonl")))["txs"] == 1


def test_a_dry_run_makes_no_file(tmp_path: Path) -> None:
    place = Place(tmp_path / "rowferry.toml", f"sqlite:///{tmp_path / 'store.db'}")
    place.init()
    assert "CREATE TABLE rf_node" in document(place.config, "migrate", "--dry-run")["sql"][0]
    assert not (tmp_path / "store.db").exists()


def test_refusals_come_before_the_first_change(place: Place) -> None:
    place.init()
    place.execute("CREATE TABLE log (line TEXT)", "CREATE TABLE sale (id TEXT PRIMARY KEY)")
    keyless = rowferry(place.config, "migrate")
    assert keyless.exit_code == 2
    assert "no primary key: log" in keyless.stderr
    assert place.tables() == {"log", "sale"}

    place.init("--tables", "sale,stor")
    unknown = rowferry(place.config, "migrate")
    assert unknown.exit_code == 2
    assert "'stor'" in unknown.stderr
    assert place.tables() == {"log", "sale"}


def test_what_everything_leaves_out_is_told(place: Place) -> None:
    place.init()
    place.execute("CREATE TABLE sale (id TEXT PRIMARY KEY)", "CREATE VIEW ids AS SELECT id FROM sale")
    result = rowferry(place.config, "migrate")
    assert result.exit_code == 0, result.output
    assert "Left out: ids" in result.stdout


def test_tables_that_number_their_own_keys_are_named(place: Place) -> None:
    place.init()
    key = "INTEGER PRIMARY KEY" if place.url.startswith("sqlite") else "SERIAL PRIMARY KEY"
    place.execute(f"CREATE TABLE sale (id {key})")
    result = rowferry(place.config, "migrate")
    assert result.exit_code == 0, result.output
    assert "sale numbers its own keys" in result.stderr
    assert document(place.config, "migrate")["own_keys"] == ["sale"]


def test_rows_that_stand_already_and_policies_for_nothing_are_named(place: Place) -> None:
    place.execute(
        'CREATE TABLE "Old items" (id integer PRIMARY KEY, v text)', "CREATE TABLE fresh (id text PRIMARY KEY)"
    )
    place.execute("""INSERT INTO "Old items" VALUES (1, 'there')""")
    place.init("--policy", "frehs=main-wins", "--policy", "fresh=lww")
    assert rowferry(place.config, "migrate", "--dry-run").exit_code == 0
    told = rowferry(place.config, "migrate")
    assert "Old items has rows already: they are not sent" in told.stderr
    assert "fresh has rows" not in told.stderr
    assert "tables.policy names 'frehs'" in told.stderr
    assert "'fresh'" not in told.stderr
    place.execute("INSERT INTO fresh VALUES ('captured')")
    assert document(place.config, "migrate")["had_rows"] == []
    document(place.config, "unmigrate", "--yes", "--force")
    assert document(place.config, "migrate")["had_rows"] == ["Old items", "fresh"]


def test_a_role_may_change_and_an_id_may_not(place: Place) -> None:
    place.init()
    document(place.config, "migrate")
    place.init("--role", "main")
    changed = document(place.config, "migrate")
    assert (changed["changed"], changed["role"]) == (True, "main")
    assert place.query("SELECT role FROM rf_node") == [("main",)]

    document(place.config, "init", "--node", "store-2", "--database", place.url, "--force")
    other = rowferry(place.config, "migrate")
    assert other.exit_code == 2
    assert "'store-2'" in other.stderr
    assert "'store-1'" in other.stderr


def test_unsent_changes_hold_unmigrate_back(place: Place) -> None:
    place.init()
    document(place.config, "migrate")
    document(place.config, "seed", "--rows", "5")
    refused = rowferry(place.config, "unmigrate", "--yes")
    assert refused.exit_code == 2
    assert "unsent changes: 17" in refused.stderr
    assert "rf_node" in place.tables()

    document(place.config, "run", "--once")
    assert document(place.config, "unmigrate", "--yes")["changed"]


def test_tables_of_a_dump_without_rows_are_told_and_taken_off(place: Place) -> None:
    place.init()
    place.execute("CREATE TABLE note (id INTEGER PRIMARY KEY)")
    document(place.config, "migrate")
    # What a dump of the schema alone would bring.
    names = sorted(place.tables() - {"note"})
    if place.url.startswith("sqlite"):
        place.execute(*(f'DELETE FROM "{name}"' for name in names))
    else:
        place.execute(f"TRUNCATE {', '.join(names)}")
    for arguments in (["migrate"], ["migrate", "--dry-run"]):
        refused = rowferry(place.config, *arguments)
        assert (refused.exit_code, "rowferry unmigrate" in refused.stderr) == (2, True)
    assert document(place.config, "unmigrate", "--yes")["changed"]
    assert (place.tables(), place.leftovers()) == ({"note"}, [])
    assert document(place.config, "migrate")["tables"] == ["note"]


def test_triggers_of_a_copy_without_the_tables_are_taken_off(place: Place) -> None:
    """What `pg_dump -T 'rf_*'` brings: the application can't write, since each trigger misses its table."""
    place.init()
    place.execute("CREATE TABLE note (id INTEGER PRIMARY KEY)")
    document(place.config, "migrate")
    place.execute(*(f'DROP TABLE "{name}"' for name in sorted(place.tables() - {"note"})))
    assert place.leftovers() != []
    assert document(place.config, "unmigrate", "--yes")["changed"]
    assert (place.tables(), place.leftovers()) == ({"note"}, [])
    place.execute("INSERT INTO note VALUES (1)")
    assert not document(place.config, "unmigrate", "--yes")["changed"]
    assert document(place.config, "migrate")["tables"] == ["note"]
    place.execute(*(f'DROP TABLE "{name}"' for name in sorted(place.tables() - {"note"})))
    assert document(place.config, "migrate")["tables"] == ["note"]
    place.execute("INSERT INTO note VALUES (2)")


def test_unmigrate_asks_first(place: Place) -> None:
    place.init()
    document(place.config, "migrate")
    result = rowferry(place.config, "unmigrate")
    assert result.exit_code == 2
    assert "--yes" in result.stderr


def test_seed_before_migrate_and_twice(place: Place) -> None:
    place.init()
    seeded = document(place.config, "seed")
    assert seeded["captured"] == []
    assert f"rowferry --config {place.config} migrate" in rowferry(place.config, "seed", "--more").stdout
    refused = rowferry(place.config, "seed")
    assert refused.exit_code == 2
    assert "--more" in refused.stderr


def test_status_tells_what_waits(place: Place) -> None:
    place.init()
    document(place.config, "migrate")
    assert document(place.config, "status")["state"] == "up to date"
    document(place.config, "seed", "--rows", "5")
    document(place.config, "export-change-log", "--out", str(place.config.parent / "out.jsonl"))
    behind = document(place.config, "status")
    assert (behind["state"], behind["head_lsn"]) == ("behind", 17)
    assert behind["reasons"] == ["17 changes not yet sent to the shared folder"]
    assert rowferry(place.config, "status").stdout.startswith("behind: 17 changes not yet sent to the shared folder\n")
    document(place.config, "run", "--once")
    assert document(place.config, "status")["state"] == "up to date"


def test_status_needs_a_migrated_database(place: Place) -> None:
    place.init()
    result = rowferry(place.config, "status")
    assert result.exit_code == 2
    assert "rowferry migrate" in result.stderr


@pytest.mark.parametrize("command", [["status"], ["run", "--once"], ["dlq", "list"]])
def test_a_file_that_is_not_there_is_not_made(tmp_path: Path, command: list[str]) -> None:
    place = Place(tmp_path / "rowferry.toml", f"sqlite:///{tmp_path / 'store.db'}")
    place.init()
    result = rowferry(place.config, *command)
    assert result.exit_code == 2
    assert "is not there" in result.stderr
    assert not (tmp_path / "store.db").exists()


def test_a_database_that_is_away_is_an_outage(tmp_path: Path) -> None:
    config = tmp_path / "rowferry.toml"
    document(config, "init", "--node", "a", "--database", "postgresql://nobody:s3cret@127.0.0.1:1/none")
    assert stat.S_IMODE(config.stat().st_mode) == 0o600
    for command in ("migrate", "status", "seed"):
        result = rowferry(config, command)
        assert result.exit_code == 5, result.output
        assert "s3cret" not in result.output


@pytest.mark.containers
def test_migrate_makes_the_nodes_queue(tmp_path: Path, rabbitmq_url: str) -> None:
    config = tmp_path / "rowferry.toml"
    document(config, "init", "--node", "a", "--database", "sqlite:///a.db", "--broker", rabbitmq_url)
    document(config, "migrate")
    queues = document(config, "status")["queues"]
    assert queues["error"] is None
    assert queues["depths"]["rowferry.node.a"] == 0


def migrated(folder: Path, broker: str) -> Place:
    """A node on SQLite with one table, called as its folder."""
    folder.mkdir()
    place = Place(folder / "rowferry.toml", f"sqlite:///{folder / 'app.db'}")
    document(place.config, "init", "--node", folder.name, "--database", place.url, "--broker", broker)
    place.execute("CREATE TABLE sale (id TEXT PRIMARY KEY)")
    document(place.config, "migrate")
    return place


# kombu's own models use a loader that SQLAlchemy 2.1 calls deprecated; nothing of ours depends on it.
@pytest.mark.filterwarnings("ignore:The ``noload`` loader:sqlalchemy.exc.SADeprecationWarning")
@pytest.mark.parametrize("scheme", ["filesystem://", "sqla+sqlite:///"])
def test_migrate_makes_the_nodes_queue_on_other_brokers(tmp_path: Path, scheme: str) -> None:
    """B has A's rows although it ran only after A had ended."""
    (tmp_path / "queue").mkdir()
    broker = f"{scheme}{tmp_path / 'queue'}" + ("" if scheme == "filesystem://" else "/broker.db")
    first, second = (migrated(tmp_path / node_id, broker) for node_id in ("a", "b"))
    first.execute("INSERT INTO sale VALUES ('one'), ('two')")
    assert document(first.config, "run", "--once")["drained"]
    assert document(second.config, "run", "--once")["drained"]
    assert second.query("SELECT id FROM sale ORDER BY id") == [("one",), ("two",)]
    assert document(first.config, "migrate")["changed"] is False


@pytest.mark.filterwarnings("ignore:The ``noload`` loader:sqlalchemy.exc.SADeprecationWarning")
def test_peers_are_who_is_sent_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, third = (
        migrated(tmp_path / node_id, f"sqla+sqlite:///{tmp_path / 'broker.db'}") for node_id in ("a", "b", "c")
    )
    first.execute("INSERT INTO sale VALUES ('one')")
    with monkeypatch.context() as patched:
        patched.setenv("ROWFERRY_BROKER_PEERS", "b")
        document(first.config, "run", "--once")
    for place in (second, third):
        document(place.config, "run", "--once")
    assert second.query("SELECT id FROM sale") == [("one",)]
    assert third.query("SELECT id FROM sale") == []


def test_migrate_makes_a_missing_folder_and_run_does_not(tmp_path: Path) -> None:
    place = Place(tmp_path / "rowferry.toml", f"sqlite:///{tmp_path / 'app.db'}")
    folder = tmp_path / "not" / "yet"
    place.init("--directory", str(folder))
    assert document(place.config, "migrate", "--dry-run")["directory"] == str(folder)
    assert f"-- Would create the folder {folder}." in rowferry(place.config, "migrate", "--dry-run").stdout
    assert not folder.exists()

    assert f"Created the folder {folder}" in rowferry(place.config, "migrate").stdout
    assert folder.is_dir()
    assert document(place.config, "migrate")["directory"] is None
    document(place.config, "run", "--once")

    shutil.rmtree(folder)
    for side in ("producer", "consumer"):
        away = rowferry(place.config, "run", "--once", "--only", side)
        assert away.exit_code == 5, away.output
        assert "mount the share, or create the folder" in away.stderr
    assert not folder.exists()


def test_a_folder_that_can_not_be_made_is_an_outage(tmp_path: Path) -> None:
    place = Place(tmp_path / "rowferry.toml", f"sqlite:///{tmp_path / 'app.db'}")
    (tmp_path / "file").touch()
    place.init("--directory", str(tmp_path / "file" / "below"))
    result = rowferry(place.config, "migrate")
    assert result.exit_code == 5, result.output
    assert "making the shared folder" in result.stderr
    assert "set another path" in result.stderr


def test_a_broker_that_is_away_does_not_stop_the_database(tmp_path: Path) -> None:
    config = tmp_path / "rowferry.toml"
    document(config, "init", "--node", "a", "--database", "sqlite:///a.db", "--broker", "amqp://a:s3cret@127.0.0.1:1/")
    result = rowferry(config, "migrate")
    assert result.exit_code == 5
    assert "the database is ready" in result.stderr
    status = document(config, "status")
    assert status["state"] == "needs attention"
    assert "s3cret" not in str(status)
