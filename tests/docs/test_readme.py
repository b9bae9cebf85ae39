"""The README's commands, run as they stand there, against real servers."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.nodes import CliNode, wait_until_applied
from tests.support.postgres_server import PostgresServer
from tests.support.waiting import wait_for

README = Path(__file__).parents[2] / "README.md"
TRIAL_TABLES = ("company", "store", "product", "sale")


def readme_blocks() -> dict[str, str]:
    """Return the README's shell blocks that carry a `tested` mark, by name."""
    return dict(re.findall(r"<!-- tested: (\w+) -->\n```sh\n(.*?)```", README.read_text(), re.DOTALL))


def test_the_readme_marks_what_is_run() -> None:
    assert list(readme_blocks()) == ["addresses", "nodes", "run", "look"]


def test_every_link_of_the_readme_leads_somewhere() -> None:
    targets = re.findall(r"\]\(([^)#]+)\)", README.read_text())
    assert targets
    assert [target for target in targets if not (README.parent / target).exists()] == []


@pytest.mark.heavy
def test_a_first_reader_gets_two_databases_in_sync(
    tmp_path: Path, postgres_server: PostgresServer, rabbitmq_url: str
) -> None:
    blocks = readme_blocks()
    office_url = postgres_server.create_database()
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "BROKER": rabbitmq_url,
        "OFFICE": office_url,
    }
    script = "\n".join((blocks["addresses"], blocks["nodes"], blocks["run"], "trap 'kill $(jobs -p)' TERM; wait; wait"))
    shell = subprocess.Popen(
        ["bash", "-euc", script], cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, start_new_session=True
    )
    office = CliNode("main", tmp_path / "office", office_url)
    shop = CliNode("shop-1", tmp_path / "shop", f"sqlite:///{tmp_path / 'shop' / 'shop.db'}")
    try:
        wait_for(lambda: (tmp_path / "shop" / "run.log").exists() or shell.poll() is not None, 120, "both to run")
        assert shell.poll() is None
        wait_until_applied(office, shop)
        wait_until_applied(shop, office)
        subprocess.run(["bash", "-euc", blocks["look"]], cwd=tmp_path, env=environment, check=True, capture_output=True)
        for table in TRIAL_TABLES:
            keys = f"SELECT id FROM {table} ORDER BY id"
            assert sorted(office.query(keys)) == sorted(shop.query(keys))
            assert len(shop.query(keys)) >= 2
    finally:
        os.killpg(shell.pid, signal.SIGTERM)
        shell.wait(timeout=30)
        postgres_server.drop_database(office_url)
