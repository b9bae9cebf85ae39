"""Three accounts with least rights: the owner of the tables, the application, and Rowferry."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from common.errors import ConfigError
from common.ports.key_share import KeyShare
from common.ports.rules import Rules
from tests.support.nodes import CliNode, sync
from tests.support.postgresql_node import PostgresNode, replayed
from tests.support.waiting import wait_for

pytestmark = pytest.mark.containers

TABLES = """
CREATE SCHEMA shop AUTHORIZATION {owner};
SET ROLE {owner};
CREATE TABLE shop.item (id int PRIMARY KEY, name text);
CREATE TABLE shop.part (id int, k int, PRIMARY KEY (id, k)) PARTITION BY LIST (k);
CREATE TABLE shop.part_1 PARTITION OF shop.part FOR VALUES IN (1);
GRANT USAGE ON SCHEMA shop TO {application}, {rowferry};
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA shop TO {application};
GRANT SELECT, INSERT, UPDATE, DELETE, TRIGGER ON ALL TABLES IN SCHEMA shop TO {rowferry};
RESET ROLE
"""


@dataclass
class Accounts:
    """Names of the three, and URLs to come in by."""

    owner: str
    application: str
    rowferry: str
    url: str

    def url_of(self, account: str) -> str:
        scheme, _, rest = self.url.partition("://")
        return f"{scheme}://{account}:secret@{rest.partition('@')[2]}"

    def connect(self, account: str) -> psycopg.Connection[tuple[Any, ...]]:
        return psycopg.connect(self.url_of(account).replace("+psycopg", ""))


@pytest.fixture
def accounts(pg_database: str, postgres_server: Any) -> Iterator[Accounts]:
    ending = uuid.uuid4().hex[:8]
    made = Accounts(*(f"rf_test_{role}_{ending}" for role in ("owner", "app", "rf")), pg_database)
    names = {"owner": made.owner, "application": made.application, "rowferry": made.rowferry}
    with psycopg.connect(pg_database.replace("+psycopg", ""), autocommit=True) as admin:
        for name in names.values():
            admin.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'secret'".encode())
        admin.execute(TABLES.format(**names).encode())
        # Rowferry's own tables live in its own schema, which comes first on its search_path.
        admin.execute(f"CREATE SCHEMA AUTHORIZATION {made.rowferry}".encode())
        admin.execute(f"GRANT SET ON PARAMETER session_replication_role TO {made.rowferry}".encode())
    yield made
    with psycopg.connect(pg_database.replace("+psycopg", ""), autocommit=True) as admin:
        admin.execute(f"REVOKE SET ON PARAMETER session_replication_role FROM {made.rowferry}".encode())
        for name in names.values():
            admin.execute(f"DROP OWNED BY {name} CASCADE".encode())
            admin.execute(f"DROP ROLE {name}".encode())


@pytest.fixture
def node(accounts: Accounts) -> Iterator[PostgresNode]:
    with PostgresNode(accounts.url_of(accounts.rowferry), "a") as opened:
        opened.install()
        yield opened


def test_every_account_that_may_write_is_captured(node: PostgresNode, accounts: Accounts) -> None:
    assert set(node.tables) == {"shop.item", "shop.part"}
    for number, account in enumerate((accounts.owner, accounts.application, accounts.rowferry)):
        with accounts.connect(account) as connection:
            connection.execute("INSERT INTO shop.item VALUES (%s, 'x')", (number,))
            connection.execute("UPDATE shop.item SET name = session_user WHERE id = %s", (number,))
            connection.execute("INSERT INTO shop.part VALUES (%s, 1)", (number,))
    with accounts.connect(accounts.owner) as connection:
        connection.execute("TRUNCATE shop.part_1")
    state = replayed(node.changes())
    assert state["shop.item"] == node.images("shop.item")
    assert state["shop.part"] == {}
    assert [row["name"] for row in state["shop.item"].values()] == [
        accounts.owner,
        accounts.application,
        accounts.rowferry,
    ]


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM {rf}.rf_change_log",
        "INSERT INTO {rf}.rf_change_log (shape_id, op, pk) VALUES (1, 'D', '{{}}')",
        "CREATE TRIGGER mine AFTER INSERT ON shop.item FOR EACH ROW"
        ' EXECUTE FUNCTION {rf}."rowferry capture shop.item"()',
        "SET session_replication_role = replica",
    ],
)
def test_the_application_has_no_way_in(node: PostgresNode, accounts: Accounts, statement: str) -> None:
    with accounts.connect(accounts.application) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute(statement.format(rf=accounts.rowferry).encode())


def test_rowferry_applies_and_takes_its_triggers_off_without_owning_the_table(
    node: PostgresNode, accounts: Accounts
) -> None:
    shape = node.tables["shop.item"]
    with node.database.apply_session() as session:
        session.lock(shape, shape.meta, [b'{"id":1}'])
    node.database.capture().uninstall()
    with accounts.connect(accounts.application) as connection:
        connection.execute("INSERT INTO shop.item VALUES (9, 'unseen')")
    assert node.changes() == []


def test_the_owner_adds_partitions_and_a_new_owner_too(node: PostgresNode, accounts: Accounts) -> None:
    """Each gets a clone of the trigger, for which PostgreSQL wants the right to execute its function."""
    with accounts.connect(accounts.owner) as owner:
        owner.execute("CREATE TABLE shop.part_2 PARTITION OF shop.part FOR VALUES IN (2)")
        owner.execute("CREATE TABLE shop.part_3 (id int, k int, PRIMARY KEY (id, k))")
        owner.execute("ALTER TABLE shop.part ATTACH PARTITION shop.part_3 FOR VALUES IN (3)")
        owner.execute("INSERT INTO shop.part VALUES (1, 1), (2, 2), (3, 3)")
    assert [json.loads(bytes(change.pk))["id"] for change in node.changes()] == [1, 2, 3]
    with psycopg.connect(accounts.url.replace("+psycopg", ""), autocommit=True) as admin:
        for name in ("part_2", "part_3"):
            admin.execute(f"GRANT ALL ON shop.{name} TO {accounts.rowferry}".encode())
        node.install()
        assert node.database.capture().drifted(list(node.tables.values())) == []
        admin.execute(f"GRANT CREATE ON SCHEMA shop TO {accounts.application}".encode())
        admin.execute(f"ALTER TABLE shop.part OWNER TO {accounts.application}".encode())
        assert node.database.capture().drifted(list(node.tables.values())) == ["shop.part"]
        admin.execute(f"GRANT ALL ON shop.part TO {accounts.rowferry}".encode())
    node.install()
    with accounts.connect(accounts.application) as owner:
        owner.execute("CREATE TABLE shop.part_4 PARTITION OF shop.part FOR VALUES IN (4)")


def test_a_resume_without_the_right_to_make_triggers_leaves_the_table_paused(
    node: PostgresNode, accounts: Accounts
) -> None:
    capture, tables = node.database.capture(), list(node.tables.values())
    with accounts.connect(accounts.application) as connection:
        connection.execute("INSERT INTO shop.item VALUES (1, 'a'), (2, 'b')")
    node.seal_all()
    assert capture.pause([node.tables["shop.item"]], 1, "somebody") == ["shop.item"]
    with accounts.connect(accounts.owner) as connection:
        connection.execute("UPDATE shop.item SET name = 'meanwhile' WHERE id = 1")
        connection.execute(f"REVOKE TRIGGER ON shop.item FROM {accounts.rowferry}".encode())
    with pytest.raises(ConfigError, match=r"GRANT .*TRIGGER ON"):
        capture.resume(["shop.item"], tables)
    assert node.rows("SELECT (SELECT count(*) FROM rf_paused), (SELECT count(*) FROM rf_paused_row)") == [(1, 2)]
    with accounts.connect(accounts.owner) as connection:
        connection.execute(f"GRANT TRIGGER ON shop.item TO {accounts.rowferry}".encode())
    before = node.log.head().lsn
    capture.resume(["shop.item"], tables)
    assert [bytes(one.pk) for one in node.changes(before)] == [b'{"id":1}']


def test_without_the_grant_the_error_says_what_to_run(node: PostgresNode, accounts: Accounts) -> None:
    with psycopg.connect(accounts.url.replace("+psycopg", ""), autocommit=True) as admin:
        admin.execute(f"REVOKE SET ON PARAMETER session_replication_role FROM {accounts.rowferry}".encode())
    with pytest.raises(ConfigError, match=f"GRANT SET ON PARAMETER session_replication_role TO {accounts.rowferry}"):
        enter(node)


def enter(node: PostgresNode) -> None:
    with node.database.apply_session():
        raise AssertionError("an applying session began that captures what it writes")


SHOP = (
    "CREATE SCHEMA shop",
    "CREATE TABLE shop.item (id int PRIMARY KEY, name text)",
    "CREATE TABLE shop.part (id int, k int, PRIMARY KEY (id, k))",
)


@dataclass
class Pair:
    """A source whose account may do everything, and a node whose account has least rights."""

    source: CliNode
    node: CliNode
    owner: Callable[..., None]
    """Runs statements as a superuser in the node's database."""


