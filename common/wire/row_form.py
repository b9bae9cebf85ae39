"""Keys and images of one table as one header describes it: names and kinds of values, looked at all at once."""

from operator import attrgetter
from typing import Any

import msgspec

from common.wire.kinds import has_odd_names, kind_of, object_decoder
from common.wire.records import TableMeta


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

    def holds(self, pk: bytes | msgspec.Raw, image: bytes | msgspec.Raw | None) -> bool:
        """Tell whether key and image are right. `image`: None for a row that is gone.

        Raises one of `UNREADABLE` where they do not even look so, or a value is not of its kind."""
        key: Any = self._key_of(self._key.decode(pk))
        if key is None if self._is_single else None in key:
            return False
        if self._key_kinds is not None:
            self._key_kinds.decode(pk)
        return image is None or bool(self._key_of(self._image.decode(image)) == key)


def row_form(meta: TableMeta) -> RowForm | None:
    """Return the form of a table's rows; None where it has names for which msgspec makes no decoder."""
    return None if has_odd_names(meta.columns) else RowForm(meta)
