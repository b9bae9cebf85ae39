"""What of one node's own log still lies in a shared directory: in its own folder, and where others handed it on."""

import os
from pathlib import Path

from common.transports.directory.acks import Acks, BrokenAcksError, read_acks
from common.transports.directory.names import BatchFile, is_writer_folder, parse_name, same_node
from common.transports.files import THIS_ALONE, storage_outage
from common.wire.signing import Trust


def files_of(root: Path, origin: str, *, where_readable: bool = False) -> list[BatchFile]:
    """Return the files of `origin`, in the order of its log. Raises OutageError.

    `where_readable`: but those in folders that this account may not read."""
    found: list[BatchFile] = []
    try:
        for writer in _writers(root):
            try:
                found.extend(file for file in _in_folder(root, writer) if file.origin == origin)
            except OSError as error:
                if not where_readable or error.errno not in THIS_ALONE:
                    raise
    except OSError as error:
        raise storage_outage(error, root, "looking through the shared folder") from error
    return sorted(found, key=lambda file: file.order)


def files_written_by(root: Path, writer: str) -> list[BatchFile]:
    """Return the files in one node's own folder, of whatever origin, in no order. Raises OutageError."""
    try:
        return _in_folder(root, writer)
    except OSError as error:
        raise storage_outage(error, root / writer, "looking through the own folder in the share") from error


def own_acks(root: Path, node_id: str, trust: Trust | None = None) -> Acks:
    """Return what a node itself has left there; empty where it can't be read. Raises OutageError."""
    try:
        acks = read_acks(root, node_id, trust)
    except BrokenAcksError:
        acks = None
    except OSError as error:
        raise storage_outage(error, root, "reading acks.json") from error
    return Acks(node_id) if acks is None else acks


def passed_by_others(root: Path, origin: str, trust: Trust | None = None) -> dict[str, dict[str, int]]:
    """Return up to where each other node has passed each incarnation of `origin`. Raises OutageError."""
    return {
        writer: {one: lsn for (of, one), lsn in acks.passed.items() if of == origin}
        for writer, acks in acks_of_others(root, origin, trust).items()
    }


def acks_of_others(root: Path, node_id: str, trust: Trust | None = None) -> dict[str, Acks]:
    """Return what each other node has left there. Raises OutageError.

    Of a node whose acks.json can't be believed or read it is not known: one node's fault is not every node's."""
    found: dict[str, Acks] = {}
    try:
        for writer in _writers(root):
            if same_node(writer, node_id):
                continue
            try:
                acks = read_acks(root, writer, trust)
            except BrokenAcksError:
                # It says nothing that can be believed; its owner replaces it.
                continue
            except OSError as error:
                if error.errno not in THIS_ALONE:
                    raise
                continue
            if acks is not None:
                found[writer] = acks
    except OSError as error:
        raise storage_outage(error, root, "looking through the shared folder") from error
    return found


def _writers(root: Path) -> list[str]:
    with os.scandir(root) as entries:
        return sorted(
            entry.name for entry in entries if is_writer_folder(entry.name) and entry.is_dir(follow_symlinks=False)
        )


def _in_folder(root: Path, writer: str) -> list[BatchFile]:
    with os.scandir(root / writer) as entries:
        parsed = [parse_name(writer, entry.name) for entry in entries if entry.is_file(follow_symlinks=False)]
    return [file for file in parsed if file is not None]
