"""A dead letter's batch under the names that its tables and columns have here now. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from common.errors import PoisonError, Reason, UsageError
from common.wire.records import BatchHeader, Change, TableMeta

_image = msgspec.json.Decoder(dict[str, msgspec.Raw] | None)


@dataclass(frozen=True, slots=True)
class Renames:
    """What batches call a table, or a column as `TABLE.COLUMN`, and its name here; None: it is left out."""

    names: Mapping[str, str | None]

    @classmethod
    def read(cls, renamed: Iterable[str], left_out: Iterable[str]) -> "Renames":
        """Return what the options say, `OLD=NEW` and `OLD`. Raises UsageError."""
        names: dict[str, str | None] = {}
        for text in renamed:
            old, equals, new = text.partition("=")
            if not (old and equals and new):
                raise UsageError(f"--rename {text}: say OLD=NEW, with a table or TABLE.COLUMN as OLD")
            _add(names, old, new)
        for old in left_out:
            _add(names, old, None)
        return cls(names)

    def concern(self, header: BatchHeader) -> set[str]:
        """Return which of the old names this batch has."""
        return {old for old in self.names if _place(old, header.tables) is not None}

    def apply(self, header: BatchHeader, changes: Sequence[Change]) -> tuple[BatchHeader, list[Change]]:
        """Return header and changes under the new names. Versions, LSNs and values stay as they came.

        Raises PoisonError where they can't have them: two of one name, or a key without one of its columns."""
        tables: dict[str, str | None] = {}
        columns: dict[str, dict[str, str | None]] = {}
        for old, new in self.names.items():
            match _place(old, header.tables):
                case (table, None):
                    tables[table] = new
                case (table, str() as column):
                    columns.setdefault(table, {})[column] = new
        renamed: dict[str, TableMeta] = {}
        for table, meta in header.tables.items():
            name = tables.get(table, table)
            if name is None:
                continue
            if name in renamed:
                raise PoisonError(Reason.UNKNOWN_TABLE, f"two tables of it would be named {name!r}", table=name)
            renamed[name] = _meta(table, meta, columns.get(table, {}))
        kept = [one for one in changes if tables.get(one.table, one.table) is not None]
        return msgspec.structs.replace(header, tables=renamed), [
            _change(one, tables.get(one.table) or one.table, columns.get(one.table, {})) for one in kept
        ]


def _add(names: dict[str, str | None], old: str, new: str | None) -> None:
    if old in names:
        raise UsageError(f"{old} is named twice in --rename and --leave-out")
    names[old] = new


def _place(name: str, tables: Mapping[str, TableMeta]) -> tuple[str, str | None] | None:
    """Return the table, or table and column, that a batch calls so; None where it has neither."""
    if name in tables:
        return name, None
    for table, meta in tables.items():
        column = name.removeprefix(f"{table}.")
        if column != name and column in meta.columns:
            return table, column
    return None


def _meta(table: str, meta: TableMeta, names: Mapping[str, str | None]) -> TableMeta:
    columns: dict[str, str] = {}
    for column, logical in meta.columns.items():
        name = names.get(column, column)
        if name is None:
            if column in meta.pk:
                text = f"{table}.{column} is part of the key: without it no row is known"
                raise PoisonError(Reason.UNKNOWN_COLUMN, text, table=table)
            continue
        if name in columns:
            text = f"two columns of {table} would be named {name!r}"
            raise PoisonError(Reason.UNKNOWN_COLUMN, text, table=table)
        columns[name] = logical
    return TableMeta(pk=tuple(names.get(column) or column for column in meta.pk), columns=columns)


def _change(change: Change, table: str, names: Mapping[str, str | None]) -> Change:
    images = {image: _renamed(getattr(change, image), names) for image in ("pk", "before", "after")} if names else {}
    return msgspec.structs.replace(change, table=table, **images)


def _renamed(image: msgspec.Raw, names: Mapping[str, str | None]) -> msgspec.Raw:
    """Return the object with other names; each value keeps its own bytes."""
    fields = _image.decode(image)
    if fields is None:
        return image
    named = {names.get(name, name): value for name, value in fields.items()}
    return msgspec.Raw(msgspec.json.encode({name: value for name, value in named.items() if name is not None}))
