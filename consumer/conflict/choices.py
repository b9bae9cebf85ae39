"""What a row's choices and waiting changes say of a change that comes in: kept per row, read once a call.

A choice is a write that names the versions it settles (`resolves`). Whoever made it had seen these, whatever the
versions themselves say; so they are late where they come after it."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import sqlalchemy as sa

from common.schema import tables as rf
from common.versions import NEVER, Version
from common.wire.records import Change, TableMeta
from consumer.conflict.detect import has_seen
from consumer.conflict.record import BETWEEN_ROWS, Kind, State, meta_of, read_version, version_text
from consumer.statements import insert_many, keyed

_COLUMNS = ("table_name", "row_key", "node_id", "base", "version", "resolves", "chosen_us")


@dataclass(frozen=True, slots=True)
class Choice:
    """One choice, as its line or this node's own command told it."""

    table: str
    row_key: str
    node_id: str
    base: Version
    """What it was made on top of: the highest of its own row's versions that it settles."""
    version: Version | None
    """None: this node's own, made here. The write by its node on top of `base` is the choice."""
    resolves: frozenset[Version]


@dataclass(slots=True)
class Waiting:
    """A change that waits for a choice, or has waited, or met another and was decided."""

    version: Version
    base: Version | None
    image: bytes | None
    our_image: bytes | None
    meta: TableMeta | None = None
    """Of `image`; None: as the table is here."""
    our_meta: TableMeta | None = None
    our_version: Version | None = None
    """Of what it met; None: it came with this call."""
    is_clash: bool = False
    """With another row, in a unique key: of its own row it was on top."""
    number: int | None = None
    """Its place in `rf_conflict`; None: it came with this call."""
    pk: bytes | None = None
    """The row's key as it is on record there, a JSON object."""


@dataclass(slots=True)
class RowHistory:
    """What is known of one row's conflicts beside its version."""

    choices: list[Choice] = field(default_factory=list)
    waiting: list[Waiting] = field(default_factory=list)

    def knows(self, version: Version) -> bool:
        """Tell whether a choice, or a change that waits, was made by somebody who had seen `version`."""
        return any(version in one.resolves for one in self.choices) or any(
            one.version > version and has_seen(one.base, one.version, version) for one in self.waiting
        )

    def standing_choice(self, version: Version, base: Version) -> Choice | None:
        """Return the choice that the write `version` on top of `base` is; None where it is none."""
        for one in self.choices:
            if one.version == version or (one.version is None and (one.node_id, one.base) == (version.node_id, base)):
                return one
        return None

    def follows_clash(self, change: Change) -> bool:
        """Tell whether the author of `change` had seen a write of this row that waits for a clash with another row."""
        return any(
            one.is_clash and change.version > one.version and has_seen(change.base, change.version, one.version)
            for one in self.waiting
        )

    def choice_of(self, version: Version) -> Choice | None:
        """Return the choice that was made as `version`."""
        return next((one for one in self.choices if one.version == version), None)

    def taken_by(self, change: Change) -> list[Waiting]:
        """Take out and return what need not wait any more once `change` is here: its author had seen it."""
        base = change.base
        done = [
            one
            for one in self.waiting
            if one.version in change.resolves
            or (change.version > one.version and has_seen(base, change.version, one.version))
        ]
        self.waiting = [one for one in self.waiting if one not in done]
        return done


class Histories:
    """The histories of the rows of one call."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection
        self._known: dict[tuple[str, str], RowHistory] = {}

    def of(self, table: str, row_key: str) -> RowHistory:
        """Return a row's history; read now, unless `load` has."""
        if (table, row_key) not in self._known:
            self.load(table, [row_key])
        return self._known[table, row_key]

    def decided(self, table: str, row_key: str) -> list[Waiting]:
        """Return a row's conflicts that are settled; read anew each time."""
        stored = rf.conflict.c
        query = sa.select(rf.conflict).where(
            stored.table_name == table,
            stored.row_key == row_key,
            stored.state == State.SETTLED.value,
            stored.kind.not_in([kind.value for kind in BETWEEN_ROWS]),
        )
        return [_waiting(row) for row in self._connection.execute(query.order_by(stored.id)).mappings()]

    def load(self, table: str, row_keys: Sequence[str]) -> None:
        """Read the histories of some rows at once."""
        missing = [key for key in dict.fromkeys(row_keys) if (table, key) not in self._known]
        if not missing:
            return
        self._known |= {(table, key): RowHistory() for key in missing}
        for choice in known_choices(self._connection, table, missing):
            self._known[table, choice.row_key].choices.append(choice)
        for key, waiting in waiting_changes(self._connection, table, missing):
            self._known[table, key].waiting.append(waiting)


