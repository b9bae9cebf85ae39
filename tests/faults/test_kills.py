"""SIGKILL at random moments, again and again, under load; then everything is counted."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.kills import kill_at_random
from tests.faults.site import Site
from tests.faults.telling import tell
from tests.fixtures.containers import DatabaseFactory

pytestmark = [pytest.mark.containers, pytest.mark.heavy]
_KILLS = 50


def test_processes_killed_at_random_moments(
    tmp_path: Path, pg_database_factory: DatabaseFactory, rabbitmq_url: str
) -> None:
    site = Site(tmp_path, seed=5)
    try:
        for name, database in (("m", pg_database_factory()), ("b", None), ("c", None)):
            site.add(name, database, rabbitmq_url, wal=name == "b")
        site.start()
        wrong = kill_at_random(site, _KILLS)
    finally:
        site.close()
    print(dict(site.counts))
    assert wrong == []
    assert site.counts["kills"] >= _KILLS
    assert site.counts["looks"] > 100, "nobody looked on"
    tell("kills", "random", site)
