"""The faults, each injected while every application writes, felt, and healed again. Each is a function of its place."""

from __future__ import annotations

import os
import signal
import subprocess
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from tests.faults.place import OUTAGE, Place, Run, signal_of
from tests.support.rabbitmq import vhost_of
from tests.support.waiting import wait_for


class Where(StrEnum):
    """Which site a fault needs."""

    BROKER = "broker"
    """RabbitMQ, 4 and 3.10."""
    NODES = "nodes"
    """Databases, processes and clocks, through RabbitMQ 4."""
    FOLDER = "folder"
    """A shared folder alone."""


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong."""

    name: str
    where: Where
    run: Run
    """Injects it, sees that a node felt it, and heals it. Its docstring is for docs/RELIABILITY.md."""

    @property
    def what(self) -> str:
        """What is done, in one sentence."""
        return " ".join((self.run.__doc__ or "").split())


def broker_killed(place: Place) -> None:
    """SIGKILL, started again once both nodes report an outage."""
    place.rabbit.flush_declarations()
    place.rabbit.kill()
    place.felt(place.m, place.b)
    place.rabbit.start()


def broker_restarted(place: Place) -> None:
    """Stopped in order, started again once both nodes report it."""
    place.rabbit.stop()
    place.felt(place.m, place.b)
    place.rabbit.start()


def broker_paused(place: Place) -> None:
    """Frozen until both nodes report an outage: connections stay open."""
    place.rabbit.pause()
    place.felt(place.m, place.b)
    place.rabbit.unpause()


def memory_alarm(place: Place) -> None:
    """Publishers are blocked until one reports an outage."""
    place.rabbit.ctl("set_vm_memory_high_watermark", "0.0001")
    place.felt(place.m, words=("broker_blocks_publishers",))
    place.felt(place.m)
    place.rabbit.ctl("set_vm_memory_high_watermark", "0.6")


def queue_deleted(place: Place) -> None:
    """A node's queue is deleted under its consumer."""
    place.api("DELETE", f"/api/queues/{vhost_of(place.broker_url)}/rowferry.node.b")
    place.felt(place.b)


def queue_purged(place: Place) -> None:
    """What waits for a dead node is thrown away; it asks for it again."""
    place.b.kill()
    wait_for(lambda: place.depth(place.b) >= 10, 90, "messages for b")
    place.api("DELETE", f"/api/queues/{vhost_of(place.broker_url)}/rowferry.node.b/contents")
    place.b.start()
    place.felt(place.b, words=("gap_asked",))


def exchange_deleted(place: Place) -> None:
    """`rowferry.changes` is deleted with all its bindings."""
    place.api("DELETE", f"/api/exchanges/{vhost_of(place.broker_url)}/rowferry.changes")
    place.felt(place.m)


def connections_closed(place: Place) -> None:
    """The broker closes every connection."""

    def both_felt_it() -> bool:
        # The broker's list of connections is some seconds old: at one look only one node's may be in it.
        for one in place.rabbit.management("GET", f"/api/vhosts/{vhost_of(place.broker_url)}/connections"):
            place.api("DELETE", "/api/connections/" + one["name"].replace(" ", "%20").replace(">", "%3E"))
        return all(member.logged(*OUTAGE) for member in (place.m, place.b))

    wait_for(both_felt_it, 60, "both nodes to tell that their connections were closed")


def cut_in_a_frame(place: Place) -> None:
    """Four times a node, a proxy passes half of what is sent, then resets."""
    for member in (place.m, place.b):
        proxy = member.proxies["broker"]
        goal = proxy.cuts + 4
        while proxy.cuts < goal:
            cuts = proxy.cuts
            proxy.cut()
            wait_for(lambda proxy=proxy, cuts=cuts: proxy.cuts > cuts, 60, "something to cut")  # type: ignore[misc]
        place.felt(member)


def network_silent(place: Place) -> None:
    """A proxy passes nothing on until both nodes report an outage."""
    for member in (place.m, place.b):
        member.proxies["broker"].stall()
    place.felt(place.m, place.b)
    for member in (place.m, place.b):
        member.proxies["broker"].heal()


def network_refused(place: Place) -> None:
    """Connections are reset, and new ones too."""
    place.b.proxies["broker"].refuse()
    place.felt(place.b)
    place.b.proxies["broker"].heal()


def delivered_again(place: Place) -> None:
    """30 messages are put into a queue twice more, once in reverse."""
    copies = place.tapped(30)
    place.send_to(place.b, [*copies, *reversed(copies)])


