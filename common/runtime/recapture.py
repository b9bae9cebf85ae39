"""Installs capture anew where it no longer fits, and says so."""

import json
import logging
from collections.abc import Sequence

import sqlalchemy as sa

from common.errors import ConfigError, ContentionError
from common.ports.dialect import TableShape
from common.retry import in_transaction
from common.runtime.node import Node
from common.schema import tables as rf
from common.schema.first_rows import never_sent, with_rows

log = logging.getLogger(__name__)


def install_anew(node: Node, tables: Sequence[TableShape], drifted: Sequence[str]) -> None:
    """Install capture on all of `tables`, for the sake of `drifted`. Raises what `Capture.install` does.

    It waits for nobody longer than half a second: sealing and applying stand still meanwhile.

    The audit line has what is set aside for a table's shape tried again, in whichever process."""
    had_rows = with_rows(node.database, [shape for shape in tables if shape.name in drifted], briefly=True)
    capture = node.capture()
    try:
        statements = len(capture.install(tables, briefly=True))
    except (ContentionError, ConfigError):
        # The others have it, and no later look finds them: what is to be said of them is said now or never.
        left = set(capture.drifted(tables))
        done = [name for name in drifted if name not in left]
        if done:
            _tell(node, done, None, [name for name in had_rows if name in done])
        raise
    _tell(node, drifted, statements, had_rows)


def _tell(node: Node, tables: Sequence[str], statements: int | None, had_rows: Sequence[str]) -> None:
    """Say for which tables capture was installed, in the audit too. `statements`: how many, where that is known."""
    never = never_sent(node.database, had_rows) if had_rows else ()
    detail: dict[str, object] = {"installed_anew_for": list(tables)}
    if statements is not None:
        detail["statements"] = statements
    if never:
        detail["had_rows"] = never
    line = {"at_us": node.clock.now_us(), "actor": "rowferry", "action": "capture", "detail": json.dumps(detail)}
    in_transaction(node.database, lambda connection: connection.execute(sa.insert(rf.audit).values(line)))
    log.warning("capture.installed_anew", extra={"tables": list(tables), "statements": statements})
    if never:
        problem = "rows that stood there before capture are not sent, only what is changed in them from now on"
        log.warning("capture.rows_not_sent", extra={"tables": never, "problem": problem, "remedy": "rowferry adopt"})
