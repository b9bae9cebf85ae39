"""Files that are whole or not there."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.transports.files import (
    NewFile,
    open_regular,
    remove_abandoned,
    replace_file_durably,
    storage_outage,
    write_file_durably,
)


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def test_a_file_is_written_once_and_the_same_again_is_fine(tmp_path: Path) -> None:
    path = tmp_path / "one"
    assert write_file_durably(path, [b"a", b"b"])
    assert not write_file_durably(path, [b"ab"])
    assert path.read_bytes() == b"ab"
    assert names(tmp_path) == ["one"]


@pytest.mark.parametrize("other", [b"", b"a", b"abc", b"ax"])
def test_other_content_under_the_same_name_is_an_error_and_replaces_nothing(tmp_path: Path, other: bytes) -> None:
    path = tmp_path / "one"
    write_file_durably(path, [b"ab"])
    with pytest.raises(FileExistsError):
        write_file_durably(path, [other])
    assert path.read_bytes() == b"ab"
    assert names(tmp_path) == ["one"]


def test_an_error_while_writing_leaves_nothing(tmp_path: Path) -> None:
    def chunks() -> Iterator[bytes]:
        yield b"a"
        raise RuntimeError("the database went away")

    with pytest.raises(RuntimeError):
        write_file_durably(tmp_path / "one", chunks())
    assert names(tmp_path) == []


def test_a_name_that_is_a_link_is_neither_followed_nor_replaced(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(b"ab")
    (tmp_path / "one").symlink_to(elsewhere)
    with pytest.raises(OSError, match="symbolic links"):
        write_file_durably(tmp_path / "one", [b"ab"])
    assert elsewhere.read_bytes() == b"ab"


def test_a_disk_without_hard_links_is_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(source: Path, target: Path) -> None:
        raise OSError(errno.EPERM, "no hard links here")

    monkeypatch.setattr(os, "link", no_links)
    assert write_file_durably(tmp_path / "one", [b"ab"])
    assert not write_file_durably(tmp_path / "one", [b"ab"])
    with pytest.raises(FileExistsError):
        write_file_durably(tmp_path / "one", [b"x"])
    assert names(tmp_path) == ["one"]


def test_replacing_is_whole_too(tmp_path: Path) -> None:
    for data in (b"old", b"new"):
        replace_file_durably(tmp_path / "acks.json", data)
    assert (tmp_path / "acks.json").read_bytes() == b"new"
    assert names(tmp_path) == ["acks.json"]


def test_leftovers_of_the_dead_are_removed_and_those_of_the_living_stay(tmp_path: Path) -> None:
    (tmp_path / ".rowferry-0123.tmp").write_bytes(b"half")
    (tmp_path / "somebody.tmp").write_bytes(b"not ours")
    with NewFile(tmp_path) as living:
        living.write(b"half")
        assert remove_abandoned(tmp_path) == 1
        assert living.commit(tmp_path / "one")
    assert names(tmp_path) == ["one", "somebody.tmp"]


def test_a_share_without_locks_is_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(fd: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "no locks here")

    monkeypatch.setattr("fcntl.flock", no_locks)
    assert write_file_durably(tmp_path / "one", [b"ab"])


def test_only_regular_files_in_real_folders_are_opened(tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.mkdir()
    (real / "one").write_bytes(b"ab")
    (real / "link").symlink_to(real / "one")
    (real / "folder").mkdir()
    os.mkfifo(real / "pipe")
    (tmp_path / "linked").symlink_to(real)
    with open_regular(real, "one") as stream:
        assert stream.read() == b"ab"
    for folder, name in ((real, "link"), (real, "folder"), (real, "pipe"), (tmp_path / "linked", "one")):
        with pytest.raises(OSError, match=r"regular|symbolic|directory"):
            open_regular(folder, name)


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "free space"),
        (errno.EROFS, "mount it for writing"),
        (errno.ENOENT, "mount the share"),
        (errno.EACCES, "let the account"),
        (errno.EBADMSG, "check the path"),
    ],
)
def test_an_outage_names_path_and_remedy(number: int, remedy: str) -> None:
    message = str(storage_outage(OSError(number, os.strerror(number)), Path("share/a"), "writing into"))
    assert "share/a" in message
    assert os.strerror(number) in message
    assert remedy in message