def damaged_on_the_way(place: Place) -> None:
    """40 damaged copies of messages (a bit flipped, cut off) beside the whole ones."""
    # Copies with one byte altered after the header, and cut off: the good ones are there as well.
    for number, (properties, body) in enumerate(place.tapped(20)):
        at = body.index(b"\n") + 1 + number
        altered = body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]
        place.send_to(place.b, [(properties, altered), (properties, body[: at + (len(body) - at) // 2])])
    place.letters = ("checksum", "format")


def node_killed(place: Place) -> None:
    """SIGKILL, three times each node."""
    for member in (place.m, place.b):
        for _ in range(3):
            place.site.wait_for_commits(5)
            member.kill()
            member.start()


def node_hangs(place: Place) -> None:
    """SIGSTOP until the broker gives the consumer up, then SIGCONT."""
    # The broker's own account of it may be some seconds old: of a consumer before a restart, say. So who is given up is
    # seen where its connections go through.
    wait_for(lambda: _has_consumer(place), 60, "the broker to know of it")
    wire = place.b.proxies["broker"]
    wait_for(lambda: wire.connections, 60, "b to be connected")
    signal_of(place.b, signal.SIGSTOP)
    try:
        held = wire.connections
        # Long after the broker has given it up: heartbeats are expected every two seconds.
        wait_for(lambda: not held & wire.connections, 60, "the broker to give up on it")
        place.site.wait_for_commits(20, ["m"])
    finally:
        signal_of(place.b, signal.SIGCONT)
    place.felt(place.b)


def _has_consumer(place: Place) -> bool:
    found = place.api("GET", f"/api/queues/{vhost_of(place.broker_url)}/rowferry.node.b")
    return bool(found and found.get("consumers"))


def postgres_killed(place: Place) -> None:
    """SIGKILL of the server, started again once its node reports it."""
    place.server.kill()
    place.felt(place.m)
    place.server.start()


def postgres_paused(place: Place) -> None:
    """Frozen while the other node commits 60 transactions."""
    place.server.pause()
    try:
        place.site.wait_for_commits(60, ["b"])
    finally:
        place.server.unpause()


def sessions_terminated(place: Place) -> None:
    """Every session of the database, three times."""
    for _ in range(3):
        place.site.wait_for_commits(10)
        place.terminate_sessions()
    place.felt(place.m)


def database_cut(place: Place) -> None:
    """Four times, a proxy passes half of what is sent, then resets."""
    proxy = place.m.proxies["database"]
    for _ in range(4):
        cuts = proxy.cuts
        proxy.cut()
        wait_for(lambda cuts=cuts: proxy.cuts > cuts, 60, "something to cut")  # type: ignore[misc]
    place.felt(place.m)


def postgres_locked(place: Place) -> None:
    """ACCESS EXCLUSIVE on all tables while the other node commits 100 transactions."""
    with place.postgres_session(autocommit=False) as session:
        session.execute("LOCK TABLE entry, account, shared IN ACCESS EXCLUSIVE MODE")
        place.site.wait_for_commits(100, ["b"])


def postgres_read_only(place: Place) -> None:
    """`default_transaction_read_only`, as after a failover."""
    with place.postgres_session() as session:
        name = session.info.dbname
    place.admin(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
    place.terminate_sessions()
    try:
        place.felt(place.m)
        place.site.wait_for_commits(20, ["b"])
    finally:
        place.admin(f'ALTER DATABASE "{name}" RESET default_transaction_read_only')
        place.terminate_sessions()


def postgres_full(place: Place) -> None:
    """Every write fails with its error 53100, which a trigger raises in the disk's place."""
    # A real server's data can't be put on a small disk of ours; its error can.
    place.admin(
        "CREATE OR REPLACE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = '53100'; END $$"
    )
    place.admin("CREATE TRIGGER full_disk BEFORE INSERT ON entry FOR EACH ROW EXECUTE FUNCTION full_disk()")
    place.admin("ALTER TABLE entry ENABLE ALWAYS TRIGGER full_disk")
    try:
        place.felt(place.m)
        place.site.wait_for_commits(20, ["b"])
    finally:
        place.admin("DROP TRIGGER full_disk ON entry")


def sqlite_locked(place: Place) -> None:
    """Another process holds the write lock while the other node commits 100 transactions."""
    with place.sqlite_session() as session:
        session.execute("BEGIN IMMEDIATE")
        place.site.wait_for_commits(100, ["m"])
        session.execute("ROLLBACK")


def sqlite_full(place: Place) -> None:
    """A real file system, filled to its last byte."""
    filler = place.fill()
    try:
        place.felt(place.b)
        place.site.wait_for_commits(20, ["m"])
    finally:
        filler.unlink()


def sqlite_read_only(place: Place) -> None:
    """Its file system is mounted read-only, also at the node's start."""
    place.b.kill()
    remount(place, "ro")
    try:
        place.b.start()
        place.felt(place.b)
        place.site.wait_for_commits(20, ["m"])
    finally:
        place.b.kill()
        remount(place, "rw")
    place.b.start()


def remount(place: Place, how: str) -> None:
    """Make the small disk read-only or writable: it may be busy for a moment."""
    command = ["mount", "-o", f"remount,{how}", str(place.disk)]
    wait_for(lambda: subprocess.run(command, capture_output=True, check=False).returncode == 0, 30, how)


def clocks_jump(place: Place) -> None:
    """The processes' clocks, two hours ahead, one behind, a day ahead, right, each node the other way."""
    for seconds in (7_200, -3_600, 86_400, 0):
        for member in (place.m, place.b):
            clock = Path(member.environment["ROWFERRY_TEST_CLOCK_FILE"])
            fresh = clock.with_suffix(".new")
            fresh.write_text(str(seconds if member is place.m else -seconds))
            os.replace(fresh, clock)
        place.site.wait_for_commits(15)


def folder_full(place: Place) -> None:
    """The shared folder's real file system, filled to its last byte."""
    filler = place.fill()
    try:
        place.felt(place.m, place.b)
    finally:
        filler.unlink()


def folder_read_only(place: Place) -> None:
    """Its file system is mounted read-only, also at the nodes' start."""
    for member in (place.m, place.b):
        member.kill()
    remount(place, "ro")
    try:
        for member in (place.m, place.b):
            member.start()
        place.felt(place.m, place.b)
    finally:
        remount(place, "rw")


def folder_vanished(place: Place) -> None:
    """The path is gone, as when a share is unmounted."""
    # As when a share is unmounted: the path is not there any more, and comes back as it was.
    away = place.disk / "exchange-away"
    os.rename(place.disk / "exchange", away)
    try:
        place.felt(place.m, place.b)
    finally:
        wait_for(lambda: not (place.disk / "exchange").exists(), 10, "nothing to be made in its place")
        os.rename(away, place.disk / "exchange")


def files_damaged(place: Place) -> None:
    """Torn, swapped, emptied, a bit flipped, with a tail; then the whole ones come back."""
    # Torn, cut off, swapped, with a bit flipped: set aside by name, and taken up when the whole ones are back.
    folder = place.disk / "exchange" / "m"
    # m's own: it hands on b's there too, which b does not read.
    files = "m.*.jsonl"
    place.b.kill()
    before = set(folder.glob(files))

    def fresh() -> list[Path]:
        return sorted(set(folder.glob(files)) - before)

    wait_for(lambda: len(fresh()) >= 8, 90, "files that nobody has read")
    chosen = fresh()[:6]
    whole = {path: path.read_bytes() for path in chosen}
    first, second, third, fourth, fifth, sixth = chosen
    first.write_bytes(whole[first][: len(whole[first]) // 2])
    second.write_bytes(whole[third])
    third.write_bytes(whole[second])
    fourth.write_bytes(b"")
    middle = len(whole[fifth]) // 2
    fifth.write_bytes(whole[fifth][:middle] + bytes([whole[fifth][middle] ^ 4]) + whole[fifth][middle + 1 :])
    sixth.write_bytes(whole[sixth] + whole[sixth][:100])
    place.b.start()
    place.felt(place.b, words=("tx_set_aside", "directory.file-broken", "torn"))
    for path, data in whole.items():
        path.write_bytes(data)
    place.letters = ("checksum", "format")


FAULTS = (
    Fault("broker killed", Where.BROKER, broker_killed),
    Fault("broker restarted", Where.BROKER, broker_restarted),
    Fault("broker paused", Where.BROKER, broker_paused),
    Fault("memory alarm", Where.BROKER, memory_alarm),
    Fault("queue deleted", Where.BROKER, queue_deleted),
    Fault("queue purged", Where.BROKER, queue_purged),
    Fault("exchange gone", Where.BROKER, exchange_deleted),
    Fault("connections closed", Where.BROKER, connections_closed),
    Fault("cut in a frame", Where.BROKER, cut_in_a_frame),
    Fault("network silent", Where.BROKER, network_silent),
    Fault("network refused", Where.BROKER, network_refused),
    Fault("delivered again", Where.BROKER, delivered_again),
    Fault("damaged on the way", Where.BROKER, damaged_on_the_way),
    Fault("node killed", Where.NODES, node_killed),
    Fault("consumer hangs", Where.NODES, node_hangs),
    Fault("PostgreSQL killed", Where.NODES, postgres_killed),
    Fault("PostgreSQL paused", Where.NODES, postgres_paused),
    Fault("sessions terminated", Where.NODES, sessions_terminated),
    Fault("cut in a database message", Where.NODES, database_cut),
    Fault("PostgreSQL locked", Where.NODES, postgres_locked),
    Fault("PostgreSQL read-only", Where.NODES, postgres_read_only),
    Fault("PostgreSQL's disk full", Where.NODES, postgres_full),
    Fault("SQLite locked", Where.NODES, sqlite_locked),
    Fault("SQLite's disk full", Where.NODES, sqlite_full),
    Fault("SQLite read-only", Where.NODES, sqlite_read_only),
    Fault("clocks jump", Where.NODES, clocks_jump),
    Fault("folder full", Where.FOLDER, folder_full),
    Fault("folder read-only", Where.FOLDER, folder_read_only),
    Fault("folder vanished", Where.FOLDER, folder_vanished),
    Fault("files damaged", Where.FOLDER, files_damaged),
)
