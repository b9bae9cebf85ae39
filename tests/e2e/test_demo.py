"""`rowferry demo`, as a first visitor calls it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.cli import checked

ROWFERRY = Path(sys.executable).parent / "rowferry"
SECONDS = 60

pytestmark = pytest.mark.heavy


def demo(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(ROWFERRY), "demo", *options], cwd=folder, capture_output=True, text=True, timeout=300, check=False
    )


def test_it_shows_every_step_and_ends_equal(tmp_path: Path) -> None:
    began = time.monotonic()
    done = demo(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert time.monotonic() - began < SECONDS
    assert done.stderr == ""
    told = [line for line in done.stdout.splitlines() if line and not line.startswith(" ")]
    for word in ("Three nodes", "Sync", "A conflict", "A dead letter", "Fix and replay", "Verified", "Next steps"):
        assert any(line.startswith(word) for line in told), word
    assert list(tmp_path.iterdir()) == []


def test_json_tells_what_happened_and_keeps_the_nodes(tmp_path: Path) -> None:
    done = demo(tmp_path, "--json", "--keep", "nodes")
    assert done.returncode == 0, done.stdout + done.stderr
    document = checked("demo", json.loads(done.stdout))
    assert document["equal"]
    assert document["rows"] == {"company": 3, "store": 9, "product": 24, "sale": 110}
    assert {conflict["winner"] for conflict in document["conflicts"]} <= {"ours", "theirs"}
    assert {letter["reason"] for letter in document["dead_letters"]} == {"unknown-column"}
    assert {letter["node"] for letter in document["dead_letters"]} == {"main", "store-2"}
    for node in document["nodes"]:
        command = [str(ROWFERRY), "--config", str(tmp_path / "nodes" / f"{node}.toml"), "status", "--json"]
        status = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        assert status["node"] == node
        assert status["dead_letters"] == {"dead": 0, "early": 0, "forked": 0}
        assert status["drifted"] == []


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    done = demo(tmp_path, "--keep", ".")
    assert (done.returncode, done.stdout) == (2, "")
    assert "name a new one" in done.stderr
    assert (tmp_path / "mine").read_text() == "mine"
