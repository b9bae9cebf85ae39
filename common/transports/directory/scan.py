"""Looking for batch files in the other nodes' folders."""

import logging
import os
from pathlib import Path

from common.transports.directory.names import BatchFile, is_writer_folder, parse_name, same_node
from common.transports.files import storage_outage

log = logging.getLogger(__name__)


def members(root: Path, node_id: str) -> list[str]:
    """Return the other nodes that have a folder of their own, whether anything is in it or not. Raises OSError."""
    with os.scandir(root) as entries:
        return [entry.name for entry in entries if _is_of_another(entry, node_id)]


class Scanner:
    """Lists what the other nodes have written: regular files of exactly our pattern, in the order to read them.

    A folder that can't be read is logged, once until it can, and left out: one peer's fault is not every peer's.
    """

    def __init__(self, root: Path, node_id: str) -> None:
        self._root = root
        self._node_id = node_id
        self._warned: set[str] = set()

    def files(self) -> list[BatchFile]:
        """Look once. Raises OutageError when the shared folder itself can't be read."""
        try:
            writers = members(self._root, self._node_id)
        except OSError as error:
            raise storage_outage(error, self._root, "reading the shared folder") from error
        found = [file for writer in writers for file in self._in_folder(writer)]
        return sorted(found, key=lambda file: file.order)

    def _in_folder(self, writer: str) -> list[BatchFile]:
        try:
            with os.scandir(self._root / writer) as entries:
                parsed = [parse_name(writer, entry.name) for entry in entries if entry.is_file(follow_symlinks=False)]
        except OSError as error:
            if writer not in self._warned:
                self._warned.add(writer)
                log.warning("directory.folder-unreadable", extra={"writer": writer, "error": str(error)})
            return []
        self._warned.discard(writer)
        return [file for file in parsed if file is not None and not same_node(file.origin, self._node_id)]


def _is_of_another(entry: "os.DirEntry[str]", node_id: str) -> bool:
    if not is_writer_folder(entry.name) or same_node(entry.name, node_id):
        return False
    return entry.is_dir(follow_symlinks=False)
