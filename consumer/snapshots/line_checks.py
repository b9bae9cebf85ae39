"""What each line of a snapshot must be. A right checksum shows who wrote it, and not that it makes sense."""

from collections.abc import Mapping
from functools import cache

import msgspec
from pydantic import ValidationError

from common.clock import YEAR_2200_US
from common.errors import PoisonError, Reason
from common.ids import NODE_ID
from common.versions import MOST_EPOCH, NEVER, Version
from common.wire.compress import decompress
from common.wire.decode import Broken, parts_in
from common.wire.kinds import fits
from common.wire.limits import UNBOUNDED
from common.wire.records import TableMeta
from common.wire.snapshot import (
    AppliedLine,
    ChoiceLine,
    ConflictLine,
    HorizonLine,
    LetterLine,
    Line,
    MarkLine,
    PartLine,
    RowLine,
)
from consumer.conflict.record import BETWEEN_ROWS, Kind, Winner, meta_of
from consumer.dead_letters.lsns import LsnSet

_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])
_version = msgspec.json.Decoder(Version)
_NULL = msgspec.Raw(b"null")


class LineChecks:
    """Checks lines one by one."""

    def __init__(self, metas: Mapping[str, TableMeta]) -> None:
        self._metas = metas
        self._marks: set[tuple[str, str]] = set()

    def check(self, line: Line) -> None:
        """Raise PoisonError for a line that no node has written."""
        try:
            self._check(line)
        except (msgspec.DecodeError, ValidationError, ValueError) as error:
            raise _fault(str(error)) from error

    def _check(self, line: Line) -> None:
        match line:
            case RowLine():
                self._check_row(line)
            case MarkLine():
                key = line.source_node, line.incarnation
                if line.last_lsn > line.highest_lsn or key in self._marks:
                    raise _fault(f"mark of {line.source_node}: it goes beyond its highest LSN, or comes twice")
                self._marks.add(key)
            case AppliedLine():
                if line.prev_lsn >= line.to_lsn:
                    raise _fault(f"{line.tx_id}: it ends before it begins")
            case HorizonLine():
                _check_version(line.table, line.version)
            case LetterLine():
                _check_letter(line)
            case PartLine():
                decompress(line.payload, "zstd", UNBOUNDED)
            case ConflictLine():
                self._check_conflict(line)
            case ChoiceLine():
                self._check_key(line.table, line.pk)
                for version in (line.base, line.version, *line.resolves):
                    _check_version(line.table, version)

    def _check_row(self, line: RowLine) -> None:
        key = self._check_key(line.table, line.pk)
        for version in (line.version, line.base):
            _check_version(line.table, version)
        if line.image is None:
            if line.version == NEVER or line.aside is not None:
                raise _fault(f"{line.table} {bytes(line.pk).decode()}: neither a row nor a tombstone")
            return
        meta = self._metas[line.table]
        image = _fields.decode(line.image)
        has_columns = image.keys() <= meta.columns.keys() if line.aside else image.keys() == meta.columns.keys()
        # An integer has one spelling; of other types the key's may not be the image's.
        same = all(image.get(name) == value for name, value in key.items() if meta.columns[name] == "int")
        if not has_columns or not same or (line.aside is not None and line.version == NEVER):
            raise _fault(f"{line.table} {bytes(line.pk).decode()}: its columns are others, or its key is another row's")
        if line.aside is not None:
            _between_rows(line.aside)
            return
        odd = [name for name, value in image.items() if not fits(meta.columns[name], value)]
        if odd:
            raise _fault(f"{line.table} {bytes(line.pk).decode()}: {odd[0]!r} is no {meta.columns[odd[0]]}")

    def _check_key(self, table: str, pk: msgspec.Raw | bytes) -> dict[str, msgspec.Raw]:
        meta = self._metas.get(table)
        if meta is None:
            raise _fault(f"table {table!r} is not among those that it begins with")
        key: dict[str, msgspec.Raw] = _fields.decode(pk)
        if key.keys() != set(meta.pk) or _NULL in key.values():
            raise _fault(f"{table}: {bytes(pk).decode()} is no key")
        return key

    def _check_conflict(self, line: ConflictLine) -> None:
        self._check_key(line.table_name, line.pk.encode())
        Kind(line.kind)
        Winner(line.winner)
        for text in (line.our_version, line.their_version, line.their_base):
            _check_version(line.table_name, None if text is None else _version.decode(text))
        for meta in (line.our_meta, line.their_meta):
            meta_of(meta)
        for image in (line.our_image, line.their_image):
            if image is not None:
                _fields.decode(image)


def _check_letter(line: LetterLine) -> None:
    LsnSet.parse(line.applied_lsns)
    body = None if line.body is None else decompress(line.body, "zstd", UNBOUNDED)
    # What is dead may be anything; what is early is a batch that is tried again and again.
    if line.state == "early" and body is not None and any(isinstance(one, Broken) for one in parts_in(body)):
        raise _fault(f"{line.tx_id}: an early letter that is torn")


@cache
def _between_rows(kind: str) -> None:
    if Kind(kind) not in BETWEEN_ROWS:
        raise _fault(f"{kind!r} is no reason to step back")


def _check_version(table: str, version: Version | None) -> None:
    if version is None or version == NEVER:
        return
    is_one = 0 <= version.main_epoch <= MOST_EPOCH and 0 <= version.hlc < YEAR_2200_US
    if not is_one or not NODE_ID.match(version.node_id):
        raise _fault(f"{table}: {list(version)} is no version")


def _fault(what: str) -> PoisonError:
    return PoisonError(Reason.FORMAT, what)
