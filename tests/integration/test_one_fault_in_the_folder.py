"""What one node, or whoever may write to the shared folder, leaves there that can't be read: others' batches come."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from common.errors import OutageError
from common.transports.directory.own_files import files_of
from tests.support.nodes import CliNode, sqlite_database, sync

SCHEMA = ["CREATE TABLE item (id INTEGER PRIMARY KEY)"]


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[tuple[CliNode, CliNode]]:
    made = [
        CliNode.init(
            name,
            tmp_path / name,
            sqlite_database(tmp_path, f"{name}.db", SCHEMA),
            "--directory",
            str(tmp_path / "exchange"),
        )
        for name in ("a", "b")
    ]
    for node in made:
        node.ok("migrate")
    yield made[0], made[1]
    for node in made:
        node.close()


def linked(place: Path) -> None:
    place.symlink_to(place.parent)


def a_socket(place: Path) -> None:
    here = Path.cwd()
    os.chdir(place.parent)
    try:
        # The whole path is too long for its address.
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(place.name)
    finally:
        os.chdir(here)


@pytest.mark.parametrize("leave", [linked, a_socket, os.mkfifo, Path.mkdir])
def test_acks_that_can_t_be_read_keep_nobody_from_reading(
    nodes: tuple[CliNode, CliNode], tmp_path: Path, leave: Callable[[Path], None]
) -> None:
    stranger = tmp_path / "exchange" / "stranger"
    stranger.mkdir()
    leave(stranger / "acks.json")
    nodes[0].execute("INSERT INTO item VALUES (1)")
    sync(*nodes)
    assert nodes[1].query("SELECT id FROM item") == [(1,)]


@contextmanager
def as_somebody_else(folder: Path) -> Iterator[None]:
    """Stand in `folder` as an account without rights, where this one has all."""
    here, is_root = Path.cwd(), os.geteuid() == 0
    os.chdir(folder)
    try:
        if is_root:
            os.seteuid(65534)
        yield
    finally:
        if is_root:
            os.seteuid(0)
        os.chdir(here)


def test_a_folder_that_is_closed_to_this_account_tells_nothing(tmp_path: Path) -> None:
    root = tmp_path / "exchange"
    name = f"a.inc.{1:020d}-{1:020d}.jsonl"
    for writer in ("closed", "open"):
        (root / writer).mkdir(parents=True)
        (root / writer / name).touch()
    root.chmod(0o755)
    (root / "closed").chmod(0)
    try:
        with as_somebody_else(root):
            assert [str(one) for one in files_of(Path(), "a", where_readable=True)] == [f"open/{name}"]
            with pytest.raises(OutageError, match="Permission denied"):
                files_of(Path(), "a")
    finally:
        (root / "closed").chmod(0o755)
