"""A peer that was put back to an earlier state is noticed before rows are given, or repaired; `rejoin` there helps."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from common.clock import to_iso
from common.errors import UsageError
from common.ids import tx_id_us
from common.wire.digests import Head
from consumer.heartbeats import SEALING_US
from consumer.verifying import put_back as subject
from tests.integration.test_rejoin import back_up, put_back
from tests.support.applying import Origin, World
from tests.support.cli import call, ok
from tests.support.http_fleet import Fleet, insert
from tests.support.nodes import CliNode


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    made = Fleet(tmp_path)
    made.serve()
    made.branch("a")
    yield made
    made.close()


def sync(node: CliNode) -> None:
    for _ in range(2):
        ok(node, "run", "--once")


def rewound_main(fleet: Fleet) -> CliNode:
    """Main has lost what the branch has had of it."""
    (a,) = fleet.branches
    insert(fleet.main, "first")
    sync(a)
    copy = back_up(fleet.main)
    insert(fleet.main, "lost")
    sync(a)
    assert fleet.server is not None
    fleet.server.stop()
    put_back(fleet.main, copy)
    return a


@pytest.mark.parametrize("command", [("adopt", "--from", "main"), ("verify", "main", "--repair", "--wait", "0")])
def test_over_http(fleet: Fleet, command: tuple[str, ...]) -> None:
    a = rewound_main(fleet)
    fleet.serve()
    refused = call(a, *command)
    assert refused.exit_code == 2, refused.output
    # It is told, and knows so itself from then on.
    assert (
        "main was restored to an earlier state: it knows that itself; run `rowferry rejoin` at main" in refused.stderr
    )
    assert "this node was restored to an earlier state" in fleet.main.call("status").stdout
    assert call(a, "verify", "main", "--wait", "0").exit_code in (0, 4)
    assert fleet.server is not None
    fleet.server.stop()
    fleet.main.call("rejoin")
    fleet.serve()
    done = call(a, *command)
    assert "restored" not in done.output, done.output
    assert done.exit_code in (0, 4)


def test_who_went_on_under_old_numbers_says_so_itself(fleet: Fleet) -> None:
    a = rewound_main(fleet)
    insert(fleet.main, "again", 5)
    fleet.main.call("run", "--once")
    fleet.serve()
    refused = call(a, "adopt", "--from", "main")
    assert refused.exit_code == 2, refused.output
    assert "main was restored" in refused.stderr
    # It gives nothing either when it is asked by who does not look.
    token = (a.folder / "main.token").read_text()
    rows = {"rows": [{"table": "store", "pk": {"id": "first"}}]}
    with httpx.Client(headers={"Authorization": f"Bearer {token}"}, trust_env=False) as client:
        answer = client.post(f"http://127.0.0.1:{fleet.port}/sync/adopt", json=rows)
    assert answer.status_code == 409
    assert "rowferry rejoin" in answer.json()["detail"]


def test_by_a_file(fleet: Fleet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(subject, "SEALING_US", 0)
    (a,) = fleet.branches
    insert(fleet.main, "before")
    old = tmp_path / "old.jsonl"
    ok(fleet.main, "verify", "--export", str(old))
    rewound_main(fleet)
    # What came since a file was written is no sign of anything.
    ok(a, "adopt", "--from", "each", "--file", str(old))
    file = tmp_path / "main.jsonl"
    ok(fleet.main, "verify", "--export", str(file))
    refused = call(a, "adopt", "--from", "each", "--file", str(file))
    assert refused.exit_code == 2, refused.output
    assert "main was restored to an earlier state" in refused.stderr
    assert "write a new file (" in refused.stderr


def test_what_was_sealed_while_a_file_was_written_is_no_sign(world: World) -> None:
    """A tx may have had its id before the file's moment, and be committed after it."""
    origin = Origin("a")
    world.receive(origin.put(1, "x", 10).body)
    last = origin.put(2, "y", 11)
    world.receive(last.body)

    def head(at_us: int, lsn: int = 1, incarnation: str = "inc1") -> Head:
        marks = (("a", incarnation, lsn, lsn),)
        return Head(source_node="a", incarnation=incarnation, at=to_iso(at_us), marks=marks, tables={})

    us = tx_id_us(last.tx_id)
    for fine in (head(us + SEALING_US), head(us + SEALING_US + 1, lsn=2), head(us + SEALING_US + 1, incarnation="new")):
        subject.refuse_peer_put_back(world.node, fine, "adopt", is_written=True)
    with pytest.raises(UsageError, match="ends at LSN 1"):
        subject.refuse_peer_put_back(world.node, head(us + SEALING_US + 1), "adopt", is_written=True)
    with pytest.raises(UsageError, match="ends at LSN 1"):
        subject.refuse_peer_put_back(world.node, head(us), "adopt", is_written=False)