@pytest.fixture
def pair(accounts: Accounts, pg_database_factory: Callable[[], str], tmp_path: Path) -> Pair:
    folder = ["--directory", str(tmp_path / "exchange")]
    source = CliNode.init("a", tmp_path / "a", pg_database_factory(), *folder)
    source.execute(*SHOP)
    node = CliNode.init("b", tmp_path / "b", accounts.url_of(accounts.rowferry), *folder)
    for one in (source, node):
        one.ok("migrate")

    def owner(*statements: str) -> None:
        with psycopg.connect(accounts.url.replace("+psycopg", ""), autocommit=True) as admin:
            for statement in statements:
                admin.execute(statement.format(rf=accounts.rowferry).encode())

    return Pair(source, node, owner)


@pytest.mark.parametrize(
    ("taken", "given", "named"),
    [
        pytest.param(
            "REVOKE INSERT ON shop.item FROM {rf}",
            "GRANT INSERT ON shop.item TO {rf}",
            'GRANT SELECT, INSERT, UPDATE, DELETE ON "shop"."item" TO ',
            id="a right to write",
        ),
        pytest.param(
            "ALTER TABLE shop.item ENABLE ROW LEVEL SECURITY; CREATE POLICY none ON shop.item USING (false)",
            "ALTER ROLE {rf} BYPASSRLS",
            "BYPASSRLS",
            id="row level security",
        ),
    ],
)
def test_a_table_without_rights_waits_alone_and_goes_on_after_the_grant(
    pair: Pair, taken: str, given: str, named: str
) -> None:
    pair.owner(taken)
    pair.source.execute("INSERT INTO shop.item VALUES (1, 'a')")
    pair.source.execute("INSERT INTO shop.part VALUES (1, 1)")
    pair.source.execute("UPDATE shop.item SET name = 'b'")
    sync(pair.source, pair.node, code=4)
    found = pair.node.report("dlq", "list")
    assert [(one["reason"], one["state"]) for one in found] == [("rights", "early")] * 2
    assert all(named in one["error"] for one in found)
    assert any("2 transactions wait for a right" in why for why in pair.node.report("status")["reasons"])
    assert pair.node.query("SELECT * FROM shop.part") == [(1, 1)]
    assert named in pair.node.report("dlq", "show", found[0]["tx_id"])["blocked_by"]
    pair.owner(given)
    wait_for(lambda: pair.node.call("run", "--once").returncode == 0, 60, "what waited to be tried again")
    assert pair.node.query("SELECT * FROM shop.item") == [(1, "b")]
    assert pair.node.report("dlq", "list") == []


