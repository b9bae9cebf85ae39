"""What a plain change of one table looks like: all its columns, its key, in one look each."""

from operator import attrgetter
from typing import Any

from common.config.model import Policy
from common.wire.kinds import has_odd_names, kind_of, object_decoder
from consumer.tables import TableUse

_PLAIN_POLICIES = frozenset({Policy.LWW, Policy.MAIN_WINS})


class Form:
    """Checks the keys and images of one table as one kind of sender describes it: names and kinds of values at once."""

    def __init__(self, use: TableUse, policy: Policy) -> None:
        self.use = use
        has_all = use.column_names == {one.name for one in use.shape.written}
        self.is_plain = policy in _PLAIN_POLICIES and has_all and not has_odd_names(use.meta.columns)
        """Else nothing of this table is: its rows may wait for a choice, or keep columns that the sender has not, or it
        has names for which msgspec makes no decoder."""
        if not self.is_plain:
            return
        fields = {name: f"f{place}" for place, name in enumerate(use.meta.columns)}
        key = {name: fields[name] for name in use.meta.pk}
        kinds = {name: kind_of(logical) for name, logical in use.meta.columns.items()}
        self._key_kinds = None
        if any(use.meta.columns[name] == "bytes" for name in key):
            # Two spellings of the same bytes are no one key on the long way: compared as text, looked at by themselves.
            self._key_kinds = object_decoder(kinds, key)
            kinds |= {name: kind_of("text") for name in key if use.meta.columns[name] == "bytes"}
        self._key = object_decoder(kinds, key)
        self._image = object_decoder(kinds, fields)
        self._key_of = attrgetter(*key.values())
        self._is_single = len(key) == 1

    def holds(self, pk: bytes, image: bytes | None) -> bool:
        """Tell whether the key names just the key's columns, none of them NULL, and the image all columns, the key's
        the same as in the key. Raises one of `UNREADABLE` where it does not even look so, or a value is not of its
        kind."""
        key: Any = self._key_of(self._key.decode(pk))
        if key is None if self._is_single else None in key:
            return False
        if self._key_kinds is not None:
            self._key_kinds.decode(pk)
        return image is None or bool(self._key_of(self._image.decode(image)) == key)
