"""What a plain change of one table looks like: all its columns, its key, in one look each."""

import re
from operator import attrgetter
from typing import Any

import msgspec

from common.config.model import Policy
from consumer.tables import TableUse

_NULL = msgspec.Raw(b"null")
_ESCAPED = re.compile(r'["\\\x00-\x1f]')
"""In a name: what JSON would escape."""
_PLAIN_POLICIES = frozenset({Policy.LWW, Policy.MAIN_WINS})


class Form:
    """Checks the keys and images of one table as one kind of sender describes it."""

    def __init__(self, use: TableUse, policy: Policy) -> None:
        self.use = use
        has_all = use.column_names == {one.name for one in use.shape.written}
        self.is_plain = policy in _PLAIN_POLICIES and has_all and not any(map(_ESCAPED.search, use.column_names))
        """Else nothing of this table is: its rows may wait for a choice, or keep columns that the sender has not, or it
        has names for which msgspec makes no decoder."""
        if not self.is_plain:
            return
        fields = {name: f"f{place}" for place, name in enumerate(use.meta.columns)}
        key = {name: fields[name] for name in use.meta.pk}
        self._key = _decoder("Key", key)
        self._image = _decoder("Image", fields)
        self._key_of = attrgetter(*key.values())
        self._is_single = len(key) == 1

    def holds(self, pk: bytes, image: bytes | None) -> bool:
        """Tell whether the key names just the key's columns, none of them NULL, and the image all columns, the key's
        written as in the key. Raises msgspec.DecodeError where it does not even look so."""
        key: Any = self._key_of(self._key.decode(pk))
        if key == _NULL if self._is_single else _NULL in key:
            return False
        return image is None or bool(self._key_of(self._image.decode(image)) == key)


def _decoder(name: str, fields: dict[str, str]) -> "msgspec.json.Decoder[Any]":
    renamed = {field: column for column, field in fields.items()}
    made = msgspec.defstruct(
        name, [(field, msgspec.Raw) for field in renamed], rename=renamed, forbid_unknown_fields=True, gc=False
    )
    return msgspec.json.Decoder(made)