@pytest.mark.parametrize(
    ("taken", "given"),
    [
        (
            "REVOKE SET ON PARAMETER session_replication_role FROM {rf}",
            "GRANT SET ON PARAMETER session_replication_role TO {rf}",
        ),
        ("REVOKE INSERT ON {rf}.rf_applied_tx FROM {rf}", "GRANT INSERT ON {rf}.rf_applied_tx TO {rf}"),
    ],
    ids=["to keep triggers quiet", "on a table of its own"],
)
def test_a_right_without_which_nothing_is_applied_is_no_fault_of_a_tx(pair: Pair, taken: str, given: str) -> None:
    pair.owner(taken)
    pair.source.execute("INSERT INTO shop.item VALUES (1, 'a')")
    pair.source.ok("run", "--once")
    running = pair.node.start()
    try:
        # As often as a tx may be begun without an end, and once more.
        wait_for(lambda: running.log.read_text().count("service.failed") > 4, 60, "several tries")
        pair.owner(given)
        wait_for(lambda: pair.node.query("SELECT * FROM shop.item") == [(1, "a")], 90, "the row")
        assert pair.node.report("dlq", "list") == []
    finally:
        pair.node.close()


@pytest.mark.parametrize("way", [("migrate",), ("dlq", "replay", "--all")], ids=["migrate", "replay"])
def test_what_waited_too_long_for_its_rights_is_tried_again_on_demand(pair: Pair, way: tuple[str, ...]) -> None:
    with (pair.node.folder / "rowferry.toml").open("a") as file:
        file.write("\n[limits]\nearly_seconds = 0.001\n")
    pair.owner("REVOKE INSERT ON shop.item FROM {rf}")
    pair.source.execute("INSERT INTO shop.item VALUES (1, 'a')")
    sync(pair.source, pair.node, code=4)

    def dead() -> bool:
        pair.node.call("run", "--once")
        return [one["state"] for one in pair.node.report("dlq", "list")] == ["dead"]

    wait_for(dead, 60, "the time for a grant to be over")
    pair.owner("GRANT INSERT ON shop.item TO {rf}")
    pair.node.ok(*way)
    assert pair.node.query("SELECT * FROM shop.item") == [(1, "a")]
    assert pair.node.report("dlq", "list") == []


