"""Rows of the short way as the parameters of its statements, made while the database works on others."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from common.dialects.postgresql.arrays import int_array, text_array
from common.dialects.postgresql.rows import ColumnSet, Rows
from common.ports.dialect import TableShape
from common.ports.plain import RowRun
from common.versions import NEVER, Version
from common.wire.records import TableMeta

Given = dict[str, object]
"""The parameters of one statement."""

FIRST_MADE_ON = {"rf_new": "bool", "rf_epoch": "int", "rf_hlc": "bigint", "rf_node": "text"}
"""What the claim is told of each key beside it: arrays of these types."""
LAST_VERSION = {
    "rf_epoch": "int",
    "rf_hlc": "bigint",
    "rf_node": "text",
    "rf_base_epoch": "int",
    "rf_base_hlc": "bigint",
    "rf_base_node": "text",
    "rf_deleted": "bool",
}
"""What is recorded of each key."""


@dataclass(frozen=True, slots=True)
class PgPlainRows:
    """The rows of one table. Implements `PlainRows`."""

    rows: Rows
    pks: list[bytes]
    gone: list[bytes]
    """Keys of rows that are deleted."""
    standing: list[bytes]
    """Keys of the others."""
    to_lock: str | None
    """Keys of rows that should be there, as one JSON array; None where none should."""
    claim: Given
    """Of the keys that may have a version."""
    made: dict[ColumnSet, str]
    """Images of rows that are not there, as JSON arrays by the columns that they name."""
    set_anew: dict[ColumnSet, str]
    """Images of rows that may be there."""
    first_versions: Given | None
    """Of keys that have none; None where there are no such keys, as in the next."""
    next_versions: Given | None

    @classmethod
    def of(cls, table: TableShape, meta: TableMeta, runs: Sequence[RowRun]) -> Self:
        """See `WritesPlain.plain_rows`."""
        rows = Rows.of(table, meta)
        known = [run.pk for run in runs if not run.is_new]
        first = [run for run in runs if run.first_base == NEVER]
        again = [run for run in runs if run.first_base != NEVER] if len(first) < len(runs) else []
        # What never was is not asked for: where it is all the same, neither its version nor its row can be inserted.
        asked = [run for run in runs if not run.is_new or run.first_base != NEVER]
        return cls(
            rows=rows,
            pks=[run.pk for run in runs],
            gone=[run.pk for run in runs if run.image is None],
            standing=[run.pk for run in runs if run.image is not None],
            to_lock=rows.keys(known) if known else None,
            claim={
                "pks": rows.keys([run.pk for run in asked]),
                "table": table.name,
                "rf_new": int_array([run.is_new for run in asked]),
                **_versions([run.first_base for run in asked]),
            },
            made=_images(rows, [run for run in runs if run.is_new]),
            set_anew=_images(rows, [run for run in runs if not run.is_new]),
            first_versions=_last_versions(rows, first),
            next_versions=_last_versions(rows, again),
        )

    @property
    def table(self) -> TableShape:
        """Where they go."""
        return self.rows.table


def _images(rows: Rows, runs: Sequence[RowRun]) -> dict[ColumnSet, str]:
    images = [(run.image, None) for run in runs if run.image is not None]
    return rows.by_columns(images) if images else {}


def _last_versions(rows: Rows, runs: Sequence[RowRun]) -> Given | None:
    if not runs:
        return None
    return {
        "pks": rows.keys([run.pk for run in runs]),
        "rf_deleted": int_array([run.image is None for run in runs]),
        **_versions([run.version for run in runs]),
        **_versions([run.base for run in runs], "rf_base_"),
    }


def _versions(versions: Sequence[Version], prefix: str = "rf_") -> dict[str, str]:
    epochs, hlcs, node_ids = zip(*versions, strict=True) if versions else ((), (), ())
    return {
        f"{prefix}epoch": int_array(epochs),
        f"{prefix}hlc": int_array(hlcs),
        f"{prefix}node": text_array(node_ids),
    }
