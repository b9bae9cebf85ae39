"""Installs capture anew where it no longer fits, and says so."""

import json
import logging
from collections.abc import Sequence

import sqlalchemy as sa

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
    statements = node.capture().install(tables, briefly=True)
    had_rows = never_sent(node.database, had_rows) if had_rows else ()
    detail = {"installed_anew_for": list(drifted), "statements": len(statements)}
    line = {
        "at_us": node.clock.now_us(),
        "actor": "rowferry",
        "action": "capture",
        "detail": json.dumps(detail | ({"had_rows": had_rows} if had_rows else {})),
    }
    in_transaction(node.database, lambda connection: connection.execute(sa.insert(rf.audit).values(line)))
    log.warning("capture.installed_anew", extra={"tables": list(drifted), "statements": len(statements)})
    if had_rows:
        problem = "rows that stood there before capture are not sent, only what is changed in them from now on"
        log.warning("capture.rows_not_sent", extra={"tables": had_rows, "problem": problem, "remedy": "rowferry adopt"})
