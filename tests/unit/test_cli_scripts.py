"""The operators' scripts: they call the command, hand its arguments on as they are, and end with its exit code."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
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
    comment = [line for line in (SCRIPTS / "push_pull.sh").read_text().splitlines() if line.startswith("#")]
    assert done.stderr.splitlines() == [line.removeprefix("#").removeprefix(" ") for line in comment[1:]]


def test_both_scripts_call_the_same_options() -> None:
    used = [set(re.findall(r"--[a-z]+", (SCRIPTS / f"push_pull.{kind}").read_text())) for kind in ("sh", "ps1")]
    assert used[0] == used[1] == {"--config", "--file", "--client"}


@pytest.fixture
def backup(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`backup.sh`, and in rowferry's place what only makes the folder; it fails where the configuration says so."""
    fake = tmp_path / "fake rowferry"
    fake.write_text(
        "#!/bin/sh\n"
        'printf "%s\\n" "$@"\n'
        '[ "$2" != broken ] || exit 5\n'
        'if [ "$3" = backup ]; then mkdir -p "$4" && touch "$4/backup.json"; fi\n'
    )
    fake.chmod(0o755)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        bash = shutil.which("bash")
        assert bash
        command = [bash, str(SCRIPTS / "backup.sh"), *arguments]
        environment = {**os.environ, "ROWFERRY": str(fake)}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    return run


def test_old_backups_go_when_the_new_one_is_whole(
    backup: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    folder = tmp_path / "my backups"
    for name in ("20250101T000000Z", "20250102T000000Z", "20250103T000000Z"):
        (folder / name).mkdir(parents=True)
        (folder / name / "backup.json").touch()
    for name in ("by hand", "20240101T000000Z"):
        # Not of this script, or not whole.
        (folder / name).mkdir()
    assert backup("backup", "broken", str(folder), "2").returncode == 5
    assert (folder / "20250101T000000Z").exists()
    done = backup("backup", "a.toml", str(folder), "2")
    assert done.returncode == 0, done.stderr
    new = done.stdout.splitlines()[-1]
    there = {str(path) for path in folder.iterdir()}
    assert there == {str(folder / name) for name in ("by hand", "20240101T000000Z", "20250103T000000Z")} | {new}
    assert backup("restore", "a.toml", str(folder)).stdout.splitlines() == ["--config", "a.toml", "restore", new]


def test_backups_of_a_clock_that_was_ahead_keep_no_newer_one_away(
    backup: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    folder = tmp_path / "backups"
    for name in ("20990101T000000Z", "20990102T000000Z"):
        (folder / name).mkdir(parents=True)
        (folder / name / "backup.json").touch()
    new = backup("backup", "a.toml", str(folder), "2").stdout.splitlines()[-1]
    assert {str(path) for path in folder.iterdir()} == {str(folder / "20990102T000000Z"), new}
    assert backup("restore", "a.toml", str(folder)).stdout.splitlines() == ["--config", "a.toml", "restore", new]


def test_wrong_use_of_the_backup_script_is_explained(
    backup: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    for given in (
        (),
        ("backup", "a.toml"),
        ("backup", "a.toml", "f", "0"),
        ("restore", "a.toml", "f", "x"),
        ("x",) * 3,
    ):
        done = backup(*given)
        assert (done.returncode, done.stdout) == (2, "")
        assert "backup.sh backup CONFIG FOLDER" in done.stderr
    assert backup("restore", "a.toml", str(tmp_path)).returncode == 3
