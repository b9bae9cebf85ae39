"""Looking for batch files in the other nodes' folders."""

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from common.transports.directory.names import BatchFile, is_writer_folder, parse_name, same_node
from common.transports.files import storage_outage

log = logging.getLogger(__name__)
_Folder: TypeAlias = Mapping[str, BatchFile | None]
"""By name what it tells; None for what is none of the batch files that are to be read."""
_EMPTY: _Folder = {}


def members(root: Path, node_id: str) -> list[str]:
    """Return the other nodes that have a folder of their own, whether anything is in it or not. Raises OSError."""
    with os.scandir(root) as entries:
        return [entry.name for entry in entries if _is_of_another(entry, node_id)]


class Scanner:
    """Lists what the other nodes have written: regular files of exactly our pattern, in the order to read them.

    A folder that can't be read is logged, once until it can, and left out: one peer's fault is not every peer's.
    For a peer that is away files may lie here by the thousand, and a look is taken each second: what a name tells is
    kept as long as it stands there.
    """

    def __init__(self, root: Path, node_id: str) -> None:
        self._root = root
        self._node_id = node_id
        self._warned: set[str] = set()
        self._known: dict[str, _Folder] = {}
        self._found: Sequence[BatchFile] = ()

    def files(self) -> Sequence[BatchFile]:
        """Look once: the same object as before, where no file came or went.

        Raises OutageError when the shared folder itself can't be read."""
        try:
            writers = members(self._root, self._node_id)
        except OSError as error:
            raise storage_outage(error, self._root, "reading the shared folder") from error
        now = {writer: self._in_folder(writer) for writer in writers}
        before, self._known = self._known, now
        if len(now) != len(before) or any(before.get(writer) is not folder for writer, folder in now.items()):
            found = [file for folder in now.values() for file in folder.values() if file is not None]
            self._found = sorted(found, key=lambda file: file.order)
        return self._found

    def _in_folder(self, writer: str) -> _Folder:
        """Return what stands in a writer's folder; the same object as before, where nothing came or went."""
        before = self._known.get(writer, _EMPTY)
        try:
            with os.scandir(self._root / writer) as entries:
                names = {entry.name for entry in entries if entry.is_file(follow_symlinks=False)}
        except OSError as error:
            if writer not in self._warned:
                self._warned.add(writer)
                log.warning("directory.folder-unreadable", extra={"writer": writer, "error": str(error)})
            return _EMPTY
        self._warned.discard(writer)
        if names == before.keys():
            return before
        return {name: before[name] if name in before else self._told_by(writer, name) for name in names}

    def _told_by(self, writer: str, name: str) -> BatchFile | None:
        file = parse_name(writer, name)
        return None if file is None or same_node(file.origin, self._node_id) else file


def _is_of_another(entry: "os.DirEntry[str]", node_id: str) -> bool:
    if not is_writer_folder(entry.name) or same_node(entry.name, node_id):
        return False
    return entry.is_dir(follow_symlinks=False)
