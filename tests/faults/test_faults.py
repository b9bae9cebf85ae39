"""One fault after the other under load; after each everything arrives, and is counted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.faults.faults import FAULTS, Fault, Where
from tests.faults.place import Place, small_disk
from tests.faults.site import Site
from tests.faults.telling import tell

pytestmark = [pytest.mark.containers, pytest.mark.heavy]
_WRONG_CLOCK = Path(__file__).with_name("wrong_clock")


@pytest.fixture(scope="module")
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A site for all faults of one kind."""
    folder = tmp_path_factory.mktemp("faults")
    kind: str = request.param
    with ExitStack() as stack:
        disk = stack.enter_context(small_disk(folder, 48))
        site = Site(folder, seed=11)
        made = Place(site, disk)
        made.postgres = request.getfixturevalue("private_postgres_module")
        if kind != "folder":
            fixture = "private_rabbitmq310_module" if "3.10" in kind else "private_rabbitmq_module"
            made.broker = request.getfixturevalue(fixture)
            made.broker_url = made.broker.url(made.broker.create_vhost())
        stack.callback(site.close)
        broker, exchange = made.broker_url or None, None if made.broker_url else disk / "exchange"
        site.add("m", made.postgres.create_database(), broker, exchange)
        site.add("b", None, broker, exchange, on=disk if kind == "nodes" else None)
        for member in site:
            clock = member.node.folder / "clock"
            clock.write_text("0")
            member.environment |= {"PYTHONPATH": str(_WRONG_CLOCK), "ROWFERRY_TEST_CLOCK_FILE": str(clock)}
        site.start()
        yield made


def _named(faults: Iterable[Fault]) -> pytest.MarkDecorator:
    found = list(faults)
    return pytest.mark.parametrize("fault", found, ids=[fault.name for fault in found])


def _on(kind: str) -> pytest.MarkDecorator:
    """One site for the whole function: of two parameters of a module pytest would make a site for each test."""
    return pytest.mark.parametrize("place", [kind], indirect=True, scope="module")


@_on("RabbitMQ 4")
@_named(fault for fault in FAULTS if fault.where is Where.BROKER)
def test_on_rabbitmq_4_nothing_is_lost_doubled_or_half_there(place: Place, fault: Fault) -> None:
    nothing_is_lost(place, fault, "RabbitMQ 4")


@_on("RabbitMQ 3.10")
@_named(fault for fault in FAULTS if fault.where is Where.BROKER)
def test_on_rabbitmq_310_nothing_is_lost_doubled_or_half_there(place: Place, fault: Fault) -> None:
    nothing_is_lost(place, fault, "RabbitMQ 3.10")


@_on("nodes")
@_named(fault for fault in FAULTS if fault.where is Where.NODES)
def test_in_the_nodes_nothing_is_lost_doubled_or_half_there(place: Place, fault: Fault) -> None:
    nothing_is_lost(place, fault, "nodes")


@_on("folder")
@_named(fault for fault in FAULTS if fault.where is Where.FOLDER)
def test_in_the_folder_nothing_is_lost_doubled_or_half_there(place: Place, fault: Fault) -> None:
    nothing_is_lost(place, fault, "folder")


def nothing_is_lost(place: Place, fault: Fault, kind: str) -> None:
    site = place.site
    place.letters = ()
    site.mark_logs()
    with site.load():
        site.wait_for_commits(5)
        fault.run(place)
        site.wait_for_commits(5)
    site.rest()
    wrong = site.check(*place.letters)
    assert wrong == []
    tell(kind, fault.name, site)
