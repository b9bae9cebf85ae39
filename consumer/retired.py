"""Nodes that were retired and speak all the same: from then on they count again, and that is told.

What a node had written before it was retired changes nothing: its last file may be imported long after."""

from typing import Any

import sqlalchemy as sa

from common.schema import tables as rf
from consumer import audit


def speaks_again() -> dict[str, sa.ColumnElement[Any]]:
    """Return what an update of `rf_node` sets where a peer is heard of; parameters `now_us` and `wrote_us`."""
    node = rf.node.c
    is_news = node.retired_us < sa.bindparam("wrote_us", type_=sa.BigInteger)
    now_us = sa.bindparam("now_us", type_=sa.BigInteger)
    return {
        "retired_us": sa.case((is_news, sa.null()), else_=node.retired_us),
        "returned_us": sa.case((is_news, now_us), else_=node.returned_us),
    }


def returned(node_id: str) -> audit.Line:
    """Return the line of a node that was retired and speaks again."""
    remedy = "compare it with another node, or retire it again: what was purged meanwhile it may lack"
    return audit.Line("node-returned", node_id, None, detail={"remedy": remedy})
