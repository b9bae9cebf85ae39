"""The mutants fit the code, name tests that are there, and leave no safeguard out."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.mutants.catalogue import MUTANTS, SAFEGUARDS, LostTextError, Mutant

ROOT = Path(__file__).resolve().parents[2]


def copied(mutant: Mutant, folder: Path) -> Path:
    """Return the file that a mutant changes, in a folder of the test's own."""
    path = folder / mutant.file
    path.parent.mkdir(parents=True)
    shutil.copy(ROOT / mutant.file, path)
    return path


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda one: one.name)
def test_it_fits_the_code_and_stays_python(mutant: Mutant, tmp_path: Path) -> None:
    path = copied(mutant, tmp_path)
    mutant.apply(tmp_path)
    assert path.read_text() != (ROOT / mutant.file).read_text()
    compile(path.read_text(), mutant.file, "exec")
    assert all((ROOT / test.partition("::")[0]).exists() for test in mutant.tests)


def test_a_text_that_is_gone_is_an_error(tmp_path: Path) -> None:
    mutant = replace(MUTANTS[0], old="this never stood there")
    copied(mutant, tmp_path)
    with pytest.raises(LostTextError):
        mutant.apply(tmp_path)


def test_every_safeguard_has_a_mutant_and_names_are_unique() -> None:
    assert {mutant.safeguard for mutant in MUTANTS} == set(SAFEGUARDS)
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)
