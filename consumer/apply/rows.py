"""Row changes into one transaction: lock, decide in order of arrival, write the winners once, then check.

Within one call the changes of a key are squashed to its last winner, so a group of many txs costs a few statements
a table.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from common.config.model import Policy
from common.errors import ContentionError, EarlyError, NoValueError, Reason
from common.ports.dialect import ApplySession, BrokenReference, RowState, RowWrite
from consumer.apply.decision import Decision, Entry, Row, Written
from consumer.apply.order import parents_first
from consumer.tables import TableUse


class UnsealedError(ContentionError):
    """This node's own writes of the same rows are committed and not sealed: roll back, seal, try again."""


class MissingParentError(EarlyError):
    """A row points to one that is not here, or that was to be taken away."""

    def __init__(self, broken: BrokenReference, written: str) -> None:
        """`written`: the table whose rows were checked when this was found."""
        is_written = broken.table == written
        missing = "that is not here" if is_written else "that would be gone"
        super().__init__(
            f"{broken.table} {broken.child_pk} points to a row of {broken.parent} {missing}: {broken.detail}"
        )
        self.table = broken.parent if is_written else broken.table


class UnnamedColumnError(EarlyError):
    """A new row has no value for a column that its sender did not know of.

    Its node sends it again once it has the column: then this one is older than what stands. It waits by time alone:
    a table that others write to all the time would have it tried with each of their txs."""

    reason = Reason.CONSTRAINT

    def __init__(self, use: TableUse, column: str) -> None:
        super().__init__(
            f"a new row of {use.name} has no value for {column!r}: it may not be empty here, and the batch has it not"
        )


def decide_rows(session: ApplySession, entries: Sequence[Entry], policy_for: Callable[[str], Policy]) -> Written:
    """Lock the rows of `entries` and decide what stands; counts go to each entry's `counts`. Writes nothing yet."""
    decision = Decision(session, policy_for)
    rows: dict[tuple[str, str], Row] = {}
    states = lock_states(session, entries)
    decision.look_first(entries, [state.key for state in states])
    for entry, state in zip(entries, states, strict=True):
        place = entry.use.name, state.key
        row = rows.get(place)
        if row is None:
            row = rows[place] = Row(state.key, state.version, state.base, state.deleted, state.known, entry)
        decision.decide(entry, row)
    return decision.finish(rows.values())


def write_rows(session: ApplySession, writes: Mapping[TableUse, Sequence[RowWrite]], *, replace: bool = False) -> None:
    """Write what stands. `replace`: see `ApplySession.write`.

    Follow with `check`, when everything of the transaction is written. Raises UnnamedColumnError."""
    for use in parents_first(writes):
        with naming_columns(use):
            session.write(use.shape, use.meta, writes[use], replace=replace)


@contextmanager
def naming_columns(use: TableUse) -> Iterator[None]:
    """Tell a value that the sender left out, since it knows no such column, from one that may not be NULL."""
    try:
        yield
    except NoValueError as error:
        if error.column is None or error.column in use.column_names:
            raise
        raise UnnamedColumnError(use, error.column) from error


def check(session: ApplySession, writes: Mapping[TableUse, Sequence[RowWrite]], *, references: bool) -> None:
    """Look for own writes that slipped in (UnsealedError) and for broken foreign keys (MissingParentError)."""
    for use, rows in writes.items():
        if session.unsealed(use.shape, [row.key for row in rows]):
            raise UnsealedError(f"own writes of {use.name} are not sealed yet")
    if not references:
        return
    for use, rows in writes.items():
        standing = [row for row in rows if row.image is not None and not row.aside]
        gone = [row for row in rows if row.image is None or row.aside]
        broken = session.broken_references(use.shape, use.meta, standing, gone)
        if broken:
            raise MissingParentError(broken[0], use.name)


def lock_states(session: ApplySession, entries: Sequence[Entry]) -> list[RowState]:
    """Lock the rows of `entries`, table by table in order of their names, and return their states in order."""
    pks: dict[TableUse, list[bytes]] = {}
    for entry in entries:
        pks.setdefault(entry.use, []).append(bytes(entry.change.pk))
    states: dict[TableUse, Iterator[RowState]] = {}
    for use in sorted(pks, key=lambda one: one.name):
        keys = list(dict.fromkeys(pks[use]))
        known = dict(zip(keys, session.lock(use.shape, use.meta, keys), strict=True))
        states[use] = map(known.__getitem__, pks[use])
    return [next(states[entry.use]) for entry in entries]
