"""The file way out: what `export-change-log` and `push --file` do, one function for both."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from common.console import Progress
from common.errors import RowferryError
from common.ops.export_files import checked_file, own_files
from common.ops.incarnation import settle_incarnation
from common.ops.sealing import seal_all
from common.runtime.host import Host
from common.runtime.node import Node
from producer.clients import Clients, Given
from producer.extract import Stretch, batches, stretches
from producer.files import holds_something, make_folder, write_export, write_into_folder
from producer.purge import log_begins

STDOUT = "-"


@dataclass(frozen=True, slots=True)
class Request:
    """What to export, and where to."""

    out: str
    """A file, a folder (it exists, or ends with a slash), or `-`."""
    since_lsn: int = 0
    client: str | None = None
    """Whose `last_lsn` to start from, instead of `since_lsn`."""
    replace: bool = True
    """Whether a file that holds something may be replaced."""


@dataclass(frozen=True, slots=True)
class Written:
    """One stretch of the log, and the file it went to."""

    stretch: Stretch
    file: Path | None


@dataclass(frozen=True, slots=True)
class Export:
    """What was exported. The present incarnation's part is always there, and last; it may be empty."""

    written: tuple[Written, ...]
    gone_until_lsn: int | None = None
    """Up to here the present incarnation's log was asked for and is purged: whoever lacks that needs a copy of the
    data."""

    @property
    def txs(self) -> int:
        return sum(one.stretch.txs for one in self.written)

    @property
    def changes(self) -> int:
        return sum(one.stretch.changes for one in self.written)

    @property
    def given(self) -> list[Given]:
        """How far each incarnation's part goes."""
        return [Given(one.stretch.incarnation, one.stretch.to_lsn, one.stretch.last_tx_id) for one in self.written]

    def document(self) -> dict[str, Any]:
        """Return the export as its JSON document."""
        *earlier, present = (_described(one) for one in self.written)
        counts: dict[str, int | None] = {"txs": self.txs, "changes": self.changes}
        counts["gone_until_lsn"] = self.gone_until_lsn
        return {**present, **counts, **({"earlier_incarnations": earlier} if earlier else {})}


def export(node: Node, request: Request, host: Host) -> Export:
    """Seal what is committed now and write whole txs in LSN order. Moves no cursor and no client's state.

    Raises OutageError (database), UsageError (what `out` names) and RowferryError (the file can't be written)."""
    node = replace(node, facts=settle_incarnation(node.database, node.facts, node.clock))
    seal_all(node.database, node.facts)
    begins = _begins(node, request)
    found = stretches(node, begins)
    with host.progress(sum(stretch.txs for stretch in found), "exporting") as progress:
        done = _written(node, request, host, found, progress)
    gone = log_begins(node, node.facts.incarnation)
    return replace(done, gone_until_lsn=gone) if gone > (begins(node.facts.incarnation) or 0) else done


def _written(node: Node, request: Request, host: Host, found: list[Stretch], progress: Progress) -> Export:
    if request.out == STDOUT:
        return _to_stream(node, found, sys.stdout.buffer, progress)
    if request.out.endswith("/") or Path(request.out).is_dir():
        return _to_folder(node, found, Path(request.out).resolve(), progress)
    path = checked_file(Path(request.out), own_files(node.database, host.config_file))
    # Looked at after the client's place was read: what somebody else gave meanwhile is on disk before its place moves.
    if not request.replace and holds_something(path):
        if any(stretch.txs for stretch in found):
            raise RowferryError(
                f"{path} holds what was given before, and may not have been collected: nothing was written or noted. "
                "Move it away once it is collected, name another file or a folder, or replace it with --force"
            )
        return Export(tuple(Written(stretch, path) for stretch in found))
    return _to_file(node, found, path, progress)


def _begins(node: Node, request: Request) -> Callable[[str], int | None]:
    """Return where each incarnation's part begins. An LSN means the present incarnation; above 0, it alone."""
    client = request.client
    if client is not None:
        clients = Clients(node.database, node.clock)
        return lambda incarnation: clients.last_lsn(client, incarnation)

    def begin(incarnation: str) -> int | None:
        if incarnation == node.facts.incarnation:
            return request.since_lsn
        return None if request.since_lsn else 0

    return begin


def _bodies(node: Node, found: list[Stretch], progress: Progress) -> Iterator[bytes]:
    for stretch in found:
        yield from batches(node, stretch, progress.advance)


def _to_file(node: Node, found: list[Stretch], path: Path, progress: Progress) -> Export:
    write_export(path, _bodies(node, found, progress))
    return Export(tuple(Written(stretch, path) for stretch in found))


def _to_stream(node: Node, found: list[Stretch], stream: BinaryIO, progress: Progress) -> Export:
    for body in _bodies(node, found, progress):
        stream.write(body)
    stream.flush()
    return Export(tuple(Written(stretch, None) for stretch in found))


def _to_folder(node: Node, found: list[Stretch], folder: Path, progress: Progress) -> Export:
    """Write one file for each incarnation; none where there is nothing, since its name would have no LSNs."""
    make_folder(folder)
    written = []
    for stretch in found:
        path = None
        if stretch.txs:
            lsns = (stretch.from_lsn, stretch.to_lsn)
            bodies = batches(node, stretch, progress.advance)
            path = write_into_folder(folder, node.facts.node_id, stretch.incarnation, lsns, bodies)
        written.append(Written(stretch, path))
    return Export(tuple(written))


def _described(one: Written) -> dict[str, Any]:
    stretch = one.stretch
    return {
        "file": str(one.file) if one.file else None,
        "txs": stretch.txs,
        "changes": stretch.changes,
        "from_lsn": stretch.from_lsn if stretch.txs else None,
        "to_lsn": stretch.to_lsn if stretch.txs else None,
        "incarnation": stretch.incarnation,
    }
