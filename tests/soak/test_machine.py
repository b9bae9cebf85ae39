"""A few minutes of the state machine in each run; `make soak` goes on for as long as it is told."""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.faults.kills import kill_at_random
from tests.faults.site import Site
from tests.fixtures.containers import DatabaseFactory
from tests.soak.machine import Nodes, totals
from tests.support.rabbit_server import RabbitServer

pytestmark = pytest.mark.containers
_EXAMPLES, _STEPS = 8, 40
_SOAK = os.environ.get("ROWFERRY_TEST_SOAK_SECONDS")


def machine(factory: DatabaseFactory) -> type[Nodes]:
    """The machine with databases that end with the test."""

    class Fleets(Nodes):
        make_database = staticmethod(factory)

    return Fleets


def settings_of(examples: int, *, derandomize: bool) -> settings:
    return settings(
        max_examples=examples,
        stateful_step_count=_STEPS,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        # A step of this machine takes too long for hundreds of tries at a smaller counterexample.
        phases=[Phase.generate, Phase.reuse, Phase.explicit],
        print_blob=True,
        derandomize=derandomize,
    )


def test_whatever_happens_all_nodes_end_as_the_model_says(pg_database_factory: DatabaseFactory) -> None:
    run_state_machine_as_test(machine(pg_database_factory), settings=settings_of(_EXAMPLES, derandomize=True))


if _SOAK is not None:
    # Both end by themselves, in the round that goes on when the time is over. `make soak` runs them side by side.
    @pytest.mark.timeout(float(_SOAK) + 600)
    def test_soak_machine(pg_database_factory: DatabaseFactory) -> None:
        ends = time.monotonic() + float(_SOAK)
        rounds = 0
        while time.monotonic() < ends:
            run_state_machine_as_test(machine(pg_database_factory), settings=settings_of(10, derandomize=False))
            pg_database_factory.drop_all()
            rounds += 1
            print(f"{rounds} rounds: {dict(totals)}", flush=True)
        for needed in ("kills", "unique", "foreign-key", "choices"):
            assert totals[needed], f"a soak without {needed} proves nothing"

    @pytest.mark.timeout(float(_SOAK) + 600)
    def test_soak_kills(tmp_path: Path, pg_database_factory: DatabaseFactory, rabbitmq: RabbitServer) -> None:
        ends = time.monotonic() + float(_SOAK)
        counts: Counter[str] = Counter()
        while time.monotonic() < ends:
            seed = random.SystemRandom().getrandbits(32)
            print(f"site of seed {seed}", flush=True)
            counts += killed_site(tmp_path / str(seed), seed, pg_database_factory(), rabbitmq, ends)
            pg_database_factory.drop_all()
            print(f"{counts['kills']} kills: {dict(counts)}", flush=True)
        assert counts["kills"], "a soak in which nothing was killed proves nothing"


def killed_site(folder: Path, seed: int, database: str, rabbitmq: RabbitServer, ends: float) -> Counter[str]:
    """Kill the processes of one new site a hundred times, or until the time is up; return what was counted."""
    vhost = rabbitmq.create_vhost()
    site = Site(folder, seed)
    try:
        for name, url in (("m", database), ("b", None), ("c", None)):
            site.add(name, url, rabbitmq.url(vhost), wal=name == "b")
        site.start()
        wrong: list[str] = []
        while not wrong and site.counts["kills"] < 100 and time.monotonic() < ends:
            wrong = kill_at_random(site, site.counts["kills"] + 25)
    finally:
        site.close()
        rabbitmq.delete_vhost(vhost)
    assert wrong == [], f"seed {seed}"
    return site.counts
