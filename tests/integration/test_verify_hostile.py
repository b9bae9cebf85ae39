"""Peers that lie to a comparison, and rows that nobody may send: nothing of it is believed, and nothing is written."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from common.errors import OutageError, RowferryError
from common.http.scopes import Scope
from common.transports.http.client import PeerClient, RefusedError
from common.versions import NEVER, Version
from common.wire.digests import Asked, AskedTable, ChunkLine, Digested, Head, Line, RowLine, TableLine, encoded
from common.wire.forms import Form
from common.wire.row_digests import RowForm, chunk_of
from common.wire.signing import ANYBODY, Signer, new_private_key
from consumer.verifying.sides import PeerSide
from consumer.verifying.taking import Outcome, RowTaking
from tests.integration.test_http_hostile_peer import Answer, bomb, document, hostile
from tests.support.applying import Origin, World, close_world, open_world, sqlite_url
from tests.support.web import Served, served_on_sqlite

COLUMNS = {"id": "int", "name": "text", "price": "decimal"}
FORMS = {"id": Form.NUMBER, "name": Form.TEXT, "price": Form.NUMBER}
ITEM = Digested(("id",), COLUMNS, FORMS)
HEAD = Head(
    source_node="main",
    incarnation="i",
    at="2026-11-28T09:00:00.000000Z",
    marks=(("main", "i", 5, 5),),
    tables={"item": ITEM},
)
FORM = RowForm(("id",), COLUMNS, FORMS)
SUM = "0" * 32
ASKED = {"item": {**FORMS}}


MAIN = Version(0, 10, "main")


def row(number: int = 1, version: Version = MAIN, *, base: Version = NEVER, **more: Any) -> RowLine:
    image = json.dumps({"id": number, "name": "n", "price": "1.50"} | more.pop("values", {})).encode()
    given = {"state": "stands", "sum": FORM.values(image).hex(), "after": msgspec.Raw(image), "base": base} | more
    return RowLine("item", msgspec.Raw(json.dumps({"id": number}).encode()), version=version, **given)


def told(*lines: Line, head: Head = HEAD) -> bytes:
    return b"".join(encoded(head, lines))


CHUNK = ChunkLine("item", 0, 1, 0, SUM)
END = TableLine("item", 0, 1, 0)
_ALTERED = told(CHUNK, END)
LIES: dict[str, Answer] = {
    "nothing": Answer(b""),
    "no lines": Answer(b"{}\n" * 10),
    "endless line": Answer(b" " * 3_000_000),
    "torn": Answer(_ALTERED[:-30]),
    "altered": Answer(_ALTERED.replace(b'"rows":1', b'"rows":7', 1)),
    "more behind": Answer(_ALTERED + b"x"),
    "two heads": Answer(_ALTERED + _ALTERED),
    "another node": Answer(told(CHUNK, END, head=msgspec.structs.replace(HEAD, source_node="else"))),
    "another format": Answer(told(CHUNK, END, head=msgspec.structs.replace(HEAD, format="rowferry/2"))),
    "no instant": Answer(told(CHUNK, END, head=msgspec.structs.replace(HEAD, at="yesterday"))),
    "twice": Answer(told(CHUNK, CHUNK, END)),
    "beyond the cut": Answer(told(ChunkLine("item", 1, 1, 0, SUM), END)),
    "too coarse": Answer(told(CHUNK, END)),
    "another table": Answer(told(ChunkLine("secret", 0, 1, 0, SUM), CHUNK, END)),
    "no table": Answer(told()),
    "behind its end": Answer(told(CHUNK, END, CHUNK)),
    "no sum": Answer(_ALTERED.replace(SUM.encode(), b"zz", 1)),
    "negative": Answer(_ALTERED.replace(b'"rows":1', b'"rows":-1', 1)),
    "a bomb": Answer(bomb(), headers={"Content-Encoding": "gzip"}),
    "no utf-8": Answer(_ALTERED.replace(b"item", b"it\xff\xfe", 1)),
    "wrapped twice": Answer(gzip.compress(gzip.compress(_ALTERED)), headers={"Content-Encoding": "gzip"}),
    "html": Answer(b"<html>", headers={"Content-Type": "text/html"}),
    "busy": document(503, detail="busy", type="about:blank"),
}


@pytest.mark.parametrize("lie", LIES)
def test_chunks_that_can_not_be_are_no_answer(lie: str) -> None:
    with hostile(lambda _path, _query: LIES[lie]) as settings:
        client = PeerClient(settings)
        side = PeerSide(client, "main", ANYBODY)
        with pytest.raises(OutageError):
            side.count(ASKED, {"item": 0 if lie != "too coarse" else 3}, lambda _: None)
        client.close()


_KEY = FORM.key(b'{"id":1}')
ROWS: dict[str, bytes] = {
    "not asked for": told(row(2), END),
    "twice": told(row(), row(), END),
    "another table": told(msgspec.structs.replace(row(), table="secret"), END),
    "no key": told(msgspec.structs.replace(row(), pk=msgspec.Raw(b"{}")), END),
    "another key": told(msgspec.structs.replace(row(), pk=msgspec.Raw(b'{"id":1,"x":2}')), END),
    "key is no object": told(msgspec.structs.replace(row(), pk=msgspec.Raw(b"[1]")), END),
    "values of another": told(row(sum="f" * 32), END),
    "no digest": told(row(sum=None), END),
    "gone with values": told(row(state="deleted"), END),
    "a column is missing": told(row(after=msgspec.Raw(b'{"id":1}')), END),
    "no version": told(row(), END).replace(b'[0,10,"main"]', b'[0,"x","main"]'),
    "no state": told(row(), END).replace(b'"stands"', b'"floats"'),
}


@pytest.mark.parametrize("lie", ROWS)
def test_rows_that_can_not_be_are_no_answer(lie: str) -> None:
    with hostile(lambda _path, _query: Answer(ROWS[lie])) as settings:
        client = PeerClient(settings)
        side = PeerSide(client, "main", ANYBODY)
        asked = Asked({"item": AskedTable(FORMS, keys=(_KEY.hex(),))}, images=True)
        with pytest.raises(OutageError):
            side.list(asked, lambda _: None)
        client.close()


def test_a_true_answer_is_taken() -> None:
    """Else the tests above would say nothing."""
    with hostile(lambda _path, _query: Answer(told(row(), END))) as settings:
        client = PeerClient(settings)
        asked = Asked({"item": AskedTable(FORMS, bits=4, chunks=(chunk_of(_KEY, 4),))}, images=True)
        listed = PeerSide(client, "main", ANYBODY).list(asked, lambda _: None)
        assert listed.tables["item"][_KEY].version == Version(0, 10, "main")
        client.close()


def test_a_release_of_before_is_told_as_one() -> None:
    with hostile(lambda _path, _query: document(404, detail="there is nothing", type="about:blank")) as settings:
        client = PeerClient(settings)
        with pytest.raises(RowferryError, match="its release does not know"):
            PeerSide(client, "main", ANYBODY).head()
        client.close()
    with hostile(lambda _path, _query: document(403, detail="no", type="urn:rowferry:scope")) as settings:
        client = PeerClient(settings)
        with pytest.raises(RefusedError):
            PeerSide(client, "main", ANYBODY).head()
        client.close()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = open_world(sqlite_url(tmp_path), node={"id": "here", "main": "main"})
    made.receive(Origin("peer").put(1, "stands", 100).body)
    made.execute("INSERT INTO item VALUES (50, 'mine', 1)")
    yield made
    close_world(made)


PEER = Version(0, 200, "peer")
FORBIDDEN: dict[str, RowLine] = {
    "of another node": row(7, Version(0, 200, "other")),
    "of this node": row(7, Version(0, 200, "here")),
    "of main": row(7, Version(1, 200, "main")),
    "as main": row(7, Version(1, 200, "peer")),
    "from the future": row(7, Version(0, 9_000_000_000_000_000, "peer")),
    "before its base": row(7, PEER, base=Version(0, 300, "peer")),
    "on top of nobody": row(7, PEER, base=Version(0, 100, "no/node")),
    "from before the first sync": row(7, NEVER),
    "aside": row(7, PEER, state="aside", sum=None, after=msgspec.Raw(b"null")),
    "without its values": row(7, PEER, after=msgspec.Raw(b"null")),
    "of another key": row(7, PEER, values={"id": 8}),
    "of no type": row(7, PEER, values={"id": "x"}),
    "of another table": msgspec.structs.replace(row(7, PEER), table="rf_token"),
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_rows_that_nobody_may_send_are_refused_one_by_one(world: World, what: str) -> None:
    before = world.rows()
    tables = {"item": ITEM, "rf_token": ITEM}
    taking = RowTaking(world.node, "peer", "test", may_forward=False)
    bad, good = taking.take([FORBIDDEN[what], row(60, PEER)], tables)
    assert (bad.outcome, good.outcome) == (Outcome.REFUSED, Outcome.TAKEN), bad
    assert world.rows() == [*before, (60, "n", 1.5)]
    assert world.query("SELECT count(*) FROM rf_tx WHERE to_lsn > 1") == [(0,)]


def test_rows_of_a_node_that_signs_come_from_it_alone(world: World) -> None:
    """A hub may hand on batches, which bear their node's signature; a row bears none."""
    config = world.node.config.model_copy(update={"signers": {"other": (Signer(new_private_key()).public,)}})
    taking = RowTaking(replace(world.node, config=config), "peer", "test", may_forward=True)
    signs, plain = row(7, Version(0, 200, "other")), row(8, Version(0, 200, "another"))
    came = taking.take([signs, plain], {"item": ITEM})
    assert [(one.outcome, one.reason) for one in came] == [(Outcome.REFUSED, "unsigned"), (Outcome.TAKEN, None)]


