"""Which rows a load touches: the same at each call, whatever the database."""

from __future__ import annotations

import random
from collections.abc import Iterator

START_ROWS = 10_000
"""Rows 1 to here are there before."""
# Inserts, updates, deletes in ten rows.
_MIX = "IIIIIIUUUD"

Statement = tuple[str, list[int]]
"""I, U or D, and the keys."""


def plan(name: str, txs: int, rows_each: int) -> Iterator[list[Statement]]:
    """Yield the statements of each tx. No tx touches a row twice."""
    chance, there, next_key = random.Random(name), list(range(1, START_ROWS + 1)), START_ROWS + 1
    for number in range(txs):
        ops = [_MIX[(number * rows_each + row) % len(_MIX)] for row in range(rows_each)]
        inserted = list(range(next_key, next_key + ops.count("I")))
        next_key += len(inserted)
        positions = chance.sample(range(len(there)), ops.count("U") + ops.count("D"))
        updated = [there[position] for position in positions[: ops.count("U")]]
        leaving = sorted(positions[ops.count("U") :], reverse=True)
        deleted = [there[position] for position in leaving]
        for position in leaving:
            there[position] = there[-1]
            there.pop()
        there += inserted
        yield [(op, keys) for op, keys in (("I", inserted), ("U", updated), ("D", deleted)) if keys]
