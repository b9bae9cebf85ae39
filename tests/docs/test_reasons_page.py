"""docs/reference/reasons.md lists exactly the reasons that the code knows."""

from __future__ import annotations

import re
from pathlib import Path

from common.errors import Reason

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "reasons.md"


def test_the_page_lists_every_reason_once() -> None:
    listed = re.findall(r"^\| `([a-z-]+)` \|", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert listed == [reason.value for reason in Reason]
