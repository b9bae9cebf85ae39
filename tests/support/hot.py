"""The work that a running node does again and again, in pieces that can be run one by one on an old node."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from typing import Any

import sqlalchemy as sa

from common.clock import from_us
from common.config.model import Config
from common.ops.measures import read_measures
from common.ops.progress import sides_of
from common.ops.sampling import Sampler
from common.ops.watchdog import Watchdog
from common.runtime.node import Node
from common.runtime.parts import load_parts
from common.versions import NEVER
from common.wire.control import Heartbeat
from common.wire.records import UNDERSTOOD_FEATURES
from consumer.dead_letters.copies import BrokerCopies
from consumer.gaps import find_gaps
from consumer.heard import note_listening
from consumer.heartbeats import note_heartbeat
from consumer.intake import Intake
from consumer.purge import purge_received
from consumer.reshaped import Reshaped
from consumer.standing.refresh import Refresh
from consumer.statements import reading, writing
from consumer.waiting import others_work
from producer.cursors import Cursors
from producer.heartbeat import own_heartbeat
from producer.log import NodeLogs
from producer.pull_cursor import PullCursor
from producer.pull_plan import Planner, Wanted
from producer.purge import purge_log
from producer.relay_cleaning import RelayCleaning
from producer.relay_log import Asked, Readers, RelayLog
from producer.waiting import own_work
from tests.support.applying import MemorySource, Origin, Tx, World, Write
from tests.support.filled import STANDING, Filled
from tests.support.mirror import FileMirror

TIMES = 6
"""So often small work is done: the server makes another plan once a statement has come a few times."""
MANY = 150
"""Changes of what is larger; above what a plan for few is made for."""
SECTIONS: dict[str, Any] = {"tables": {"policy": {"code": "manual"}}}


@dataclass
class Hot:
    """One node with all that is at work on it, as long-lived as in a process of it."""

    world: World
    filled: Filled
    origin: Origin = field(init=False)
    other: Origin = field(default_factory=lambda: Origin("b"))
    rows: Any = field(default_factory=lambda: count(1))
    fresh: Any = field(default_factory=lambda: count(800_000_000))

    def __post_init__(self) -> None:
        self.origin = self.filled.origin
        node = self.world.node
        mirror = FileMirror(tempfile.mkdtemp(prefix="rowferry-mirror-"))
        self.source = MemorySource()
        stop = threading.Event()
        self.intake = Intake(node, "hot", lambda: self.source, BrokerCopies(node, mirror), stop)
        self.sealer = node.database.sealer(node.facts)
        self.log = node.database.log(node.facts)
        self.cursors = Cursors(node.database, node.clock)
        self.reshaped = Reshaped(node)
        self.refresh = Refresh(node)
        self.sides = partial(sides_of, load_parts(), node)
        self.sampler = Sampler(node.database, node.config, node.facts, self.world.clock, self.sides)
        look = partial(others_work, node, [("hot", self.intake.holding)])
        self.watchdogs = [
            Watchdog("in", node.database, node.clock, 300, look),
            Watchdog("out", node.database, node.clock, 300, lambda: own_work(node)),
        ]

    def close(self) -> None:
        self.intake.close()

    def works(self) -> Mapping[str, Callable[[], None]]:
        """All pieces, in an order in which each finds what it needs."""
        return {
            "seal": self.seal,
            "read the log": self.read_log,
            "apply what is plain": self.apply_plain,
            "apply what is not": self.apply_long,
            "apply many": self.apply_many,
            "set aside": self.set_aside,
            "parts": self.parts,
            "a gap": self.gap,
            "a choice": self.choices,
            "look after letters": self.look_after_letters,
            "look after what stands": self.stand,
            "heartbeats": self.heartbeats,
            "each minute": self.each_minute,
            "hand on": self.hand_on,
            "purge": self.purge,
        }

    def receive(self, *txs: Tx | bytes) -> None:
        """Let the intake take these as one round."""
        self.source.put(*(tx if isinstance(tx, bytes) else tx.body for tx in txs))
        self.intake.step(0)
        while self.intake.has_more:
            self.intake.step(0)

    def written(self, count: int = 1) -> Tx:
        """The next tx of `a`: updates of rows that stand, each on top of what it is here."""
        return self.origin.tx(*(self._update(next(self.rows)) for _ in range(count)))

    def seal(self) -> None:
        for _ in range(TIMES):
            row = next(self.rows)
            self.world.execute(
                f"UPDATE item SET name = 'own' WHERE id = {row}",
                f"INSERT INTO item VALUES ({next(self.fresh)}, 'own', 1)",
            )
            self._seal()
        first = next(self.fresh)
        self.world.execute(*(f"INSERT INTO item VALUES ({next(self.fresh)}, 'own', 1)" for _ in range(MANY)))
        self.world.execute(f"DELETE FROM item WHERE id BETWEEN {first} AND {first + MANY}")
        self._seal()

    def read_log(self) -> None:
        head = self.log.head()
        for step in range(TIMES):
            for tx in self.log.read(max(0, head.lsn - 3 * step), 1_000_000):
                list(tx.lines())
            self.log.unsealed()
            self.cursors.save("directory", self.world.node.facts.incarnation, head.lsn - TIMES + step)
            self.cursors.load("directory", self.world.node.facts.incarnation)
        middle = self.filled.lsn + self.filled.rows // 2
        assert sum(1 for _ in self.log.read(middle, 300 * MANY)) >= MANY
        NodeLogs(self.world.node.database, self.world.node.facts).incarnations()

    def apply_plain(self) -> None:
        for _ in range(TIMES):
            self.receive(self.written())
            self.receive(self.origin.put(next(self.fresh), "new", 1_000))
        gone = next(self.rows)
        row = {"id": gone, "name": "row", "price": "1.00"}
        self.receive(self.origin.tx(Write("D", "item", row, 1_000, STANDING)))
        self.receive(self.written(MANY))

    def apply_many(self) -> None:
        self.receive(*(self.written() for _ in range(MANY)))
        self.receive(*(self.origin.put(next(self.rows), "conflict", 500) for _ in range(MANY)))

    def apply_long(self) -> None:
        for _ in range(TIMES):
            known = self.origin.put(next(self.rows), "conflict", 1_000)
            self.receive(known)
            self.receive(known)
            parent, child = next(self.fresh), next(self.fresh)
            self.receive(
                self.origin.tx(
                    Write("I", "parent", {"id": parent, "name": "p"}, 1_000),
                    Write("I", "child", {"id": child, "parent_id": parent}, 1_000),
                    Write("I", "code", {"id": child, "code": str(child)}, 1_000),
                )
            )
            self.receive(self.origin.tx(Write("D", "parent", {"id": parent, "name": "p"}, 1_001)))

    def set_aside(self) -> None:
        parent = next(self.fresh)
        for _ in range(TIMES):
            nowhere = {"id": next(self.fresh), "name": "x", "price": "1.00"}
            self.receive(self.origin.tx(Write("I", "nowhere", nowhere, 1_000)))
            early = {"id": next(self.fresh), "parent_id": parent}
            self.receive(self.origin.tx(Write("I", "child", early, 1_000)))
            self.receive(self.written())
            self.world.clock.pass_seconds(2)
            self.intake.step(0)
        self.receive(self.origin.tx(Write("I", "parent", {"id": parent, "name": "late"}, 1_000)))

    def parts(self) -> None:
        writes = (self._update(next(self.rows), "x" * 2_000) for _ in range(MANY))
        self.receive(*self.origin.tx(*writes).parts(max_batch_bytes=100_000))

    def gap(self) -> None:
        ahead = [self.other.put(next(self.fresh), "b", 1_000) for _ in range(MANY)]
        self.receive(*ahead[1:])
        for _ in range(TIMES):
            self.receive(self.other.put(next(self.fresh), "b", 1_000))
            self._find_gaps()
        self.receive(ahead[0])
        assert self.world.watermark("b") == self.other.lsn

    def choices(self) -> None:
        """Conflicts that wait, in a table whose policy says so."""
        for _ in range(TIMES):
            row = {"id": next(self.fresh), "code": f"of {next(self.fresh)}"}
            self.receive(self.origin.tx(Write("I", "code", row, 1_000)))
            self.receive(self.other.tx(Write("I", "code", row | {"code": "b's"}, 1_001)))
            row["code"] = "a's"
            self.receive(self.origin.tx(Write("U", "code", row, 1_002, NEVER)))

    def look_after_letters(self) -> None:
        for _ in range(TIMES):
            self.reshaped.follow_up()
            self.world.clock.pass_seconds(6)
            self.intake.step(0)

    def stand(self) -> None:
        for _ in range(TIMES):
            self.world.execute(f"UPDATE item SET name = 'own' WHERE id = {next(self.rows)}")
            self._seal()
            while self.refresh.step():
                pass

    def heartbeats(self) -> None:
        node = self.world.node
        for _ in range(TIMES):
            self.world.clock.pass_seconds(60)
            note_listening(node)
            own_heartbeat(node, lambda incarnation: self.cursors.load("directory", incarnation), 60)
            beat = Heartbeat(
                source_node="a",
                incarnation=self.origin.incarnation,
                head_lsn=self.origin.lsn,
                head_tx_id=None,
                sent_lsn=self.origin.lsn,
                every_seconds=60.0,
                at=from_us(self.world.clock.us),
                release="1.0",
                features=tuple(sorted(UNDERSTOOD_FEATURES)),
                schema_sha256="",
                policies_sha256="",
                passed=(("b", "inc1", self.other.lsn), ("here", node.facts.incarnation, self.log.head().lsn)),
            )
            writing(node.database, partial(self._note, beat))
            self._find_gaps()

    def _note(self, beat: Heartbeat, connection: sa.Connection) -> None:
        note_heartbeat(connection, beat, self.world.clock.us, is_main=False, is_named=False, raw=b"{}")

    def each_minute(self) -> None:
        node = self.world.node
        for _ in range(TIMES):
            self.world.clock.pass_seconds(60)
            self.sampler.look()
            for watchdog in self.watchdogs:
                watchdog.look()
            read_measures(node.database, node.facts, node.clock, self.sides)

    def hand_on(self) -> None:
        node = self._as_main()
        kept, readers = RelayLog(node.database), Readers(node.database, node.clock, node.facts.incarnation)
        planner = Planner(node)
        incarnation, head = node.facts.incarnation, self.log.head().lsn
        for step in range(TIMES):
            place = max(1, kept.head() - 20 * step - 20)
            for tx in kept.read(place, 10, 100_000, "b"):
                list(kept.parts(tx))
            kept.first()
            readers.save("pull:b", place)
            readers.load("pull:b")
            planner.plan(PullCursor(incarnation, head - step, incarnation, place), Wanted("b", 20))
            kept.stretch(Asked("a", "inc1", place, place + 5), 10_000)
        kept.read(1, 300, 300 * MANY)
        RelayCleaning(node, threading.Event()).clean()
        intake = Intake(node, "main", lambda: self.source, None, threading.Event())
        self.source.put(self.written().body)
        intake.step(0)
        intake.close()

    def purge(self) -> None:
        node = self.world.node
        self.cursors.save("directory", node.facts.incarnation, self.log.head().lsn)
        purge_log(node, actor="test")
        purge_received(node, actor="test")

    def _as_main(self) -> Node:
        """The same node if it handed others' batches on to a peer."""
        node = self.world.node
        sections = node.config.model_dump(exclude_unset=True)
        sections["node"] |= {"forward": True}
        sections["peers"] = {"b": {"url": "http://127.0.0.1:9", "token_file": "none"}}
        return replace(node, config=Config.model_validate(sections))

    def _seal(self) -> None:
        while self.sealer.seal().more:
            pass
        self.sealer.is_quiet()

    def _find_gaps(self) -> None:
        with reading(self.world.node.database) as connection:
            find_gaps(connection)

    def _update(self, row: int, name: str = "written") -> Write:
        return Write("U", "item", {"id": row, "name": name, "price": "2.00"}, 1_000, STANDING)