def test_what_is_lower_or_here_already_changes_nothing(world: World) -> None:
    taking = RowTaking(world.node, "peer", "test", may_forward=False)
    lower = row(1, Version(0, 50, "peer"))
    same = row(1, Version(0, 100, "peer"), values={"name": "stands"})
    assert [one.outcome for one in taking.take([lower, same], {"item": ITEM})] == [Outcome.KEPT, Outcome.SAME]
    assert world.rows()[0][:2] == (1, "stands")
    higher = row(1, PEER, base=Version(0, 100, "peer"), values={"name": "new"})
    for expected in (Outcome.TAKEN, Outcome.SAME):
        assert [one.outcome for one in taking.take([higher], {"item": ITEM})] == [expected]
    (line,) = world.query(
        "SELECT actor, source_node, detail FROM rf_audit WHERE action = 'rows-repaired' ORDER BY id DESC LIMIT 1"
    )
    assert (line[0], line[1], json.loads(line[2])["tables"]) == ("test", "peer", {"item": 1})


def test_own_writes_that_are_not_sealed_are_seen(world: World) -> None:
    """What the application has just written is sealed first, on top of what is here, and wins."""
    world.execute("UPDATE item SET name = 'written' WHERE id = 1")
    taking = RowTaking(world.node, "peer", "test", may_forward=False)
    higher = row(1, PEER, base=Version(0, 100, "peer"), values={"name": "new"})
    (came,) = taking.take([higher], {"item": ITEM})
    assert came.outcome is Outcome.KEPT
    assert world.rows()[0][:2] == (1, "written")


