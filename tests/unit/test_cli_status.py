"""What `status` says in its first line, and why."""

from __future__ import annotations

from typing import Any

import pytest

from common.cli.status import document
from common.ops.peers import PeerStanding
from common.ops.status import Queues, SourceStanding, Standing, State
from common.ports.dialect import NodeFacts
from tests.support.cli import checked

SINK = {"sink": "broker", "cursor_lsn": 7, "lag_changes": 0, "oldest_unpublished_seconds": 0.0}
SINK |= {"kept_txs": 0, "kept_bytes": 0}
ROAD = {
    "used": "broker",
    "broker_unusable_since": None,
    "folder_unusable_since": None,
    "error": None,
    "fallback_since": None,
    "fallback_error": None,
}
AWAY = {"broker_unusable_since": "2026-01-01", "error": "refused"}
PARTS = {"peer": "shop", "txs": 2, "changes": 80, "parts": 9, "oldest_seconds": 1.0}
OF_SHOP = "2 large transactions of shop have not arrived completely (9 parts so far, 80 changes in all)"
SHARES = {
    "head_lsn": 7,
    "head_tx_id": None,
    "unsealed_changes": 0,
    "oldest_unsealed_seconds": 0.0,
    "sinks": [SINK],
    "unpublished": [],
    "folder": None,
    "road": ROAD,
    "clients": [],
    "unfinished_txs": 0,
    "oldest_unfinished_seconds": None,
    "unfinished": [],
    "stepped_back": {},
    "unapplied": [],
    "gaps": [],
}


def source(behind: int = 0) -> SourceStanding:
    return SourceStanding("shop", "i1", 10, 10 + behind, behind, None, 1)


def standing(shares: dict[str, Any] | None = None, **changes: Any) -> Standing:
    values: dict[str, Any] = {
        "facts": NodeFacts("main", "main", "i0"),
        "dialect": "sqlite",
        "at_us": 2_000_000,
        "shares": SHARES | (shares or {}),
        "sources": (source(),),
        "queues": Queues({"rowferry.node.main": 0, "rowferry.dead.main": None}),
        "dead_letters": {"dead": 0, "early": 0, "forked": 0},
        "conflicts": {"settled": 3, "waiting": 0},
        "oldest_early_seconds": None,
        "drifted": (),
        "paused": {},
    }
    return Standing(**(values | changes))


def test_nothing_waits() -> None:
    assert standing().state is State.UP_TO_DATE


def test_what_waits_for_a_right_waits_for_a_person() -> None:
    one = standing(dead_letters={"early": 3}, for_rights=1)
    assert one.attention == ["1 transaction waits for a right (rowferry dlq list)"]
    assert one.waiting == ["2 transactions wait for rows that have not arrived yet"]


WHEN = "2026-01-01T00:00:00.000000Z"
GAP = {"peer": "shop", "incarnation": "i1", "after_lsn": 10, "highest_lsn": 12, "heals": False, "asked": 0}
GAP |= {"asked_at": None, "gone_until_lsn": None}
HEALS = GAP | {"heals": True}
MISSING = "changes of shop after LSN 10 are missing, its log goes on to LSN 12; "


@pytest.mark.parametrize(
    ("one", "reason"),
    [
        (standing({"sinks": [SINK | {"lag_changes": 4}]}), "4 changes not yet sent to the broker"),
        (standing({"unsealed_changes": 3}), "3 captured changes are not sealed yet"),
        (standing(sources=(source(2),)), "2 changes of shop not yet applied"),
        (standing(queues=Queues({"rowferry.node.main": 5})), "5 messages in rowferry.node.main"),
        (standing(dead_letters={"early": 1}), "1 transaction waits for rows that have not arrived yet"),
        (
            standing({"unfinished": [PARTS]}),
            OF_SHOP,
        ),
        (standing({"gaps": [HEALS]}), MISSING + "rowferry run asks shop for them"),
        (standing({"gaps": [HEALS | {"asked": 2, "asked_at": WHEN}]}), f"{MISSING}asked shop for them at {WHEN}"),
    ],
)
def test_what_is_on_its_way(one: Standing, reason: str) -> None:
    assert (one.state, one.attention, one.waiting) == (State.BEHIND, [], [reason])


