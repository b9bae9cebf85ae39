"""A conflict on record beside its row as it stands now: what a person decides on."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import sqlalchemy as sa

from common.errors import EarlyError, PausedError, UncapturedError, UsageError
from common.ports.dialect import ApplySession, RowState, TableShape
from common.versions import Version
from common.wire.records import TableMeta
from consumer.conflict.choices import RowHistory
from consumer.conflict.given import GivenError, in_wire_form
from consumer.conflict.record import State, Winner, image_names, meta_of, read_version, version_text, written_as
from consumer.horizon import Horizons

_MOST_NAMED = 5
_LONGEST_VALUE = 60


@dataclass(frozen=True, slots=True)
class Met:
    """One conflict on record, beside its row as it stands now."""

    stored: Mapping[Any, Any]
    shape: TableShape
    meta: TableMeta
    """How the key is written."""
    state: RowState
    history: RowHistory
    now: bytes | None
    """The row as it stands, written as the table is here."""

    @property
    def number(self) -> int:
        return int(self.stored["id"])

    @property
    def pk(self) -> bytes:
        return str(self.stored["pk"]).encode("utf-8")

    @property
    def versions(self) -> tuple[Version, Version]:
        """Ours and theirs as they met."""
        return read_version(self.stored["our_version"]), read_version(self.stored["their_version"])

    def recorded(self, side: Winner) -> tuple[bytes | None, TableMeta]:
        """Return the image of a side as it was when they met, and how it is written."""
        name = {Winner.OURS: "our", Winner.THEIRS: "their"}[side]
        text = self.stored[f"{name}_image"]
        image = None if text is None else str(text).encode("utf-8")
        gone = sorted(image_names(image) - self.shape.meta.columns.keys())
        if gone:
            raise UsageError(
                f"the row of conflict {self.number} has a value for {gone[0]!r}, and {self.shape.name} has no such"
                " column any more: a conflict that waits takes a row that you give as JSON, else write the row"
            )
        return image, written_as(meta_of(self.stored[f"{name}_meta"]), image, self.shape.meta)


class UnseenError(UsageError):
    """The row is not what was shown to the person who chose. The conflict shows it as it is from here on."""


class HeldError(EarlyError):
    """The row takes no choice for now. Unlike a batch a choice does not wait: whoever made it makes it again."""

    def __init__(self, held: PausedError | UncapturedError) -> None:
        super().__init__(
            f"nothing was done: {held.found}, and a choice might overwrite what was written. Choose again after"
            f" {held.remedy}"
        )
        self.reason, self.table = held.reason, held.table


@dataclass(frozen=True, slots=True)
class Settled:
    """What a decision came to."""

    number: int
    table: str
    pk: Any
    winner: Winner
    settles: tuple[Version, ...]
    closed: tuple[int, ...]
    """The conflicts of this row that no longer wait, this one among them."""

    def as_dict(self) -> dict[str, Any]:
        """Return it as `--json` prints it."""
        return {
            "id": self.number,
            "table": self.table,
            "pk": self.pk,
            "state": State.SETTLED.value,
            "winner": self.winner.value,
            "resolves": [list(version) for version in self.settles],
            "closed": list(self.closed),
        }


def own_form(met: Met) -> tuple[bytes | None, TableMeta]:
    """Return the row as it stands, and how it is written."""
    return met.now, met.shape.meta


def as_came(met: Met) -> Met:
    """Return what waits for a clash as if it stood: columns that are not given are as it has them."""
    image, _ = met.recorded(Winner.THEIRS)
    return replace(met, now=image)


def unseen(number: int, row: Met, seen: Version) -> UnseenError | None:
    """Return the refusal of a choice that was made before `row` was written again; None where nothing was missed.

    `seen`: the version that the row had in what was shown."""
    if row.state.version == seen:
        return None
    text = _written_again(number, row, row.stored["our_image"])
    return UnseenError(f"{text}. It shows the row as it is now: look at it again")


def unseen_undone(met: Met, wanted: bytes | None, seen: Version) -> UnseenError | None:
    """Return the refusal of undoing a decision on a row that was written again, also by another choice, since it was
    shown; None where nothing was missed. `wanted`: what would be written in its place."""
    if met.state.version == seen:
        return None
    text = _written_again(met.number, met, None if wanted is None else wanted.decode("utf-8"))
    return UnseenError(f"{text}: look at it again")


def _written_again(number: int, row: Met, was: str | None) -> str:
    who = f" by {row.state.version.node_id}" if row.state.version.node_id else ""
    return (
        f"nothing was done: {row.shape.name} {row.pk.decode()} was written again{who} since conflict {number} was shown"
        f" ({what_changed(was, row.now)})"
    )


def what_changed(text: str | None, image: bytes | None) -> str:
    """Say in what a row differs from what was on record of it."""
    if image is None or text is None:
        return "it is deleted" if image is None else "it is there again"
    was, now = (msgspec.json.decode(one, type=dict[str, msgspec.Raw]) for one in (text, image))
    changed = [name for name in now if name not in was or bytes(was[name]) != bytes(now[name])]
    told = [f"{name}: {_short(was.get(name))}, now {_short(now[name])}" for name in changed[:_MOST_NAMED]]
    return ", ".join(told + ["…"] * (len(changed) > _MOST_NAMED)) or "its values are the same"


def _short(value: msgspec.Raw | None) -> str:
    text = "nothing" if value is None else bytes(value).decode("utf-8")
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}…"


def refuse_what_moved_on(met: Met) -> None:
    """A decision is flipped as long as what it left stands; a later write is more than that decision."""
    ours, theirs = met.versions
    standing = met.history.standing_choice(met.state.version, met.state.base)
    if met.state.version in (ours, theirs) or (standing and {ours, theirs} & standing.resolves):
        return
    raise UsageError(
        f"the row was written again since, as {version_text(met.state.version)}: `rowferry conflicts show {met.number}`"
        f" has both images; `rowferry conflicts undo {met.number} --force` writes the other one in place of what"
        " stands now"
    )


def refuse_forgotten(session: ApplySession, table: str, stored: sa.RowMapping) -> None:
    """A row that was deleted after its conflict, so long ago that nothing else tells of it, is not brought back."""
    latest = max(read_version(stored["our_version"]), read_version(stored["their_version"]))
    if Horizons(session.connection).is_beyond(table, latest):
        raise UsageError(
            f"the row of conflict {stored['id']} is not here, and deletes from after it are forgotten by now: it may"
            f" have been deleted since. If it should be there, insert it into {table} again"
        )


def laid_over(met: Met, row: dict[str, Any]) -> bytes:
    """Return a whole image: what `row` names, and the rest as it stands now."""
    columns = list(met.shape.meta.columns)
    unknown = sorted(row.keys() - set(columns))
    if unknown:
        raise GivenError(f"take: {met.shape.name} has no column {unknown[0]!r}; it has {', '.join(columns)}")
    now = {} if met.now is None else msgspec.json.decode(met.now)
    pk = msgspec.json.decode(met.pk)
    given = in_wire_form(row, met.shape.meta.columns)
    if any(given.get(name, pk[name]) != pk[name] for name in pk):
        raise GivenError("take: the key can't be changed: a choice is about one row")
    whole = {**now, **given, **pk}
    missing = [name for name in columns if name not in whole]
    if missing:
        raise GivenError(f"take: there is no row to take {missing[0]!r} from: name every column")
    return msgspec.json.encode({name: whole[name] for name in columns})


def key_as(met: Met, meta: TableMeta, image: bytes | None) -> bytes:
    """Return the key as `meta` writes it: as the conflict has it, unless its columns are of other types there."""
    if image is None or all(met.meta.columns[name] == meta.columns[name] for name in meta.pk):
        return met.pk
    values = msgspec.json.decode(image, type=dict[str, msgspec.Raw])
    return msgspec.json.encode({name: values[name] for name in meta.pk})