def test_the_application_s_triggers_stay_quiet(world: World) -> None:
    world.execute(
        "CREATE TABLE seen (n INTEGER)",
        "CREATE TRIGGER noisy AFTER INSERT ON item BEGIN INSERT INTO seen VALUES (new.id); END",
    )
    taking = RowTaking(world.node, "peer", "test", may_forward=False)
    assert taking.take([row(70, PEER)], {"item": ITEM})[0].outcome is Outcome.TAKEN
    assert world.query("SELECT * FROM seen") == []


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Served]:
    with served_on_sqlite(tmp_path, node={"id": "main", "role": "main"}) as one:
        yield one


def test_bodies_that_are_no_rows_are_refused_whole(node: Served) -> None:
    head = msgspec.structs.replace(HEAD, source_node="a")
    good = told(row(1, Version(0, 10, "a")), head=head)
    with node.client(node.token("a", Scope.PUSH)) as client:
        for body, status in (
            (b"", 422),
            (b"{}\n", 422),
            (good[:-5], 422),
            (good.replace(b'"n"', b'"m"'), 422),
            (told(row(), head=HEAD), 403),
        ):
            assert client.post("/sync/rows", content=body).status_code == status, body
        assert client.post("/sync/rows", content=good, headers={"Content-Encoding": "br"}).status_code == 415
        bombed = client.post("/sync/rows", content=bomb(), headers={"Content-Encoding": "gzip"})
        assert bombed.status_code in (413, 422)
        assert node.world.rows() == []
        assert client.post("/sync/rows", content=good).json() == {
            "results": [{"outcome": "taken", "why": None, "reason": None}]
        }
        assert client.post("/sync/digests", content=b"{}").status_code == 403
    with node.client(node.token("b", Scope.PULL)) as client:
        assert client.post("/sync/rows", content=good).status_code == 403
    with node.client() as client:
        assert client.post("/sync/digests", content=b"{}").status_code == 401


def test_questions_that_make_no_sense_are_refused(node: Served) -> None:
    with node.client(node.token("a", Scope.PULL)) as client:
        for question in (
            b"",
            b"[]",
            b'{"tables":{"rf_token":{"forms":{"id":"number"}}}}',
            b'{"tables":{"item":{"forms":{"name":"text"}}}}',
            b'{"tables":{"item":{"forms":{"id":"number","secret":"text"}}}}',
            b'{"tables":{"item":{"forms":{"id":"rot13"}}}}',
            b'{"tables":{"item":{"forms":{"id":"number"},"bits":17}}}',
            b'{"tables":{"item":{"forms":{"id":"number"},"keys":["x"]}}}',
            b'{"table":{}}',
        ):
            assert client.post("/sync/digests", content=question).status_code == 422, question
        whole = client.post("/sync/digests", content=b'{"tables":{"item":{"forms":{"id":"number"}}}}')
        assert [json.loads(line)["type"] for line in whole.text.splitlines()] == ["digests", "table", "end"]


def test_a_large_row_is_compared_and_not_sent(tmp_path: Path) -> None:
    made = open_world(sqlite_url(tmp_path), node={"id": "here"})
    taking = RowTaking(made.node, "peer", "test", may_forward=False)
    (came,) = taking.take([row(1, PEER, after=msgspec.Raw(b"null"))], {"item": ITEM})
    assert (came.outcome, came.reason) == (Outcome.REFUSED, "limit")
    close_world(made)