def known_choices(connection: sa.Connection, table: str, row_keys: Sequence[str]) -> list[Choice]:
    """Return the choices that are known of these rows."""
    stored = rf.choice
    query = sa.select(
        stored.c.table_name, stored.c.row_key, stored.c.node_id, stored.c.base, stored.c.version, stored.c.resolves
    ).where(keyed(connection, stored.c.table_name, table, stored.c.row_key, row_keys))
    return [
        Choice(
            name,
            key,
            node_id,
            read_version(base),
            None if version is None else read_version(version),
            frozenset(Version(*one) for one in json.loads(resolves)),
        )
        for name, key, node_id, base, version, resolves in connection.execute(query)
    ]


def waiting_changes(connection: sa.Connection, table: str, row_keys: Sequence[str]) -> list[tuple[str, Waiting]]:
    """Return the changes that wait for a choice, with their row's key."""
    stored = rf.conflict
    query = sa.select(stored).where(
        keyed(connection, stored.c.table_name, table, stored.c.row_key, row_keys), stored.c.state == "waiting"
    )
    return [(str(row["row_key"]), _waiting(row)) for row in connection.execute(query.order_by(stored.c.id)).mappings()]


def _waiting(row: sa.RowMapping) -> Waiting:
    return Waiting(
        version=read_version(row["their_version"]),
        base=None if row["their_base"] is None else read_version(row["their_base"]),
        image=_bytes(row["their_image"]),
        our_image=_bytes(row["our_image"]),
        meta=meta_of(row["their_meta"]),
        our_meta=meta_of(row["our_meta"]),
        our_version=read_version(row["our_version"]),
        is_clash=row["kind"] == Kind.UNIQUE.value,
        number=row["id"],
        pk=_bytes(row["pk"]),
    )


def waiting_clashes(connection: sa.Connection, table: str, versions: Iterable[Version]) -> list[sa.RowMapping]:
    """Return the clashes on record that wait for a choice, of changes with one of these versions."""
    stored = rf.conflict.c
    query = sa.select(rf.conflict).where(
        stored.table_name == table,
        stored.state == State.WAITING.value,
        stored.kind == Kind.UNIQUE.value,
        stored.their_version.in_([version_text(one) for one in versions]),
    )
    return list(connection.execute(query.order_by(stored.id)).mappings())


def base_of_clash(connection: sa.Connection, table: str, row_key: str, version: Version) -> Version | None:
    """Return what a change that waits for another row, or has waited, was made on top of; None where none of this
    version is on record."""
    stored = rf.conflict.c
    query = sa.select(stored.their_base).where(
        stored.table_name == table,
        stored.row_key == row_key,
        stored.kind == Kind.UNIQUE.value,
        stored.their_version == version_text(version),
    )
    found = connection.execute(query.limit(1)).one_or_none()
    return None if found is None else NEVER if found.their_base is None else read_version(found.their_base)


def remember(connection: sa.Connection, choices: Iterable[Choice], now_us: int) -> None:
    """Keep choices, in the transaction that takes them."""
    rows = [
        (
            one.table,
            one.row_key,
            one.node_id,
            version_text(one.base),
            None if one.version is None else version_text(one.version),
            json.dumps(sorted(one.resolves), separators=(",", ":")),
            now_us,
        )
        for one in choices
    ]
    insert_many(connection, rf.choice, _COLUMNS, rows)


def forget(connection: sa.Connection, until_id: int, before_us: int) -> int:
    """Forget choices up to a number that were made before; return how many."""
    stored = rf.choice
    these = stored.c.id <= until_id, stored.c.chosen_us < before_us
    return connection.execute(sa.delete(stored).where(*these)).rowcount


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else text.encode("utf-8")
