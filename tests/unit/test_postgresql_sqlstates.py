"""Each SQLSTATE has its kind, and the page says the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.dialects.postgresql.sqlstates import KINDS, Kind, kind_of

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "reasons.md"


@pytest.mark.parametrize(
    ("state", "kind"),
    [
        ("08006", Kind.OUTAGE),
        ("25006", Kind.OUTAGE),
        ("26000", Kind.OUTAGE),
        ("42P05", Kind.OUTAGE),
        ("40001", Kind.TRANSIENT),
        ("40P01", Kind.TRANSIENT),
        ("53100", Kind.OUTAGE),
        ("53200", Kind.OUTAGE),
        ("53300", Kind.OUTAGE),
        ("55P03", Kind.TRANSIENT),
        ("57014", Kind.TRANSIENT),
        ("57P01", Kind.OUTAGE),
        ("57P03", Kind.OUTAGE),
        ("XX001", Kind.OUTAGE),
        ("28P01", Kind.SETUP),
        ("42501", Kind.SETUP),
        ("42601", Kind.TYPE),
        ("42725", Kind.CONSTRAINT),
        ("22003", Kind.TYPE),
        ("23503", Kind.FOREIGN_KEY),
        ("23505", Kind.CONSTRAINT),
        ("P0001", Kind.CONSTRAINT),
    ],
)
def test_states(state: str, kind: Kind) -> None:
    assert kind_of(state) is kind


def test_the_page_lists_them_all() -> None:
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    for state, (kind, what) in KINDS.items():
        (row,) = [line for line in rows if line.startswith(f"| `{state}` |")]
        assert kind.value in row
        assert what in row