def test_a_new_table_without_the_right_to_capture_it_does_not_keep_others_from_being_captured(pair: Pair) -> None:
    pair.owner(
        "CREATE TABLE shop.a_closed (id int PRIMARY KEY); CREATE TABLE shop.open (id int PRIMARY KEY)",
        "GRANT SELECT, INSERT, UPDATE, DELETE ON shop.a_closed TO {rf}",
        "GRANT SELECT, INSERT, UPDATE, DELETE, TRIGGER ON shop.open TO {rf}",
        "ALTER TABLE shop.item ADD extra int",
    )
    pair.node.ok("run", "--once")
    assert pair.node.report("status")["drifted"] == ["shop.a_closed"]
    pair.owner("INSERT INTO shop.open VALUES (1)")
    pair.node.ok("run", "--once")
    assert pair.node.query("SELECT count(*) FROM rf_tx") == [(1,)]
    assert 'TRIGGER ON "shop"."a_closed" TO' in pair.node.call("migrate").stderr
    pair.owner("GRANT TRIGGER ON shop.a_closed TO {rf}")
    pair.node.ok("migrate")
    assert pair.node.report("status")["drifted"] == []


def test_who_does_not_own_a_sequence_is_told_what_helps(accounts: Accounts, node: PostgresNode) -> None:
    table, share = "shop.bill", KeyShare(3, nodes=8, bits=40)
    with accounts.connect(accounts.owner) as owner:
        owner.execute("CREATE TABLE shop.bill (id serial PRIMARY KEY, v text)")
        owner.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE, TRIGGER ON shop.bill TO {accounts.rowferry}".encode())
        owner.execute(f"GRANT SELECT, INSERT ON shop.bill TO {accounts.application}".encode())
        owner.execute(f"GRANT USAGE ON SEQUENCE shop.bill_id_seq TO {accounts.application}".encode())
    bill = [node.tables[table]]
    capture = node.database.capture(Rules(stride=frozenset({table}), share=share))
    assert any("GRANT SELECT ON SEQUENCE" in line for line in capture.plan(bill))
    with pytest.raises(ConfigError, match=r'keys by stride need the sequence "shop"\."bill_id_seq".*ALTER SEQUENCE'):
        capture.install(bill)
    with accounts.connect(accounts.application) as application:
        application.execute("INSERT INTO shop.bill (v) VALUES ('x')")
    assert len(node.changes()) == 1, "capture stands all the same"
    guard = node.database.capture(Rules(no_own_keys=frozenset({table})))
    with pytest.raises(ConfigError, match=r"main-only can't be kept.*GRANT SELECT ON SEQUENCE"):
        guard.install(bill)

    # when the owner has done it
    with accounts.connect(accounts.owner) as owner:
        owner.execute(f"GRANT SELECT ON SEQUENCE shop.bill_id_seq TO {accounts.rowferry}".encode())
        owner.execute("ALTER SEQUENCE shop.bill_id_seq INCREMENT BY 8 MAXVALUE 2147483647 NO CYCLE RESTART WITH 11")
    capture.install(bill)
    assert capture.drifted(bill) == []
    guard.install(bill)
    with accounts.connect(accounts.application) as application:
        application.execute("INSERT INTO shop.bill VALUES (5, 'named')")
        with pytest.raises(psycopg.errors.RestrictViolation, match=r"shop\.bill .*main-only"):
            application.execute("INSERT INTO shop.bill (v) VALUES ('x')")
