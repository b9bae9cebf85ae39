"""`make mutants`: switch off one safeguard after the other in a copy of the tree, and see that its tests notice.

A mutant whose tests all pass has survived: then nothing would tell if somebody took that safeguard away. Exit code 0
when all were killed, 1 when one survived, 2 when the run says nothing (a test that fails without any mutant, a text
that is gone, a run that never ended)."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.mutants.catalogue import MUTANTS, SAFEGUARDS, LostTextError, Mutant
from tests.support.container_engine import CHECKOUT

ROOT = Path(__file__).resolve().parents[2]
_SECONDS = 900
_PASSED, _FAILED = 0, 1


@dataclass(frozen=True)
class Ended:
    """How one run of pytest ended."""

    code: int | None
    """None: it did not end in time."""
    output: str
    seconds: float

    @property
    def first_failure(self) -> str:
        """The first test that noticed."""
        failed = [line for line in self.output.splitlines() if line.startswith(("FAILED ", "ERROR "))]
        return failed[0].split(" - ")[0].removeprefix("FAILED ").removeprefix("ERROR ") if failed else "?"


class Copy:
    """A copy of the tree, in which alone anything is changed."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "tree"
        files = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT, capture_output=True, text=True, check=True,
        ).stdout.split("\0")  # fmt: skip
        for name in filter(None, files):
            if (ROOT / name).is_file():
                target = self.root / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, target)
        services = ROOT / ".cache" / "test-services.env"
        if services.exists():
            (self.root / ".cache").mkdir()
            shutil.copy2(services, self.root / ".cache")
        self._check_that_it_is_what_runs()

    def restore(self, name: str) -> None:
        """Put one file back as it is in the tree."""
        shutil.copy2(ROOT / name, self.root / name)

    def test(self, tests: Sequence[str], seconds: float = _SECONDS) -> Ended:
        """Run some tests until the first one fails, for so long at most."""
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-rfE", *tests]
        begun = time.monotonic()
        try:
            done = subprocess.run(
                command, cwd=self.root, env=self._environment(), capture_output=True, text=True,
                timeout=seconds, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            output = error.stdout.decode(errors="replace") if isinstance(error.stdout, bytes) else error.stdout or ""
            return Ended(None, f"{output}\n(stopped after {seconds:.0f} s)", time.monotonic() - begun)
        return Ended(done.returncode, done.stdout + done.stderr, time.monotonic() - begun)

    def _check_that_it_is_what_runs(self) -> None:
        program = "import common, producer, consumer, tests; print(common.__file__, producer.__file__, tests.__path__)"
        command = [sys.executable, "-c", program]
        # From another folder, as the commands that tests start: what is installed must not come first.
        done = subprocess.run(
            command, cwd=self.root.parent, env=self._environment(), capture_output=True, text=True, check=True
        )
        if done.stdout.count(str(self.root)) != 3:
            raise RuntimeError(f"the tests would not run on the copy, but on {done.stdout}")

    def _environment(self) -> dict[str, str]:
        # The same servers as those of the tree, and the same examples each time.
        mine = {"PYTHONPATH": str(self.root), "ROWFERRY_TEST_CHECKOUT": CHECKOUT, "ROWFERRY_REQUIRE_SERVICES": "1"}
        return {**os.environ, "HYPOTHESIS_PROFILE": "ci", "PYTHONDONTWRITEBYTECODE": "1", **mine}


def main() -> int:
    """Run the mutants that are named, all without a name."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("names", nargs="*", help="mutants or safeguards; all without one")
    names = parser.parse_args().names
    chosen = [one for one in MUTANTS if not names or one.name in names or one.safeguard in names]
    if not chosen:
        known = ", ".join([*SAFEGUARDS, *(one.name for one in MUTANTS)])
        parser.error(f"no such mutant; there are {known}")
    with tempfile.TemporaryDirectory(prefix="rowferry-mutants-") as folder:
        return _run(Copy(Path(folder)), chosen)


def _run(copy: Copy, chosen: Sequence[Mutant]) -> int:
    tests = sorted({test for one in chosen for test in one.tests})
    # All of them at once: what one mutant's tests may take is not enough.
    unchanged = copy.test(tests, max(_SECONDS, 120 * len(tests)))
    if unchanged.code != _PASSED:
        print(f"without any mutant the tests end with {unchanged.code}:\n{unchanged.output[-3000:]}")
        return 2
    print(f"without any mutant {len(tests)} modules pass in {unchanged.seconds:.0f} s", flush=True)
    codes = [_try_one(copy, one) for one in chosen]
    killed = codes.count(0)
    print(f"{killed} of {len(chosen)} mutants killed, for {len({one.safeguard for one in chosen})} safeguards")
    return max(codes)


def _try_one(copy: Copy, mutant: Mutant) -> int:
    try:
        mutant.apply(copy.root)
        ended = copy.test(mutant.tests)
    except LostTextError as error:
        print(f"ERROR     {error}", flush=True)
        return 2
    finally:
        copy.restore(mutant.file)
    label = f"{mutant.safeguard}: {mutant.name}"
    if ended.code == _FAILED:
        print(f"killed    {label:<60} {ended.seconds:4.0f} s  {ended.first_failure}", flush=True)
        return 0
    if ended.code == _PASSED:
        print(f"SURVIVED  {label:<60} {ended.seconds:4.0f} s", flush=True)
        return 1
    print(f"ERROR     {label}: pytest ended with {ended.code}\n{ended.output[-2000:]}", flush=True)
    return 2


if __name__ == "__main__":
    sys.exit(main())
