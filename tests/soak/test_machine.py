"""A few minutes of the state machine in each run; `make soak` goes on for as long as it is told."""

from __future__ import annotations

import os
import time

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.fixtures.containers import DatabaseFactory
from tests.soak.machine import Nodes, totals

pytestmark = pytest.mark.containers
_EXAMPLES, _STEPS = 8, 40
_SOAK = os.environ.get("ROWFERRY_SOAK_SECONDS")


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

    def test_soak(pg_database_factory: DatabaseFactory) -> None:
        ends = time.monotonic() + float(_SOAK)
        rounds = 0
        while time.monotonic() < ends:
            run_state_machine_as_test(machine(pg_database_factory), settings=settings_of(10, derandomize=False))
            pg_database_factory.drop_all()
            rounds += 1
            print(f"{rounds} rounds: {dict(totals)}", flush=True)
        assert totals["kills"], "a soak in which nothing was killed proves nothing"
