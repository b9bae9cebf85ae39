"""Before anything is sealed, and while it runs: does the shared folder tell that this database was put back to an
earlier state?

The node's own `acks.json` was written from watermarks that were committed, so it is never ahead of them; no other node
has passed more of this node's log than there is of it, or another tx at the same place; and no file holds more of it,
its own or handed on."""

import logging
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from common.errors import RowferryError
from common.ids import least_tx_id
from common.ops.rewinding import Seen, look, note, note_put_back
from common.periodic import Periodic
from common.preflight.format import read_file
from common.runtime.node import Node
from common.schema import tables as rf
from common.transports.directory.names import BatchFile
from common.transports.directory.own_files import acks_of_others, files_of, own_acks
from common.wire.decode import Broken
from common.wire.proving import part_fault
from consumer.own_seen import end_of_log, note_seen
from consumer.statements import insert_missing, reading, writing
from consumer.watermark import read_all

log = logging.getLogger(__name__)
_EVERY_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Lost:
    """What this node had of another one's log, and has no more."""

    peer: str
    incarnation: str
    after_lsn: int
    until_lsn: int
    is_known: bool
    """Whether the database tells so itself: then the node was not put back again since that was noticed."""


def look_into_folder(node: Node) -> list[Lost]:
    """Note what the folder tells; return what of others is missing. Raises OutageError."""
    directory = node.config.directory
    if directory is None or not directory.path.is_dir():
        return []
    lost = _lost(node, directory.path)
    why = [
        f"it had passed LSN {one.until_lsn} of {one.peer}, and is at LSN {one.after_lsn} of it"
        for one in lost
        if not one.is_known
    ]
    now_us = node.clock.now_us()

    def work(connection: sa.Connection) -> list[str]:
        _want(connection, lost, now_us)
        news = [one for one in why if note_put_back(connection, node.facts.node_id, one, now_us)]
        for seen, head_lsn in _seen(node, directory.path):
            said = look(connection, node.facts.incarnation, head_lsn, seen)
            if said is not None and note(connection, node.facts.node_id, seen, said, now_us):
                news.append(said)
        return news

    for error in writing(node.database, work):
        log.error("node_is_rewound", extra={"error": error, "remedy": "rowferry rejoin"})
    for file in _beyond(node, directory.path):
        _look_into_file(node, directory.path, file)
    return lost


class FolderWatch(Periodic):
    """Looks into the folder each minute: a database may be put back under a running node, which then goes on under LSNs
    that others have had. A `Service`."""

    name = "put-back"

    def __init__(self, node: Node) -> None:
        super().__init__()
        self._node = node
        # It is looked at before the node starts.
        self.look_again_in(_EVERY_SECONDS)

    def look(self) -> bool:
        """Look; never work that a drained node would wait for. Raises OutageError."""
        look_into_folder(self._node)
        self.look_again_in(_EVERY_SECONDS)
        return False


def _lost(node: Node, root: Path) -> list[Lost]:
    acks, nothing = own_acks(root, node.facts.node_id, node.config.trust()), (0, 0)
    with reading(node.database) as connection:
        marks = {key: (mark.last_lsn, mark.highest_lsn) for key, (mark, _) in read_all(connection).items()}
    return [
        Lost(*key, marks.get(key, nothing)[0], lsn, lsn > acks.passed.get(key, 0) and lsn <= marks.get(key, nothing)[1])
        for key, lsn in sorted(acks.once_passed().items())
        if lsn > marks.get(key, nothing)[0] and key[0] != node.facts.node_id
    ]


def _want(connection: sa.Connection, lost: list[Lost], now_us: int) -> None:
    """Let the watermarks know that there is more: it is a gap then, which `status` names and a request fills."""
    state = rf.sync_state
    for one in lost:
        row = {"peer": one.peer, "direction": "in", "incarnation": one.incarnation, "last_lsn": 0, "updated_us": now_us}
        insert_missing(connection, state, [row])
        its = sa.and_(state.c.peer == one.peer, state.c.direction == "in", state.c.incarnation == one.incarnation)
        below = sa.and_(its, state.c.highest_lsn < one.until_lsn)
        connection.execute(sa.update(state).where(below).values(highest_lsn=one.until_lsn))


def _seen(node: Node, root: Path) -> list[tuple[Seen, int]]:
    found = []
    heads: dict[str, int] = {}
    for peer, acks in acks_of_others(root, node.facts.node_id, node.config.trust()).items():
        for (origin, incarnation), lsn in acks.passed.items():
            if origin != node.facts.node_id:
                continue
            if incarnation not in heads:
                heads[incarnation] = end_of_log(node, incarnation)
            seen = Seen(peer, incarnation, lsn, acks.tx_ids.get((origin, incarnation)))
            found.append((seen, heads[incarnation]))
    return [*_own_end(node, root, [seen for seen, _ in found]), *found]


def _own_end(node: Node, root: Path, others: list[Seen]) -> list[tuple[Seen, int]]:
    """Return what this node itself had written of its log's end. What it has sealed since is only here: others skip it
    as passed, and its files go, so that its time alone tells it from what they have had."""
    facts = node.facts
    acks = own_acks(root, facts.node_id, node.config.trust())
    lsn = acks.passed.get((facts.node_id, facts.incarnation), 0)
    head_lsn = end_of_log(node, facts.incarnation)
    if lsn <= head_lsn or not acks.updated_us:
        return []
    until_lsn = max([lsn, *(seen.lsn for seen in others if seen.incarnation == facts.incarnation)])
    # The least id of the next millisecond.
    end = least_tx_id(acks.updated_us + 1_000)
    return [(Seen("its own acks.json", facts.incarnation, until_lsn, end), head_lsn)]


def _beyond(node: Node, root: Path) -> list[BatchFile]:
    """Return for each incarnation the last file of this node's log, where by its name it goes beyond the log's end."""
    # The names first: what is written meanwhile is in the log already.
    last = {file.incarnation: file for file in files_of(root, node.facts.node_id, where_readable=True)}
    return [file for file in last.values() if file.to_lsn > end_of_log(node, file.incarnation)]


def _look_into_file(node: Node, root: Path, file: BatchFile) -> None:
    """Anybody can give a file a name: what is in it counts."""
    seen: Seen | None = None
    try:
        for item in read_file(root / file.writer / file.name):
            if isinstance(item, Broken) or part_fault(item, node.config.trust()) is not None:
                continue
            header = item.header
            is_own = (header.source_node, header.incarnation) == (node.facts.node_id, file.incarnation)
            if is_own and (seen is None or header.to_lsn > seen.lsn):
                seen = Seen(str(file), header.incarnation, header.to_lsn, header.tx_id)
    except RowferryError as error:
        log.warning("own_file_not_read", extra={"file": str(file), "error": str(error)})
    if seen is not None:
        note_seen(node, seen)