@pytest.mark.parametrize(
    ("more", "way"),
    [
        ({}, "changes wait in the log"),
        ({"fallback_since": "2026-01-02"}, "since 2026-01-02 changes are sent as files in the shared folder"),
        ({"fallback_error": "full"}, "files can't be written either: full"),
    ],
)
def test_a_broker_that_can_not_be_used(more: dict[str, str], way: str) -> None:
    one = standing({"road": ROAD | AWAY | more})
    assert one.state is State.NEEDS_ATTENTION
    assert one.attention == [f"the broker has been unusable since 2026-01-01: refused; {way}"]


def test_the_own_way_to_others_is_said_before_who_is_silent() -> None:
    """Without a broker nobody is heard: sent to look after another machine first, an operator looks in vain."""
    silent = PeerStanding(
        node="shop",
        incarnation="i1",
        heard_us=1,
        head_lsn=10,
        head_tx_id=None,
        missing=0,
        clock_us=0,
        clock_is_off=False,
        release="1",
        is_silent=True,
        stuck=0,
        road="broker",
        is_signed=False,
        schema_differs=False,
        policies_differ=False,
        rewound_us=None,
    )
    first, second = standing({"road": ROAD | AWAY}, peers=(silent,)).attention
    assert first.startswith("the broker has been unusable since")
    assert second.startswith("shop has been silent since")


@pytest.mark.parametrize(
    ("one", "words"),
    [
        (standing(dead_letters={"dead": 2}), ("2 dead letters", "rowferry dlq list")),
        (standing(dead_letters={"forked": 1}), ("1 batch of a rewound node", "rowferry dlq list")),
        (
            standing(conflicts={"waiting": 1}),
            ("1 conflict waits for a choice", "rowferry conflicts list --state waiting"),
        ),
        (standing(queues=Queues(error="refused")), ("broker unreachable: refused",)),
        (standing(drifted=("sale", "store")), ("sale, store", "rowferry migrate")),
        (standing({"gaps": [GAP]}, sources=(source(2),)), ("shop", "--since 10 --out FILE", "log FILE")),
        (standing({"gaps": [HEALS | {"asked": 3, "asked_at": WHEN}]}), ("--since 10", f"3 times, last at {WHEN}")),
        (
            standing({"gaps": [HEALS | {"asked": 1, "gone_until_lsn": 11}]}),
            ("up to LSN 11", "a copy of the data (rowferry snapshot"),
        ),
    ],
)
def test_what_needs_a_person(one: Standing, words: tuple[str, ...]) -> None:
    assert one.state is State.NEEDS_ATTENTION
    assert one.waiting == []
    assert [word for word in words if word not in one.attention[0]] == []


WORK = {"work": "sink broker", "pending": 4, "unit": "changes not yet sent to the broker", "oldest_seconds": 900.0}
WORK |= {"still_since": WHEN, "still_seconds": 900.0, "stalled": True, "excused": None}


def test_work_that_does_not_get_on_is_said_first() -> None:
    one = standing({"unpublished": [WORK]}, dead_letters={"dead": 1, "early": 0, "forked": 0})
    assert one.attention[0] == f"no progress since {WHEN}: 4 changes not yet sent to the broker"
    told = checked("status", document(one))
    assert (told["stalled"], told["oldest_unpublished_seconds"], told["oldest_unapplied_seconds"]) == ([WORK], 900.0, 0)


def test_work_that_waits_shortly_is_no_stall() -> None:
    one = standing({"unapplied": [WORK | {"stalled": False}]})
    assert (one.stalled, one.attention) == ([], [])
    assert document(one)["oldest_unapplied_seconds"] == 900.0


def test_what_needs_a_person_comes_first() -> None:
    told = document(standing(dead_letters={"dead": 1, "early": 1, "forked": 0}))
    assert [("dead letter" in reason) for reason in told["reasons"]] == [True, False]


def test_the_document_is_as_its_schema_says() -> None:
    checked("status", document(standing({"gaps": [GAP, HEALS | {"asked": 1, "asked_at": WHEN, "gone_until_lsn": 11}]})))
