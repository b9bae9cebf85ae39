"""What nodes have to agree on, as digests that each of them can compute: the shape of the tables, and the policies."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass

from common.config.model import Config
from common.ports.dialect import TableShape


@dataclass(frozen=True, slots=True)
class Agreement:
    """SHA-256 in hex: equal on two nodes that agree."""

    schema_sha256: str
    policies_sha256: str


def agreement(config: Config, tables: Iterable[TableShape]) -> Agreement:
    """Return the digests of the captured `tables`, in whatever order.

    The schema's is over tables, keys and columns by name: each kind of database spells its types in its own way."""
    shapes = {shape.name: shape.meta for shape in tables}
    schema = {name: [list(meta.pk), sorted(meta.columns)] for name, meta in shapes.items()}
    policies = {name: config.tables.policy_for(name).value for name in shapes}
    return Agreement(_sha256(schema), _sha256(policies))


def _sha256(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=True).encode()).hexdigest()
