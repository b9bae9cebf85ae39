"""This node's digests in a file, for nodes that share no more than a folder or a stick."""

from collections.abc import Callable, Collection, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from common.errors import UsageError
from common.ops.export_files import write_whole
from common.runtime.node import Node
from common.wire.compress import encoding_of, wrapped
from common.wire.digests import Digested, Head, encoded
from common.wire.forms import Form
from consumer.verifying.answering import everything
from consumer.verifying.fitting import common_forms
from consumer.verifying.moment import Moment, at_one_moment
from consumer.verifying.sides import Advance

_WRITE_BYTES = 1024 * 1024


class Written(NamedTuple):
    """What was written."""

    file: str
    head: Head
    rows: int

    def document(self) -> dict[str, Any]:
        """Return it as `--json` prints it."""
        left_out = {name: one.unfit for name, one in self.head.tables.items() if one.unfit is not None}
        return {
            "file": self.file,
            "node": self.head.source_node,
            "at": self.head.at,
            "tables": [name for name in self.head.tables if name not in left_out],
            "left_out": [{"table": name, "reason": why} for name, why in left_out.items()],
            "rows": self.rows,
        }


def export_digests(
    node: Node, path: Path, wanted: Collection[str] | None, like: Head | None, advance: Advance
) -> Written:
    """Write digests of all rows, with their versions. Raises UsageError, OutageError, RowferryError.

    `like`: of the node that the file is for: then the columns count that both have, in the form that both share."""

    def work(moment: Moment) -> Written:
        head = _chosen(moment.head, wanted, like)
        forms = {name: one.forms for name, one in head.tables.items() if one.unfit is None}
        count = 0

        def told(rows: int) -> None:
            nonlocal count
            count += rows
            advance(rows)

        write_whole(path, partial(_write, path.name, moment, head, forms, told))
        return Written(str(path), head, count)

    return at_one_moment(node, work)


def _chosen(head: Head, wanted: Collection[str] | None, like: Head | None) -> Head:
    missing = [name for name in wanted or () if name not in head.tables]
    if missing:
        raise UsageError(f"{missing[0]} is not a captured table of this node")
    tables = {name: one for name, one in head.tables.items() if wanted is None or name in wanted}
    if like is not None:
        tables = {name: _like(one, like.tables[name]) for name, one in tables.items() if name in like.tables}
    return msgspec.structs.replace(head, tables=tables)


def _like(table: Digested, theirs: Digested) -> Digested:
    forms = common_forms(table, theirs)
    return msgspec.structs.replace(table, forms=forms) if set(table.pk) <= forms.keys() else table


def _write(
    name: str,
    moment: Moment,
    head: Head,
    forms: dict[str, dict[str, Form]],
    told: Callable[[int], None],
    out: Callable[[bytes], object],
) -> None:
    lines = encoded(head, everything(moment, forms), moment.node.config.signer())
    for piece in wrapped(_pieces(lines, told), encoding_of(name)):
        out(piece)


def _pieces(lines: Iterable[bytes], told: Callable[[int], None]) -> Iterator[bytes]:
    """Yield lines put together, and tell how many rows were among them."""
    pending, rows = bytearray(), 0
    for line in lines:
        pending += line
        rows += line.startswith(b'{"type":"row"')
        if len(pending) >= _WRITE_BYTES:
            told(rows)
            yield bytes(pending)
            pending, rows = bytearray(), 0
    told(rows)
    yield bytes(pending)
