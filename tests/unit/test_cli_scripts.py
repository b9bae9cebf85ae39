"""The operators' scripts: they call the command, hand its arguments on as they are, and end with its exit code."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "infra" / "scripts"


@pytest.fixture
def rowferry(tmp_path: Path) -> Path:
    """A command in rowferry's place: prints one argument a line and ends with 4."""
    fake = tmp_path / "fake rowferry"
    fake.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\nexit 4\n')
    fake.chmod(0o755)
    return fake


def call(rowferry: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    bash = shutil.which("bash")
    assert bash
    return subprocess.run(
        [bash, str(SCRIPTS / "push_pull.sh"), *arguments],
        env={**os.environ, "ROWFERRY": str(rowferry)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("given", "called"),
    [
        (("pull", "my node.toml", "a b.jsonl"), ["pull", "--file", "a b.jsonl"]),
        (("pull", "my node.toml", "a", "b"), ["pull", "--file", "a", "--file", "b"]),
        (("push", "my node.toml", "out dir/"), ["push", "--file", "out dir/"]),
        (("push", "my node.toml", "out", "store 2"), ["push", "--file", "out", "--client", "store 2"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_arguments_and_exit_code_are_handed_on(rowferry: Path, given: tuple[str, ...], called: list[str]) -> None:
    done = call(rowferry, *given)
    assert done.stdout.splitlines() == ["--config", "my node.toml", *called]
    assert done.returncode == 4


@pytest.mark.parametrize("given", [(), ("pull", "a.toml"), ("pul", "a.toml", "f"), ("push", "a.toml", "f", "c", "x")])
def test_wrong_use_is_explained(rowferry: Path, given: tuple[str, ...]) -> None:
    done = call(rowferry, *given)
    assert (done.returncode, done.stdout) == (2, "")
    assert "push_pull.sh pull CONFIG FILE..." in done.stderr


def test_both_scripts_call_the_same_options() -> None:
    used = [set(re.findall(r"--[a-z]+", (SCRIPTS / f"push_pull.{kind}").read_text())) for kind in ("sh", "ps1")]
    assert used[0] == used[1] == {"--config", "--file", "--client"}
