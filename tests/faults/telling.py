"""What runs counted, kept for docs/RELIABILITY.md: a line for each that found nothing wrong, none for any other."""

from __future__ import annotations

import json
import os
from pathlib import Path

from tests.faults.site import Site

VARIABLE = "ROWFERRY_TEST_FAULTS_OUT"


def tell(kind: str, name: str, site: Site) -> None:
    """Add a line to the file for `kind` of the run that asked for it. Call it once everything was found right."""
    folder = os.environ.get(VARIABLE)
    if folder is None:
        return
    told = {"kind": kind, "name": name, "site": str(site.folder), **site.counts}
    with (Path(folder) / "told.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(told) + "\n")
