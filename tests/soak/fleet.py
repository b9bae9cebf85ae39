"""A few real nodes, a network that behaves as badly as networks do, and operators: what the soak test drives.

Each node has its own application with its own wrong clock. Nothing that was sealed is ever gone: what the network loses
is exported again from the log, as an operator would."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from common.clock import SystemClock
from common.crash_points import CrashPoint, arm
from common.dialects import open_database
from common.errors import UsageError
from common.ops.passed import note_passed, own_passed
from common.ports.dialect import NodeFacts
from common.runtime.node import Node, read_facts
from common.schema import tables as rf
from common.wire.encode import encode_tx
from consumer.conflict.given import read_take
from consumer.dead_letters.operations import DeadLetters, Replay
from consumer.dead_letters.table_store import Selection
from consumer.intake import Intake
from consumer.settling import Settling
from consumer.statements import insert_missing, writing
from consumer.tombstones import purge_tombstones
from tests.support.applying import MemorySource, World, close_world, open_world, sqlite_url
from tests.support.writers import Writer

MAIN = "m"
IDS = range(1, 4)
PLAIN = ("item", "brand", "event", "label")
LINKED = ("code", "parent", "child")
"""Rows that may step back: `amount` is unique in `code`, and names a `parent` in `child`."""
ASKED = "badge"
"""`amount` is unique, and somebody has to choose between two rows that have one."""
TABLES = (*PLAIN, *LINKED, ASKED)
POLICY = {"brand": "main-wins", "event": "append-only", "label": "manual", ASKED: "manual"}
SCHEMA = (
    *(f"CREATE TABLE {name} (id INTEGER PRIMARY KEY, name TEXT, amount INTEGER)" for name in (*PLAIN, "parent")),
    "CREATE TABLE code (id INTEGER PRIMARY KEY, name TEXT, amount INTEGER UNIQUE)",
    "CREATE TABLE badge (id INTEGER PRIMARY KEY, name TEXT, amount INTEGER UNIQUE)",
    "CREATE TABLE child (id INTEGER PRIMARY KEY, name TEXT, amount INTEGER REFERENCES parent (id) ON DELETE CASCADE)",
)
CRASHES = (CrashPoint.ATTEMPT_BEGUN, CrashPoint.ROWS_WRITTEN, CrashPoint.BEFORE_COMMIT, CrashPoint.AFTER_COMMIT)
SKEWS = (-3_600.0, 0.0, 7_200.0, 240.0, -5.0)

Row = tuple[Any, ...] | None
Statements = Callable[[random.Random, str], list[str]]


@dataclass
class Member:
    """One node of the fleet."""

    writer: Writer
    mailbox: list[bytes] = field(default_factory=list)
    cut_off: bool = False
    wrote: dict[tuple[str, int], tuple[Row, Row]] = field(default_factory=dict)
    """What its application made of rows since the last `send`: before the first write, and after the last."""

    @property
    def world(self) -> World:
        return self.writer.world

    @property
    def name(self) -> str:
        return self.writer.node_id

    @property
    def is_main(self) -> bool:
        return self.name == MAIN


class Fleet:
    """Nodes `m`, `b`, `c`, …; the first is main."""

    def __init__(self, folder: Path, urls: Sequence[str | None], seed: int) -> None:
        """`urls`: a PostgreSQL URL, or None for a new SQLite file."""
        self.dice = random.Random(seed)
        self.members: list[Member] = []
        self.counts: dict[str, int] = {}
        skews = self.dice.sample(SKEWS, len(urls))
        for name, url, skew in zip("mbcde", urls, skews, strict=False):
            world = open_world(
                url or sqlite_url(folder, f"{name}.db"),
                SCHEMA,
                node={"id": name, "database": url or sqlite_url(folder, f"{name}.db"), **_role(name)},
                tables={"policy": POLICY},
                # All that was ever deleted is old enough at once.
                limits={"tombstone_days": 1e-9},
            )
            self.members.append(Member(Writer(world, random.Random(self.dice.random()), skew)))

    def close(self) -> None:
        """Close every node."""
        for member in self.members:
            close_world(member.world)

    def write(self, member: Member, statements: Statements) -> None:
        """Let the application write one transaction; what the database refuses is not written."""
        looks: list[dict[tuple[str, int], Row]] = []
        if not member.writer.write(statements, lambda connection: looks.append(_rows(connection))):
            return
        before, after = looks
        for place in before.keys() | after.keys():
            if before.get(place) != after.get(place):
                first, _ = member.wrote.get(place, (before.get(place), None))
                member.wrote[place] = first, after.get(place)
        self._count("writes")

    def jump(self, member: Member) -> None:
        """Set the application's clock to another wrong time."""
        member.writer.skew_seconds = self.dice.choice(SKEWS)

    def send(self, member: Member) -> None:
        """Seal, and put what is new into everybody else's mailbox. What its application wrote must be in it."""
        bodies = member.writer.new_bodies()
        self._check_nothing_is_lost(member)
        for other in self.members:
            if other is not member:
                other.mailbox += bodies

    def deliver(self, member: Member, share: float) -> None:
        """Hand over some of the mailbox in any order, some of it twice, unless the node is cut off."""
        if member.cut_off:
            return
        self._receive(member.world, self._taken(member, share))

    def kill(self, member: Member, point: CrashPoint) -> None:
        """Hand over some of the mailbox to a process of its own, which dies at `point`. What it took comes again."""
        bodies = self._taken(member, 0.7)
        if not bodies:
            return
        member.mailbox += bodies
        config, url = member.world.node.config, member.world.node.config.node.database
        process = os.fork()
        if process == 0:
            _die_while_taking(config, url, bodies, point)
        _, status = os.waitpid(process, 0)
        assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "the process ended with an error of its own"
        self._count("kills" if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL else "kills missed")

    def lose(self, member: Member) -> None:
        """Lose some of what is on its way; `resend` brings it again."""
        lost = self._taken(member, 0.4)
        self._count("lost", len(lost))

    def resend(self, member: Member) -> None:
        """Export a node's whole log again, as an operator does after a loss, into everybody's mailbox."""
        bodies = list(self._whole_log(member))
        for other in self.members:
            if other is not member:
                other.mailbox += bodies

    def replay(self, member: Member) -> None:
        """Replay every open dead letter."""
        DeadLetters(member.world.node).replay(Selection(), Replay("soak"), lambda _: None)

    def follow_up(self, member: Member) -> None:
        """Bring what stands up to date with what the application wrote, as `run` does within a second."""
        member.world.refresh.catch_up()

    def choose(self, member: Member, most: int = 2) -> None:
        """Settle some conflicts that wait, one way or the other."""
        waiting = self.waiting(member)
        for number in self.dice.sample(waiting, min(most, len(waiting))):
            if number in self.waiting(member):
                self._resolve(Settling(member.world.node, "soak"), number, self.dice.choice(["ours", "theirs"]))
                self._count("choices")

    def _resolve(self, settling: Settling, number: int, take: str) -> None:
        """Settle one as an operator does: what is gone can't be chosen, what is in the way steps back."""
        try:
            settling.resolve(number, read_take(take), displace=True)
        except UsageError as error:
            if "is gone" not in str(error):
                raise
            settling.resolve(number, read_take("theirs"), displace=True)

    def undo(self, member: Member) -> None:
        """Flip a decision of the past, if the row is still as it left it."""
        query = (
            "SELECT id FROM rf_conflict WHERE state = 'settled' AND winner IN ('ours', 'theirs')"
            " AND kind IN ('insert', 'update', 'delete') AND table_name <> 'event' ORDER BY id"
        )
        settled = [number for (number,) in member.world.query(query)]
        if settled:
            Settling(member.world.node, "soak").undo(self.dice.choice(settled), None, force=self.dice.random() < 0.5)
            self._count("undone")

    def purge(self, member: Member) -> None:
        """Forget deleted rows that everybody has passed, as everybody says now; then this node has its own say."""
        node = member.world.node
        for other in self.members:
            if other is member:
                continue
            peer = other.world.node
            with peer.database.engine.connect() as connection:
                passed = own_passed(connection)
            facts = peer.facts
            passed[facts.node_id, facts.incarnation] = peer.database.log(facts).head().lsn
            now_us = node.clock.now_us()
            writing(node.database, partial(note_peer, facts=facts, now_us=now_us))
            writing(node.database, partial(note_passed, peer=facts.node_id, passed=passed, now_us=now_us))
        self._count("forgotten", purge_tombstones(node).rows)

    def waiting(self, member: Member) -> list[int]:
        """The numbers of the conflicts that wait on a node."""
        query = "SELECT id FROM rf_conflict WHERE state = 'waiting' ORDER BY id"
        return [number for (number,) in member.world.query(query)]

    def settle(self) -> None:
        """Let everything arrive everywhere, and choose until nothing waits. AssertionError if that never ends."""
        for member in self.members:
            member.cut_off = False
            self.send(member)
        for member in self.members:
            self.resend(member)
        for _ in range(30):
            for member in self.members:
                self.deliver(member, 1)
            left = [member for member in self.members if self.waiting(member)]
            if not left:
                break
            for member in self.dice.sample(left, self.dice.randint(1, len(left))):
                self.choose(member, 99)
            for member in self.members:
                self.send(member)
        assert not any(self.waiting(member) for member in self.members), "conflicts wait for ever"
        for member in self.members:
            self.purge(member)
        # What everybody had long ago comes to who has forgotten it.
        for member in self.members:
            self.resend(member)
        for member in self.members:
            self.deliver(member, 1)
        for member in self.members:
            self.replay(member)
            self.follow_up(member)
            for kind in ("unique", "foreign-key"):
                self._count(kind, member.world.one(f"SELECT count(*) FROM rf_conflict WHERE kind = '{kind}'"))
            self._count("conflicts", member.world.one("SELECT count(*) FROM rf_conflict"))
            self._count("won", member.world.one("SELECT count(*) FROM rf_conflict WHERE winner = 'theirs'"))

    def logs(self) -> Iterator[dict[str, Any]]:
        """Yield every change line of every node."""
        for member in self.members:
            yield from self._lines(member)

    def _check_nothing_is_lost(self, member: Member) -> None:
        logged = {(line["table"], line["pk"]["id"], _image(line)) for line in self._lines(member)}
        for (table, key), (before, after) in member.wrote.items():
            # One transaction that takes back what the one before it did is nothing to be sent.
            assert before == after or (table, key, after) in logged, f"{member.name}: {table} {key} {after} is lost"
        member.wrote.clear()

    def _lines(self, member: Member) -> Iterator[dict[str, Any]]:
        for tx in member.world.node.database.log(member.world.node.facts).read(0, 2**40):
            yield from map(json.loads, tx.lines())

    def _whole_log(self, member: Member) -> Iterator[bytes]:
        node = member.world.node
        for tx in node.database.log(node.facts).read(0, 10**9):
            yield from (part.body for part in encode_tx(tx))

    def _taken(self, member: Member, share: float) -> list[bytes]:
        self.dice.shuffle(member.mailbox)
        count = len(member.mailbox) if share >= 1 else int(len(member.mailbox) * share)
        taken, member.mailbox = member.mailbox[:count], member.mailbox[count:]
        return taken

    def _receive(self, world: World, bodies: list[bytes]) -> None:
        twice = self.dice.sample(bodies, len(bodies) // 3)
        together = self.dice.sample([*bodies, *twice], len(bodies) + len(twice))
        while together:
            some = self.dice.randint(1, 6)
            world.receive(b"".join(together[:some]))
            together = together[some:]

    def _count(self, what: str, many: int = 1) -> None:
        self.counts[what] = self.counts.get(what, 0) + many


def note_peer(connection: sa.Connection, facts: NodeFacts, now_us: int) -> None:
    """Know a node, as its heartbeat makes it known."""
    row = {"node_id": facts.node_id, "role": facts.role, "incarnation": facts.incarnation, "is_self": False}
    insert_missing(connection, rf.node, [{**row, "first_seen_us": now_us, "last_seen_us": now_us}])


def _rows(connection: sa.Connection) -> dict[tuple[str, int], Row]:
    return {
        (table, row[0]): tuple(row)
        for table in TABLES
        for row in connection.exec_driver_sql(f"SELECT id, name, amount FROM {table}")
    }


def _image(line: dict[str, Any]) -> Row:
    after = line["after"]
    return None if after is None else (after["id"], after["name"], after["amount"])


def _role(name: str) -> dict[str, str]:
    return {"role": "main"} if name == MAIN else {"main": MAIN}


def _die_while_taking(config: Any, url: str, bodies: list[bytes], point: CrashPoint) -> None:
    """In a process of its own: nothing of the parent's is used but its memory."""
    code = 1
    try:
        database = open_database(url)
        node = Node(config, database, read_facts(database, config), SystemClock())
        source = MemorySource()
        source.put(*bodies, redelivered=point is CrashPoint.ATTEMPT_BEGUN)
        intake = Intake(node, "test", lambda: source, None, threading.Event())
        arm(point)
        while intake.step(0) or source.waiting:
            pass
        code = 0
    finally:
        os._exit(code)
