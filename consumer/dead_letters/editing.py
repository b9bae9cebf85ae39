"""A dead letter's batch that somebody has edited in a file: read, made whole again, and compared with what came.

The file is what `dlq export` wrote. Its counts and checksums are no longer right, so they are made anew. Pure."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from common.errors import PoisonError, PreflightError
from common.wire.changes import TxReader
from common.wire.decode import read_body
from common.wire.records import BatchHeader, Change, Part

RowName = tuple[str, str]
"""A table, and a key as text."""


@dataclass(frozen=True, slots=True)
class EditedBatch:
    """One batch of an edited file, with right checksums again."""

    header: BatchHeader
    changes: tuple[Change, ...]
    sha256: str
    """Over its change lines."""


@dataclass(frozen=True, slots=True)
class Edit:
    """A row that shall not become what the batch said when it came."""

    table: str
    pk: bytes
    change: Change | None
    """What the file makes of it; None: the file has it no more, so it stays as it is here."""
    came: tuple[Change, ...]
    """What the batch said of it."""


def read_edited(data: bytes, file: str) -> list[EditedBatch]:
    """Return the batches of a file. Raises PreflightError, which names the line."""
    return [_batch(lines, first, file) for first, lines in _split(data, file)]


def edits(came: Sequence[Change], edited: Sequence[Change]) -> list[Edit]:
    """Return the rows of which the file makes something else, in the order of the file, those it has no more last."""
    before, after = _by_row(came), _by_row(edited)
    found = [
        Edit(changes[-1].table, bytes(changes[-1].pk), changes[-1], tuple(before.get(name, ())))
        for name, changes in after.items()
        if name not in before or _image(changes[-1]) != _image(before[name][-1])
    ]
    gone = [name for name in before if name not in after]
    return found + [Edit(name[0], bytes(before[name][-1].pk), None, tuple(before[name])) for name in gone]


def _by_row(changes: Sequence[Change]) -> dict[RowName, list[Change]]:
    rows: dict[RowName, list[Change]] = {}
    for change in changes:
        rows.setdefault((change.table, _spelled(bytes(change.pk))), []).append(change)
    return rows


def _image(change: Change) -> str | None:
    return None if change.image is None else _spelled(change.image)


def _spelled(text: bytes) -> str:
    """Return JSON in one spelling: the same for the same values, a number never for another one or for a text."""
    return json.dumps(json.loads(text, parse_float=_number, parse_int=_number), sort_keys=True)


def _number(text: str) -> dict[str, str]:
    return {"number": text}


def _split(data: bytes, file: str) -> Iterator[tuple[int, list[bytes]]]:
    """Yield each batch's lines, blank ones left out, and the number of its first line."""
    lines: list[bytes] = []
    first = 1
    for number, line in enumerate(data.split(b"\n"), start=1):
        if not line.strip():
            continue
        kind = _fields(line, number, file).get("type")
        if kind == "batch":
            if lines:
                raise PreflightError(f"{file}, line {number}: the batch before it has no end line")
            first = number
        elif not lines:
            raise PreflightError(f"{file}, line {number}: a batch begins with its header line")
        if kind == "chunk":
            raise PreflightError(f"{file}, line {number}: a change in chunks can't be edited")
        lines.append(line.strip())
        if kind == "end":
            yield first, lines
            lines = []
    if lines:
        raise PreflightError(f"{file}, line {first}: the batch that begins there has no end line")


def _batch(lines: Sequence[bytes], first: int, file: str) -> EditedBatch:
    header = _fields(lines[0], first, file)
    if header.get("parts", 1) != 1:
        raise PreflightError(f"{file}, line {first}: a transaction in several parts can't be edited")
    header.pop("tx_sha256", None)
    changes = lines[1:-1]
    body = b"".join(line + b"\n" for line in (_json(header | {"changes": len(changes)}), *changes))
    end = {"type": "end", "tx_id": header.get("tx_id"), "changes": len(changes)}
    whole = body + _json(end | {"sha256": hashlib.sha256(body).hexdigest()}) + b"\n"
    match read_body(whole):
        case [Part() as part]:
            reader = TxReader(part.header, [part.payload])
            try:
                read = tuple(reader)
            except PoisonError as error:
                raise PreflightError(f"{file}, line {first}: {error}") from error
            return EditedBatch(part.header, read, reader.content_sha256 or "")
        case [broken, *_]:
            fault = getattr(broken, "error", "it is no batch")
            raise PreflightError(f"{file}, batch from line {first}: {fault}")
        case _:
            raise PreflightError(f"{file}, line {first}: it is no batch")


def _fields(line: bytes, number: int, file: str) -> dict[str, Any]:
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise PreflightError(f"{file}, line {number}: {error}") from error
    if not isinstance(fields, dict):
        raise PreflightError(f"{file}, line {number}: a line is a JSON object")
    return fields


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
