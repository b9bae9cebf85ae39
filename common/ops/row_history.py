"""One row's story: what the database knows of it, and what each side of the node does."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import sqlalchemy as sa

from common.clock import to_iso
from common.errors import PoisonError, UsageError
from common.ops.purging import what_is_gone
from common.ports.dialect import Database, NodeFacts, TableShape
from common.ports.row_history import RowAsked, RowEvent
from common.retry import in_transaction
from common.versions import NEVER

_NO_WRITE_US = 1
"""The weakest time: of what was sealed and written by nobody."""

Teller = Callable[[RowAsked], Sequence[RowEvent]]


@dataclass(frozen=True, slots=True)
class RowStory:
    """Everything that this node knows of one row."""

    node: str
    asked: RowAsked
    events: tuple[RowEvent, ...]
    """In the order in which they happened, as far as that is known."""
    gone: tuple[str, ...] = ()
    """What can't be told any more, in sentences."""

    @property
    def known(self) -> bool:
        """Whether there is, or ever was, anything of the row."""
        return self.asked.look.image is not None or self.asked.look.known or bool(self.events)

    @property
    def summary(self) -> list[str]:
        """How the row stands, then what waits, then what can't be told any more, in sentences."""
        return [_stands(self), *dict.fromkeys(one.todo for one in self.events if one.todo), *self.gone]


def named(tables: Mapping[str, TableShape], name: str) -> TableShape:
    """Return the captured table of this name. Raises UsageError."""
    if name not in tables:
        raise UsageError(f"{name}: no table with that name is captured here; `rowferry migrate` lists those that are")
    return tables[name]


def tell(database: Database, node: NodeFacts, table: TableShape, pk: str, tellers: Sequence[Teller]) -> RowStory:
    """Ask the database and all `tellers` about one row. Raises UsageError for what can't be a key of the table."""
    key = key_of(table, pk)
    try:
        look = database.row_history(node).look(table, key)
    except PoisonError as error:
        raise UsageError(f"{pk}: no key of {table.name}: {error}") from error
    asked = RowAsked(table, key, look)
    events = [event for teller in tellers for event in teller(asked)]
    gone = in_transaction(database, lambda connection: _gone(connection, asked))
    return RowStory(node.node_id, asked, tuple(sorted(events, key=lambda one: one.place)), tuple(gone))


def _gone(connection: sa.Connection, asked: RowAsked) -> list[str]:
    found = what_is_gone(connection, ("log", "conflicts", "dead-letters"))
    table = sa.text("SELECT h.hlc FROM rf_horizon h JOIN rf_table t ON t.table_id = h.table_id WHERE t.name = :name")
    hlc = connection.scalar(table, {"name": asked.table.name})
    if hlc is not None and not asked.look.known:
        found.append(
            f"deletes in {asked.table.name} up to {to_iso(hlc)} are forgotten (limits.tombstone_days): this row may"
            " have been one of them"
        )
    return found


def key_of(shape: TableShape, given: str) -> bytes:
    """Return a key as JSON in the order of the table's primary key. Raises UsageError."""
    if given.lstrip().startswith("{"):
        try:
            found = msgspec.json.decode(given)
        except msgspec.DecodeError as error:
            raise UsageError(f"{given}: not valid JSON: {error}") from error
        if isinstance(found, dict) and found.keys() == set(shape.pk):
            return msgspec.json.encode({name: found[name] for name in shape.pk})
    if len(shape.pk) > 1 or given.lstrip().startswith("{"):
        example = json.dumps(dict.fromkeys(shape.pk, "…"), ensure_ascii=False)
        raise UsageError(f"{given}: the key of {shape.name} is a JSON object like '{example}'")
    logical = next(column.logical for column in shape.columns if column.name == shape.pk[0])
    return msgspec.json.encode({shape.pk[0]: _value(shape, logical, given)})


def _value(shape: TableShape, logical: str, given: str) -> Any:
    """A value as the wire has it."""
    try:
        match logical:
            case "int":
                return int(given)
            case "float":
                return float(given) if given not in ("NaN", "Infinity", "-Infinity") else given
            case "bool":
                return {"true": True, "false": False}[given.lower()]
            case _:
                return given
    except (ValueError, KeyError) as error:
        raise UsageError(f"{given}: the key of {shape.name} is of type {logical}") from error


def _stands(story: RowStory) -> str:
    look, name = story.asked.look, f"{story.asked.table.name} {story.asked.pk.decode()}"
    if not story.known:
        return (
            f"Nothing is known of {name} on {story.node}: no row, no version, and no change in the log, in the dead "
            "letters or among the conflicts"
        )
    aside = any(one.event == "stepped-back" for one in story.events)
    if look.captured and (look.image is not None or not aside):
        # What the record of versions says is older: the sealer has not been here yet.
        how = "was deleted" if look.image is None else "is as it was written"
        return (
            f"{name} {how} by this node at {to_iso(max(one.at_us for one in look.captured))}, which is not sealed yet"
        )
    if look.image is None and not look.known:
        return f"{name} is not here and never was"
    if look.version == NEVER:
        return f"{name} is as it was before the first migrate: nobody has written it since"
    who = "this node" if look.version.node_id == story.node else look.version.node_id
    when = f"{who} at {to_iso(look.version.hlc)}"
    if look.version.hlc <= _NO_WRITE_US and look.image is not None:
        return f"{name} is as {who} has it: it was written before capture saw it, at an unknown time"
    if aside:
        return f"{name} was written by {when} and has stepped back"
    if look.deleted:
        return f"{name} was deleted by {when}" + ("" if look.image is None else _but("it is here"))
    return f"{name} is as it was written by {when}" if look.image is not None else f"{name} is gone{_but(when)}"


def _but(what: str) -> str:
    return f", though nothing was captured that says so ({what}): was capture off? rowferry status"
