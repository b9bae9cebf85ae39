"""The audit as a file: JSON lines for programs, CSV for people; read piece by piece, whatever its size."""

import csv
import io
import json
import re
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from common.clock import from_us
from common.runtime.node import Node
from common.web.page.words import moment, who
from consumer.audit_reading import Asked, ends, read_stretch
from consumer.page.audit_words import Told, tell
from consumer.statements import reading

AT_ONCE = 500
"""Lines that are in memory."""
KINDS = {"jsonl": ("application/x-ndjson", "JSON lines"), "csv": ("text/csv; charset=utf-8", "CSV")}
"""By name: the media type, and what it is called."""
_COLUMNS = ("time (UTC)", "who", "did", "to what", "more", "from node", "transaction", "action", "account", "detail")
_LONGEST_WORD = 40
_FORMULA = re.compile("(^|[;\t\r\n])(?=[=+\\-@\uff1d\uff0b\uff0d\uff20\t\r\n])")
"""Where one could begin: also behind what other spreadsheets take for the end of a field, and in full-width signs."""


def file_name(node_id: str, query: Mapping[str, str | None], kind: str, now_us: int) -> str:
    """Return what a file is to be called where it is saved: after the node, what was filtered, and when it was read.

    `query`: by filter; instants as ISO 8601 in UTC."""
    words = [node_id, *(query[name] or "" for name in ("action", "actor", "source", "tx"))]
    for name in ("from", "to"):
        if instant := query[name]:
            words.append(f"{name}-{re.sub('[-:]', '', instant)}Z")
    safe = "-".join(re.sub(r"[^A-Za-z0-9_.-]", "_", word)[:_LONGEST_WORD] for word in words if word)
    return f"audit-{safe}-{from_us(now_us):%Y%m%dT%H%M%SZ}.{kind}"


def pieces(node: Node, asked: Asked, kind: str) -> Iterator[bytes]:
    """Return the file of the lines that are there now, oldest first. The first piece is read at once.

    Raises OutageError; where that happens later on the answer ends without its end, which the browser tells."""
    write: Callable[[Sequence[Told]], bytes] = {"jsonl": _jsonl, "csv": _csv}[kind]
    with reading(node.database) as connection:
        first, last = ends(connection, asked)
    found = _stretches(node, asked, first, last)
    # Without the mark, spreadsheets take UTF-8 for something else.
    begins = BOM_UTF8 + _csv_row(_COLUMNS) if kind == "csv" else b""
    opening = begins + write(next(found, []))
    return _joined(opening, (write(lines) for lines in found))


def _joined(opening: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield opening
    yield from rest


def _stretches(node: Node, asked: Asked, first: int, last: int) -> Iterator[Sequence[Told]]:
    while first <= last:
        with reading(node.database) as connection:
            lines, first = read_stretch(connection, asked, first, last, AT_ONCE)
            told = tell(connection, lines)
        yield told


def _jsonl(lines: Sequence[Told]) -> bytes:
    """Return lines as `rowferry audit` prints them."""
    return "".join(json.dumps(one.line, ensure_ascii=False) + "\n" for one in lines).encode()


def _csv(lines: Sequence[Told]) -> bytes:
    return b"".join(_csv_row(_fields(one)) for one in lines)


def _fields(one: Told) -> Sequence[Any]:
    line = one.line
    detail = "" if line["detail"] is None else json.dumps(line["detail"], ensure_ascii=False)
    found = [
        who(line["actor"]),
        one.did,
        one.to_what,
        one.more,
        line["source_node"],
        line["tx_id"],
        line["action"],
        line["actor"],
    ]
    return [moment(line["at"]).removesuffix(" UTC"), *(_harmless(text or "") for text in (*found, detail))]


def _harmless(text: str) -> str:
    """Return what no spreadsheet takes for a formula: names and reasons are other people's text."""
    return _FORMULA.sub(r"\1'", text)


def _csv_row(fields: Sequence[Any]) -> bytes:
    out = io.StringIO()
    csv.writer(out).writerow(fields)
    return out.getvalue().encode()
