"""Keys and images of one table as one header describes it: names and kinds of values, looked at all at once."""

from collections.abc import Callable
from operator import attrgetter
from typing import Any

from common.wire.kinds import has_odd_names, is_double, kind_of, object_decoder, vanishes
from common.wire.records import TableMeta

_Getter = Callable[[Any], Any]
_WRAPPED = b'"$float"'


class RowForm:
    """Says yes to what is right. What it does not say yes to may be right too, and wants a closer look.

    Every column is there and no other, each value of its column's kind, no part of the key NULL, and the key's values
    in the image are those of the key."""

    def __init__(self, meta: TableMeta) -> None:
        """`meta`: without odd names, see `row_form`."""
        fields = {name: f"f{place}" for place, name in enumerate(meta.columns)}
        key = {name: fields[name] for name in meta.pk}
        kinds = {name: kind_of(logical) for name, logical in meta.columns.items()}
        self._key_kinds = None
        if any(meta.columns[name] == "bytes" for name in key):
            # Two spellings of the same bytes are not taken for one key here: compared as text, looked at by themselves.
            self._key_kinds = object_decoder(kinds, key)
            kinds |= {name: kind_of("text") for name in key if meta.columns[name] == "bytes"}
        self._key = object_decoder(kinds, key)
        self._image = object_decoder(kinds, fields)
        self._key_of = attrgetter(*key.values())
        self._is_single = len(key) == 1
        self._key_floats = _getter([fields[name] for name in key if meta.columns[name] == "float"])
        self._floats = _getter([fields[name] for name, logical in meta.columns.items() if logical == "float"])

    def holds(self, pk: bytes, image: bytes | None) -> bool:
        """Tell whether key and image are right. `image`: None for a row that is gone.

        Raises one of `UNREADABLE` where they do not even look so, or a value is not of its kind."""
        named = self._key.decode(pk)
        key: Any = self._key_of(named)
        if key is None if self._is_single else None in key:
            return False
        if self._key_kinds is not None:
            self._key_kinds.decode(pk)
        if image is None:
            return self._keeps_floats(self._key_floats, named, pk)
        row = self._image.decode(image)
        if self._key_of(row) != key:
            return False
        if self._floats is None and _WRAPPED not in image:
            return True
        return self._keeps_floats(self._key_floats, named, pk) and self._keeps_floats(self._floats, row, image)

    @staticmethod
    def _keeps_floats(floats: _Getter | None, decoded: Any, json: bytes) -> bool:
        """Tell whether every number that is to be a float is one."""
        values = floats(decoded) if floats is not None else ()
        if not all(map(is_double, values)):
            return False
        return (0 not in values and _WRAPPED not in json) or not vanishes(json)


def _getter(fields: list[str]) -> _Getter | None:
    # Of one name alone it would be no tuple.
    return attrgetter(*fields, fields[0]) if fields else None


def row_form(meta: TableMeta) -> RowForm | None:
    """Return the form of a table's rows; None where it has names for which msgspec makes no decoder."""
    return None if has_odd_names(meta.columns) else RowForm(meta)
