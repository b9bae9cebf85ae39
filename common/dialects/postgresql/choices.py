"""Rows that are sealed as this node's own writes, also where they stay as they are: choices between writes that met,
and first versions of rows from before the first sync."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psycopg

from common.dialects.postgresql.missed import UNKNOWN_WHEN
from common.dialects.postgresql.registry import encode_meta
from common.errors import ConfigError
from common.ports.dialect import RowWrite, TableShape
from common.ports.rules import not_captured_refusal
from common.versions import Version, counts_from_us

Raw = psycopg.Connection[tuple[Any, ...]]

_LOG = """
INSERT INTO rf_change_log (shape_id, op, pk, before, after, resolves, captured_at)
SELECT c.shape_id, %(op)s::"char", %(key)s, %(before)s, %(after)s, %(resolves)s,
       greatest(clock_timestamp(), 'epoch'::timestamptz + %(from_us)s * interval '1 microsecond')
FROM rf_table n JOIN rf_capture c USING (table_id) JOIN rf_shape s ON s.shape_id = c.shape_id AND s.meta = %(meta)s
WHERE n.name = %(table)s
"""
_LOG_FIRST = f"""
INSERT INTO rf_change_log (shape_id, op, pk, after, resolves, captured_at)
SELECT c.shape_id, 'I', r.key, r.image, %(resolves)s, {UNKNOWN_WHEN}
FROM unnest(%(keys)s::text[], %(images)s::text[]) WITH ORDINALITY r(key, image, place), rf_table n
JOIN rf_capture c USING (table_id) JOIN rf_shape s ON s.shape_id = c.shape_id AND s.meta = %(meta)s
WHERE n.name = %(table)s ORDER BY r.place
"""


@dataclass(frozen=True, slots=True)
class Chosen:
    """One row before and after somebody chose what it shall be; images under the table's own types."""

    table: TableShape
    write: RowWrite
    before: bytes | None
    after: bytes | None
    resolves: Sequence[Version]


@dataclass(frozen=True, slots=True)
class FirstVersions:
    """Rows of one table that get their first version; images under the table's own types."""

    table: TableShape
    rows: Sequence[RowWrite]
    resolves: Sequence[Version]


def log_first(raw: Raw, found: Sequence[FirstVersions]) -> None:
    """Have them sealed with the weakest version. Raises ConfigError where capture does not fit the table."""
    for one in found:
        given = {
            "keys": [row.key for row in one.rows],
            "images": [_text(row.image) for row in one.rows],
            "resolves": json.dumps(one.resolves, separators=(",", ":")),
            "meta": encode_meta(one.table.meta),
            "table": one.table.name,
        }
        if raw.execute(_LOG_FIRST.encode(), given).rowcount != len(one.rows):
            raise ConfigError(not_captured_refusal(one.table.name))


def log_choices(raw: Raw, found: Sequence[Chosen]) -> None:
    """Have them sealed as this node's own writes. Raises ConfigError where capture does not fit the table."""
    for one in found:
        op = "D" if one.after is None else "I" if one.before is None else "U"
        before = (one.before or one.write.key.encode()) if op == "D" else one.before
        given = {
            "op": op,
            "key": one.write.key,
            "before": _text(before),
            "after": _text(one.after),
            "resolves": json.dumps(one.resolves, separators=(",", ":")),
            "from_us": counts_from_us(one.write.version, one.resolves),
            "meta": encode_meta(one.table.meta),
            "table": one.table.name,
        }
        if raw.execute(_LOG, given).rowcount != 1:
            raise ConfigError(not_captured_refusal(one.table.name))


def _text(image: bytes | None) -> str | None:
    return None if image is None else image.decode("utf-8")
