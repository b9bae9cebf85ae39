"""SIGKILL for processes that use a shared folder or a kombu transport: what was confirmed stays, nothing is half."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from common.transports.directory import DirectorySink, DirectorySource
from common.transports.directory.content import fault_in
from common.transports.directory.names import parse_name
from common.transports.kombu_broker import KombuSettings, KombuSink, KombuSource
from common.wire.compress import Encoding
from tests.contract.sink_source import WAIT_SECONDS, SmallTx, bodies, collect, envelopes, send_all, single

REPOSITORY = Path(__file__).resolve().parents[2]
ROUNDS = 8

# Writes txs of three parts for ever, and says after each `send` how far it is confirmed.
DIRECTORY_WRITER = """
import sys
from pathlib import Path
from common.transports.directory import DirectorySink
from tests.contract.sink_source import SmallTx, envelopes
path, first, compression = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] or None
sink = DirectorySink(path, "a", compression=compression)
while True:
    for part in envelopes(SmallTx("a", first, [60_000] * 10), 256 * 1024):
        sink.send(part)
        print(sink.confirmed(), flush=True)
    first += 10
"""

KOMBU_WRITER = """
import sys
from common.transports.kombu_broker import KombuSettings, KombuSink
from tests.contract.sink_source import single
sink = KombuSink(KombuSettings(sys.argv[1], "a"))
lsn = 0
while True:
    lsn += 1
    sink.send(single("a", lsn, size=100_000))
    print(sink.confirmed(), flush=True)
"""

# Takes what is there, acknowledges one, says how many it holds, and waits to be killed.
KOMBU_READER = """
import sys
from common.transports.kombu_broker import KombuSettings, KombuSource
source = KombuSource(KombuSettings(sys.argv[1], "b"))
got = []
while len(got) < 3:
    got += source.receive(10, 1)
source.ack(got[:1])
print(len(got), flush=True)
sys.stdin.read()
"""


@contextmanager
def child(script: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run a script in another process; it is killed in any case."""
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", script, *arguments],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=WAIT_SECONDS)


def kill_after(process: subprocess.Popen[str], lines: int) -> int:
    """Kill the child some instructions after it has said so many lines; return the last number it said."""
    assert process.stdout is not None
    last = 0
    for _ in range(lines):
        last = int(process.stdout.readline())
    process.kill()
    rest, _ = process.communicate(timeout=WAIT_SECONDS)
    said = [line for line in rest.split("\n")[:-1] if line]
    return int(said[-1]) if said else last


@pytest.mark.heavy
@pytest.mark.parametrize("compression", [None, "gzip"])
def test_a_file_that_has_its_name_is_whole_and_what_was_confirmed_is_there(
    tmp_path: Path, compression: Encoding | None
) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    confirmed = 0
    for _ in range(ROUNDS):
        with child(DIRECTORY_WRITER, str(tmp_path), str(confirmed + 1), compression or "") as process:
            confirmed = max(confirmed, kill_after(process, dice.randrange(1, 12)))
        _check_files(tmp_path, confirmed)
    resent = envelopes(SmallTx("a", confirmed + 1, [60_000] * 10), 256 * 1024)
    sink = DirectorySink(tmp_path, "a", compression=compression)
    assert send_all(sink, *resent) == confirmed + 10
    assert not [name for name in os.listdir(tmp_path / "a") if name.endswith(".tmp")]
    source = DirectorySource(tmp_path, "b")
    expected = [
        part for lsn in range(1, confirmed + 10, 10) for part in envelopes(SmallTx("a", lsn, [60_000] * 10), 256 * 1024)
    ]
    got = collect(source, sum(len(part.body) for part in expected))
    source.close()
    assert bodies(got) == b"".join(part.body for part in expected)


def _check_files(root: Path, confirmed: int) -> None:
    there = set()
    for name in os.listdir(root / "a"):
        file = parse_name("a", name)
        if file is None:
            assert name.endswith(".tmp")
            continue
        path = root / "a" / name
        with path.open("rb") as stream:
            assert fault_in(stream, path.stat().st_size, file) is None, name
        there.add(file.from_lsn)
    assert set(range(1, confirmed, 10)) <= there


@pytest.fixture(params=["filesystem", "sqla+sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"filesystem://{tmp_path}" if request.param == "filesystem" else f"sqla+sqlite:///{tmp_path}/broker.db"


# kombu's own models use a loader that SQLAlchemy 2.1 calls deprecated; nothing of ours depends on it.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader:sqlalchemy.exc.SADeprecationWarning")


def test_what_a_killed_kombu_reader_held_comes_again_in_order(url: str) -> None:
    KombuSource(KombuSettings(url, "b")).close()
    sink = KombuSink(KombuSettings(url, "a"))
    sent = [single("a", lsn) for lsn in (1, 2, 3)]
    send_all(sink, *sent)
    with child(KOMBU_READER, url) as process:
        assert kill_after(process, 1) == 3
    late = single("a", 4)
    send_all(sink, late)
    sink.close()
    source = KombuSource(KombuSettings(url, "b"))
    whole = b"".join(one.body for one in (*sent, late))
    got = collect(source, len(whole) - len(sent[0].body))
    got += source.receive(10, 0.2)
    # The first was acknowledged while others were held: it may come again, the rest must.
    assert bodies(got) in (whole, whole[len(sent[0].body) :])
    source.ack(got)
    source.close()
    again = KombuSource(KombuSettings(url, "b"))
    assert again.receive(10, 0.2) == []
    again.close()


def test_no_message_of_a_killed_kombu_writer_is_half_and_what_was_confirmed_is_there(url: str) -> None:
    KombuSource(KombuSettings(url, "b")).close()
    with child(KOMBU_WRITER, url) as process:
        confirmed = kill_after(process, 20)
    source = KombuSource(KombuSettings(url, "b"))
    got = []
    while found := source.receive(100, 0.2):
        got += found
        source.ack(found)
    source.close()
    assert [one.body for one in got[:confirmed]] == [
        single("a", lsn, size=100_000).body for lsn in range(1, confirmed + 1)
    ]
    assert len(got) in (confirmed, confirmed + 1)
    if url.startswith("filesystem"):
        folder = Path(url.removeprefix("filesystem://"))
        assert list(folder.rglob("*.msg")) == []
