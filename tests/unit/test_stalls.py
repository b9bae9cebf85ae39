"""Since when work stands still, told from what was seen of it before."""

from __future__ import annotations

import pytest

from common.ops.stalls import Seen, Work, still_since, waits

NOW = 1_000_000_000
AGO = 400_000_000


def work(pending: int = 3, mark: str = "5", **more: int | str | None) -> Work:
    return Work("sealer", pending, "changes", mark, **more)  # type: ignore[arg-type]


def seen(pending: int = 3, mark: str = "5", still: int | None = AGO, looked: int = NOW - 1) -> Seen:
    return Seen(pending, mark, None, still, looked)


@pytest.mark.parametrize(
    ("now", "before", "since"),
    [
        (work(0), seen(), None),
        (work(), seen(), AGO),
        (work(mark="6"), seen(), NOW - 1),
        (work(), seen(0, still=None, looked=NOW - 9), NOW - 9),
        (work(oldest_us=NOW - 2), seen(0, still=None, looked=NOW - 9), NOW - 2),
        (work(oldest_us=AGO), None, AGO),
        (work(), None, NOW),
        (work(not_before_us=NOW - 7), seen(), NOW - 7),
    ],
    ids=["nothing", "as before", "moved", "came since", "came later", "never looked", "unknown", "moved by itself"],
)
def test_since_when_it_stands_still(now: Work, before: Seen | None, since: int | None) -> None:
    assert still_since(now, before, NOW) == since


def test_changes_of_a_transaction_that_was_open_for_hours_are_new_when_it_commits() -> None:
    hours_ago = NOW - 4 * 3_600_000_000
    (one,) = waits([work(oldest_us=hours_ago)], {"sealer": seen(0, still=None, looked=NOW - 30_000_000)}, NOW, 300)
    assert not one.stalled
    assert one.document(NOW)["oldest_seconds"] == 4 * 3600


def test_what_is_excused_waits_and_is_no_stall() -> None:
    before = {"sealer": seen()}
    (one,) = waits([work(excused="it is off")], before, NOW, 300)
    (other,) = waits([work()], before, NOW, 300)
    assert (one.stalled, other.stalled) == (False, True)
