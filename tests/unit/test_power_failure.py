"""What a power failure leaves of a file that is written: told by a disk that keeps only what was synced.

A model, not a disk: it follows the calls that the code makes (write, fsync, link, replace) and works out what may be
there if the power fails right after each of them. It shows the order of the calls, and nothing of a disk that lies."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from common.transports.files import replace_file_durably, write_file_durably

WHOLE = b"one\ntwo\nthree\n"


class Disk:
    """Files by inode; names by path. What is not synced may be there or not."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._written: dict[int, bytes] = {}
        self._synced: dict[int, bytes] = {}
        self._names: dict[str, int] = {}
        self._kept: dict[str, int] = {}
        self.lost: list[str] = []
        for name in ("write", "fsync", "link", "replace"):
            patch.setattr(os, name, self._wrapped(name, getattr(os, name)))

    def _wrapped(self, name: str, call: Any) -> Any:
        def wrapped(*arguments: Any) -> Any:
            result = call(*arguments)
            getattr(self, name)(*arguments)
            self._look(name)
            return result

        return wrapped

    def write(self, fd: int, data: Any) -> None:
        inode = os.fstat(fd).st_ino
        self._written[inode] = self._written.get(inode, b"") + bytes(data)

    def fsync(self, fd: int) -> None:
        found = os.fstat(fd)
        if found.st_ino in self._written:
            self._synced[found.st_ino] = self._written[found.st_ino]
        else:
            self._kept = dict(self._names)

    def link(self, _temporary: Path, path: Path) -> None:
        self._names[str(path)] = os.stat(path).st_ino

    replace = link

    def surely_holds(self, path: Path) -> bytes | None:
        """What is there whenever the power fails from now on."""
        inode = self._kept.get(str(path))
        return None if inode is None else self._synced.get(inode, b"")

    def _look(self, after: str) -> None:
        for path, inode in {**self._kept, **self._names}.items():
            if self._synced.get(inode) != WHOLE:
                self.lost.append(f"a power failure after {after} leaves {path} torn")


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    with monkeypatch.context() as patch:
        yield Disk(patch)


def test_a_new_file_is_whole_or_not_there_and_stays(tmp_path: Path, disk: Disk) -> None:
    path = tmp_path / "batch"
    write_file_durably(path, [WHOLE[:4], WHOLE[4:]])
    assert disk.lost == []
    assert disk.surely_holds(path) == WHOLE


def test_a_replaced_file_is_whole_and_stays(tmp_path: Path, disk: Disk) -> None:
    path = tmp_path / "acks"
    replace_file_durably(path, WHOLE)
    assert disk.lost == []
    assert disk.surely_holds(path) == WHOLE


def test_the_model_sees_a_file_that_is_named_before_it_is_synced(tmp_path: Path, disk: Disk) -> None:
    fd = os.open(tmp_path / "a", os.O_CREAT | os.O_WRONLY)
    os.write(fd, WHOLE)
    os.link(tmp_path / "a", tmp_path / "b")
    assert disk.lost == [f"a power failure after link leaves {tmp_path / 'b'} torn"]
    os.fsync(fd)
    assert disk.surely_holds(tmp_path / "b") is None
    os.close(fd)
