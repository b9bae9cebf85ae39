"""A secret that is written wrongly is refused by its setting's name: nothing of it is printed, logged or stored."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.applying import sqlite_url
from tests.support.cli import call, ok, rowferry
from tests.support.nodes import CliNode, sqlite_database
from tests.support.private import write_private
from tests.support.web import Served, served_on_sqlite

SECRET = "rf_abcdefghijkl_S3cretS3cretS3cretS3cretS3cretS3cretS3c"
SPOILT = {
    "a second line": f"{SECRET}\nToken abcdefghijkl for b (push,pull).\n".encode(),
    "two words": f"{SECRET} {SECRET}".encode(),
    "a control character": f"{SECRET}\x00x".encode(),
    "no ASCII": f"{SECRET}ä".encode(),
    "no UTF-8": SECRET.encode() + b"\xff",
    "nothing": b"",
    "blank lines": b"\n \n",
}


@pytest.fixture
def main(tmp_path: Path) -> Iterator[Served]:
    (tmp_path / "main").mkdir()
    with served_on_sqlite(
        tmp_path / "main", node={"id": "main", "database": "sqlite:///main.db", "role": "main"}
    ) as one:
        yield one


@pytest.fixture
def branch(tmp_path: Path, main: Served) -> Iterator[CliNode]:
    database = sqlite_database(tmp_path, "b.db", ["CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT)"])
    node = CliNode.init("b", tmp_path / "b", database)
    ok(node, "migrate")
    with (node.folder / "rowferry.toml").open("a") as file:
        file.write(f'\n[peers.main]\nurl = "{main.url}"\ntoken_file = "main.token"\n')
    yield node
    node.close()


@pytest.mark.parametrize("spoilt", SPOILT)
def test_a_token_file_that_holds_no_token_is_a_wrong_setting(main: Served, branch: CliNode, spoilt: str) -> None:
    file = branch.folder / "main.token"
    file.write_bytes(SPOILT[spoilt])
    file.chmod(0o600)
    branch.execute("INSERT INTO item VALUES (1, 'x')")
    said = ""
    for arguments, setting in (
        (("pull", "--url", main.url), "peers.main.token_file"),
        (("push", "--url", main.url), "peers.main.token_file"),
        (("push", "--url", main.url, "--token-file", str(file)), "--token-file"),
        (("--debug", "pull", "--url", main.url, "--token-file", str(file)), "--token-file"),
    ):
        done = call(branch, *arguments)
        assert (done.exit_code, setting in done.stderr) == (2, True), done.output
        assert "bug in Rowferry" not in done.output
        said += done.output
    for arguments in (("--debug", "run", "--once"), ("doctor",), ("status",), ("status", "--json")):
        said += call(branch, *arguments).output
    assert "peers.main.token_file" in call(branch, "doctor").output
    assert "S3cret" not in said
    assert "Illegal header" not in said
    for stored in branch.folder.parent.glob("b.db*"):
        assert b"S3cret" not in stored.read_bytes()


def test_what_token_create_prints_is_a_token_file(main: Served, branch: CliNode, tmp_path: Path) -> None:
    """`rowferry token create --node b > FILE`: what is said about the token is no part of it."""
    config = tmp_path / "main.toml"
    config.write_text(f'[node]\nid = "main"\nrole = "main"\ndatabase = "{sqlite_url(tmp_path / "main")}"\n')
    made = rowferry(config, "token", "create", "--node", "b")
    assert made.exit_code == 0, made.output
    assert len(made.stdout.split()) == 1
    assert "not shown again" in made.stderr
    file = branch.folder / "main.token"
    file.write_text(made.stdout)
    file.chmod(0o600)
    branch.execute("INSERT INTO item VALUES (1, 'x')")
    ok(branch, "push", "--url", main.url)


@pytest.mark.parametrize(
    ("section", "lines"),
    [
        ("broker", 'url = "amqp://user:S3cret/S3cret@127.0.0.1:1/"'),
        ("broker", 'url = "amqp://user:S3cret@S3cret@127.0.0.1:1/"'),
        ("broker", 'url = "amqp://user:S3cret\u2100@127.0.0.1:1/"'),
        ("broker", 'url = "amqp://user:[S3cret@127.0.0.1:1/"'),
        ("broker", 'url = "redis://user:S3cret/S3cret@127.0.0.1:1/"'),
        ("broker", 'url = "redis://user:S3cret@127.0.0.1:1/0"'),
        ("peers.main", 'url = "http://user:S3cret/S3cret@127.0.0.1:1/"'),
        ("peers.main", 'url = "http://user:S3cret\u2100@127.0.0.1:1/"'),
        ("peers.main", 'url = "http://user:S3cret@127.0.0.1:1/"'),
    ],
)
def test_a_password_in_an_address_is_never_told(tmp_path: Path, section: str, lines: str) -> None:
    database = sqlite_database(tmp_path, "b.db", ["CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT)"])
    node = CliNode.init("b", tmp_path / "b", database)
    ok(node, "migrate")
    file = node.folder / "rowferry.toml"
    own = [] if f"[{section}]" not in file.read_text() else file.read_text().split(f"[{section}]")[:1]
    file.write_text((own[0] if own else file.read_text()) + f"\n[{section}]\n{lines}\n")
    node.execute("INSERT INTO item VALUES (1, 'x')")
    said = "".join(
        call(node, *arguments).output
        for arguments in (("--debug", "run", "--once"), ("doctor",), ("status", "--json"), ("topology", "check"))
    )
    assert "S3cret" not in said
    for stored in tmp_path.glob("b.db*"):
        assert b"S3cret" not in stored.read_bytes()
    node.close()


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://user:S3cret@127.0.0.1:1/x",
        "postgresql://user:S3cret@S3cret@127.0.0.1:1/x",
        "postgresql://user:S3cret/S3cret@127.0.0.1:1/x",
        "postgresql://user@127.0.0.1:1/x?password=S3cret",
        "postgresql://user:S3cret@127.0.0.1:port/x",
        "postgresql://user:S3cret@127.0.0.1:1/x?nix=1",
    ],
)
def test_a_password_of_the_database_is_never_told(tmp_path: Path, url: str) -> None:
    config = tmp_path / "rowferry.toml"
    write_private(config, f'[node]\nid = "b"\ndatabase = {json.dumps(url)}\n')
    for arguments in (("status",), ("doctor",), ("--debug", "run", "--once"), ("migrate",), ("--debug", "status")):
        done = rowferry(config, *arguments)
        assert done.exit_code != 0
        assert "S3cret" not in done.output
