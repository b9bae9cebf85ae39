"""Settling conflicts by hand: whose image shall stand, written as this node's own write that reaches everyone.

It names the versions that it settles. A node whose row has one of them takes it without a question, and closes the same
conflict where it still waits."""

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import RowMapping

from common.config.model import Policy
from common.crash_points import CrashPoint, reach
from common.errors import NoValueError, PausedError, PoisonError, Reason, UncapturedError, UsageError
from common.ports.dialect import ApplySession, RowWrite
from common.ports.standing import Proposal
from common.runtime.node import Node
from common.schema import tables as rf
from common.versions import NEVER, Version, counts_from_us, next_hlc
from common.wire.records import TableMeta
from consumer import audit
from consumer.apply.committing import Committing
from consumer.apply.rows import MissingParentError, UnsealedError, check
from consumer.apply.stored_form import stored_form
from consumer.beside import is_beside, show_beside, their_base, waiting_beside, written_beside
from consumer.conflict.choices import Choice, Histories, remember, waiting_clashes
from consumer.conflict.given import Take
from consumer.conflict.policies import comparable
from consumer.conflict.record import (
    BETWEEN_ROWS,
    Kind,
    State,
    Winner,
    meta_of,
    read_version,
    record,
    renew_ours,
    settle,
    written_as,
)
from consumer.met import (
    HeldError,
    Met,
    Settled,
    UnseenError,
    as_came,
    key_as,
    laid_over,
    own_form,
    refuse_forgotten,
    refuse_what_moved_on,
    unseen,
    unseen_undone,
)
from consumer.standing.holding import Cause
from consumer.standing.logical import LogicalSession
from consumer.standing.settle import settle as settle_rows
from consumer.standing.theory import RowId
from consumer.standing.writing import StandingWriter
from consumer.tables import Tables, TableUse, use_of

T = TypeVar("T")

_OPPOSITE = {Winner.OURS: Winner.THEIRS, Winner.THEIRS: Winner.OURS}


class Settling:
    """Settles conflicts of one node, for `actor`."""

    def __init__(self, node: Node, actor: str) -> None:
        self._node = node
        self._actor = actor
        self._tables = Tables(node)
        self._committing = Committing(node)

    def resolve(self, number: int, take: Take, *, displace: bool = False, seen: Version | None = None) -> Settled:
        """Settle a conflict that waits. `displace`: a row that has one of its unique values steps back for it, as it
        does in any case where the conflict is between the two. `seen`: the version that the row here had in what was
        shown to who chooses; None where he does not say.

        Raises UsageError where it does not wait, UnseenError where the row was written again since, PoisonError for a
        row that can't stand."""

        def work(session: ApplySession) -> Settled | UnseenError:
            met = self._meet(session, number)
            if met.stored["kind"] == Kind.UNIQUE:
                return self._settle_clash(session, met, take, seen)
            if met.stored["state"] != State.WAITING:
                ended = met.stored["winner"]
                raise UsageError(
                    f"conflict {number} is settled ({ended}): `rowferry conflicts undo {number}` reverses it"
                )
            if (refusal := _unseen(session, number, met, seen)) is not None:
                return refusal
            image, meta = own_form(met) if take is Winner.OURS else self._wanted(met, take)
            if met.state.version not in met.versions:
                # It was written while the conflict waited: that write is what is kept, or lost on record.
                renew_ours(session.connection, number, met.state.version, *own_form(met))
            return self._choose(session, met, image, meta, take, "resolved", displace=displace)

        ended = self._committed(work)
        if isinstance(ended, UnseenError):
            raise ended
        return ended

    def undo(
        self, number: int, take: Winner | None, *, force: bool, displace: bool = False, seen: Version | None = None
    ) -> Settled:
        """Flip a decision: the other side's image is written again. `take` says which, where it was neither's. `seen`:
        the version that the row had when it was shown to who decides; None where he does not say.

        Raises UnseenError where the row has another one by now, `force` or not, also where that is another choice;
        UsageError where the row was written again since, unless `force`, and where `take` stands already: a form
        that was sent twice must not write twice."""

        def work(session: ApplySession) -> Settled:
            met = self._meet(session, number)
            if self._node.config.tables.policy_for(met.shape.name) is Policy.APPEND_ONLY:
                raise UsageError(
                    f"{met.shape.name} is append-only: its rows can't be changed, not by this command either"
                )
            side = take or self._fallen(session, met)
            if met.stored["state"] == State.WAITING:
                raise UsageError(f"conflict {number} waits: `rowferry conflicts resolve {number} --take ours|theirs`")
            if side is None:
                raise UsageError(
                    f"conflict {number} ended as neither of the two: say which, --take ours or --take theirs"
                )
            if take is not None and take.value == met.stored["winner"] and self._stands(session, met, take):
                raise UsageError(f"conflict {number}: {take.value} already wins, nothing was done")
            image, meta = met.recorded(side)
            if seen is not None and (refusal := unseen_undone(met, image, seen)) is not None:
                raise refusal
            if not force:
                refuse_what_moved_on(met)
            return self._choose(session, met, image, meta, side, "undone", displace=displace)

        return self._committed(work)

    def _fallen(self, session: ApplySession, met: Met) -> Winner | None:
        """Return the side that does not stand: by the row itself, since another node may have flipped the decision."""
        recorded = Winner(met.stored["winner"])
        for side in sorted(_OPPOSITE, key=lambda one: one is not recorded):
            if self._stands(session, met, side):
                return _OPPOSITE[side]
        return _OPPOSITE.get(recorded)

    def _stands(self, session: ApplySession, met: Met, side: Winner) -> bool:
        """Tell whether the row is as one side has it."""
        image, meta = met.recorded(side)
        if image is not None:
            image = stored_form(session, use_of(met.shape, meta), met.pk, image, met.state.key)
        return comparable(image) == comparable(met.now)

    def _settle_clash(self, session: ApplySession, met: Met, take: Take, seen: Version | None) -> Settled | UnseenError:
        """Let one of two rows have their unique value: it is written again, above both, and the other steps back.

        If the row of the waiting change was written meanwhile by somebody who did not know of that change, and the
        choice would overwrite it, the conflict becomes one of these two writes: what is lost stays on record, and a
        choice that says what was seen is refused, since this was not."""
        name, rival = met.shape.name, self._rival(session, met)
        their_version, our_version = read_version(met.stored["their_version"]), read_version(met.stored["our_version"])
        beside = is_beside(session, met)
        if beside and take is not Winner.OURS:
            show_beside(session, met)
            if seen is not None:
                return written_beside(met)
        if rival.now is not None and (refusal := _unseen(session, met.number, rival, seen)) is not None:
            return refusal
        others: list[tuple[TableUse, RowWrite]] = []
        if take is Winner.OURS:
            chosen, (image, meta) = rival, self._as_rival_is(met, rival)
            if beside:
                # As on every other node to which the choice comes: what waits no more for the clash meets that write.
                record(session.connection, [waiting_beside(met)], self._node.clock.now_us())
            elif their_version > met.state.version:
                others = [self._released(met)]
        else:
            chosen = met
            image, meta = met.recorded(Winner.THEIRS) if take is Winner.THEIRS else self._wanted(as_came(met), take)
        settles = tuple(sorted({their_version, our_version, chosen.state.version} - {NEVER}))
        # On top of its own row: what the rival's author had written before says nothing of what was seen of this one.
        base = max(chosen.state.version, our_version if take is Winner.OURS else their_version)
        write = RowWrite(chosen.state.key, key_as(chosen, meta, image), image, base, NEVER)
        use = use_of(met.shape, meta)
        try:
            self._stand(session, use, write, others, settles)
            session.choose(met.shape, meta, write, settles)
            check(session, {use: [write]}, references=self._node.config.tables.foreign_keys == "check")
        except (PoisonError, MissingParentError) as error:
            raise _refusal(error, _not_written(chosen, error), name, take) from error
        also = [one["id"] for one in waiting_clashes(session.connection, name, settles)]
        return self._booked(session, chosen, base, settles, also, _winner(take), "resolved")

    def _as_rival_is(self, met: Met, rival: Met) -> tuple[bytes | None, TableMeta]:
        if rival.now is None:
            raise UsageError(f"the row that had the value when conflict {met.number} came is gone: take theirs")
        return own_form(rival)

    def _rival(self, session: ApplySession, met: Met) -> Met:
        """Return the row that had the value when the other one came, as it is now."""
        image = msgspec.json.decode(str(met.stored["our_image"]), type=dict[str, msgspec.Raw])
        pk = msgspec.json.encode({name: image[name] for name in met.shape.pk})
        (state,) = session.lock(met.shape, met.shape.meta, [pk])
        if session.unsealed(met.shape, [state.key]):
            raise UnsealedError(f"own writes of {met.shape.name} are not sealed yet")
        (now,) = LogicalSession(session).images(met.shape, [pk], met.shape.meta)
        stored = {**met.stored, "pk": pk.decode("utf-8")}
        history = Histories(session.connection).of(met.shape.name, state.key)
        return Met(stored, met.shape, met.shape.meta, state, history, now)

    def _released(self, met: Met) -> tuple[TableUse, RowWrite]:
        """Return the change that waits, as it is written once it waits no more."""
        image, meta = met.recorded(Winner.THEIRS)
        version = read_version(met.stored["their_version"])
        write = RowWrite(met.state.key, met.pk, image, version, their_base(met))
        return use_of(met.shape, meta), write

    def _stand(
        self,
        session: ApplySession,
        use: TableUse,
        write: RowWrite,
        others: Sequence[tuple[TableUse, RowWrite]],
        settles: Sequence[Version],
    ) -> None:
        """Write a row as chosen now, and `others`; whoever is in its way steps back. Raises PoisonError where it can't
        stand all the same."""
        if write.image is None:
            return
        now_us, node_id = self._node.clock.now_us(), self._node.facts.node_id
        writer = StandingWriter(session, self._tables, self._node, now_us)
        sight = writer.sight()
        # What sealing will make of it: above all that it settles.
        from_us = counts_from_us(write.version, settles)
        chosen = Version(write.version.main_epoch, next_hlc(max(now_us, from_us), write.version.hlc), node_id)
        rows: dict[RowId, tuple[TableUse, RowWrite]] = {}
        for of, one in ((use, write), *others):
            (row,) = sight.load(use.name, of.meta, [one.pk])
            (facts,) = sight.look.examine(of.shape, of.meta, [Proposal(one.key, one.pk, one.image or b"")])
            sight.change(row, chosen if one is write else one.version, one.base, facts)
            rows[row] = of, one
        causes = dict.fromkeys(rows, Cause(node_id, "", 0))
        settled = settle_rows(sight, rows)
        if RowId(use.name, write.key) not in settled.standing:
            raise PoisonError(Reason.CONSTRAINT, "what it points to is not here", table=use.name)
        written = writer.carry_out(sight, settled, rows, causes)
        check(session, written, references=self._node.config.tables.foreign_keys == "check")
        record(session.connection, writer.finish(), now_us)

    def _committed(self, work: Callable[[ApplySession], T]) -> T:
        try:
            settled = self._committing.run(work, patiently=True)
        except (PausedError, UncapturedError) as error:
            raise HeldError(error) from error
        # So that the choice is on its way with the next message or export.
        self._committing.seal()
        return settled

    def _meet(self, session: ApplySession, number: int) -> Met:
        stored = _stored(session, number)
        name, pk = str(stored["table_name"]), str(stored["pk"]).encode("utf-8")
        shape = self._tables.shapes().get(name)
        if shape is None:
            raise UsageError(f"conflict {number} is about {name}, which is no longer among the configured tables")
        image = stored["their_image"]
        meta = written_as(meta_of(stored["their_meta"]), None if image is None else image.encode("utf-8"), shape.meta)
        self._tables.use(name, meta)
        (state,) = session.lock(shape, meta, [pk])
        if session.unsealed(shape, [state.key]):
            raise UnsealedError(f"own writes of {name} are not sealed yet")
        # Once more: who settled it while this one waited for the row is seen from here on.
        stored = _stored(session, number)
        (now,) = LogicalSession(session).images(shape, [pk], meta)
        if not state.known and now is None:
            refuse_forgotten(session, name, stored)
        return Met(stored, shape, meta, state, Histories(session.connection).of(name, state.key), now)

    def _wanted(self, met: Met, take: Take) -> tuple[bytes | None, TableMeta]:
        if isinstance(take, Winner):
            return met.recorded(take)
        (row,) = take
        return (None if row is None else laid_over(met, row)), met.shape.meta

    def _choose(
        self,
        session: ApplySession,
        met: Met,
        image: bytes | None,
        meta: TableMeta,
        take: Take,
        action: str,
        *,
        displace: bool,
    ) -> Settled:
        table, key = met.shape.name, met.state.key
        settles = tuple(sorted({*met.versions, met.state.version} - {NEVER}))
        base = settles[-1]
        use = use_of(met.shape, meta)
        own_base = met.state.base if base == met.state.version else NEVER
        write = RowWrite(key, key_as(met, meta, image), image, base, own_base)
        references = self._node.config.tables.foreign_keys == "check"
        try:
            if displace:
                self._stand(session, use, write, [], settles)
            session.choose(met.shape, meta, write, settles)
            check(session, {use: [write]}, references=references)
        except (PoisonError, MissingParentError) as error:
            remedy = _what_helps(error, met.number, action, displace=displace)
            raise _refusal(error, f"{_not_written(met, error)}; {remedy}", table, take) from error
        also = [one.number for one in met.history.waiting if one.version in settles and one.number is not None]
        return self._booked(session, met, base, settles, also, _winner(take), action)

    def _booked(
        self,
        session: ApplySession,
        chosen: Met,
        base: Version,
        settles: tuple[Version, ...],
        also: Iterable[int],
        winner: Winner,
        action: str,
    ) -> Settled:
        """Keep a choice that was written, close its conflict and those that it settles `also`, and tell of it."""
        now_us, table = self._node.clock.now_us(), chosen.shape.name
        choice = Choice(table, chosen.state.key, self._node.facts.node_id, base, None, frozenset(settles))
        remember(session.connection, [choice], now_us)
        closed = [chosen.number, *(number for number in also if number != chosen.number)]
        note = f"{action} by a choice of this node"
        settle(session.connection, closed, winner, by=self._actor, note=note, now_us=now_us)
        pk = msgspec.json.decode(chosen.pk)
        detail = {"conflict": chosen.number, "table": table, "pk": pk, "winner": winner.value}
        detail |= {"resolves": [list(version) for version in settles]}
        reach(CrashPoint.CHOICE_WRITTEN)
        line = audit.Line(action, chosen.stored["source_node"], chosen.stored["tx_id"], self._actor, detail)
        audit.write(session.connection, [line], now_us)
        return Settled(chosen.number, table, pk, winner, settles, tuple(closed))


def _stored(session: ApplySession, number: int) -> RowMapping:
    """Return a conflict as it is on record now. Raises UsageError where there is none that can be decided upon."""
    query = sa.select(rf.conflict).where(rf.conflict.c.id == number)
    stored = session.connection.execute(query).mappings().one_or_none()
    if stored is None:
        raise UsageError(f"{number}: no such conflict; see `rowferry conflicts list`")
    if stored["kind"] in BETWEEN_ROWS and stored["state"] != State.WAITING:
        raise UsageError(f"conflict {number} is between rows ({stored['kind']}): it ends when one of them changes")
    return stored


def _unseen(session: ApplySession, number: int, row: Met, seen: Version | None) -> UnseenError | None:
    """Return the refusal of a choice between what is no more, and let the conflict show what is."""
    refusal = None if seen is None else unseen(number, row, seen)
    if refusal is not None:
        renew_ours(session.connection, number, row.state.version, *own_form(row))
    return refusal


def _not_written(chosen: Met, error: PoisonError | MissingParentError) -> str:
    name, pk = chosen.shape.name, chosen.pk.decode()
    return f"conflict {chosen.number}: {name} {pk} can't be written here, nothing was changed: {error}"


def _what_helps(error: PoisonError | MissingParentError, number: int, action: str, *, displace: bool) -> str:
    """Return what somebody can do whose choice can't stand."""
    if isinstance(error, NoValueError):
        return "choose another image, or give the row with a value there"
    if error.reason is Reason.TYPE:
        return "choose another image, or give the row with a value that the column can hold"
    remedy = "change the row that is in its way first, or choose another image"
    if error.reason is Reason.CONSTRAINT and not displace:
        command = "undo" if action == "undone" else "resolve"
        remedy += "; if that one has its unique value, let it step back:"
        remedy += f" `rowferry conflicts {command} {number} --take … --displace`"
    return remedy


def _refusal(error: PoisonError | MissingParentError, text: str, table: str, take: Take) -> UsageError | PoisonError:
    """Return what is told where a choice can't stand. Values that no such row can have are the chooser's mistake."""
    is_given = not isinstance(take, Winner)
    if is_given and (error.reason is Reason.TYPE or isinstance(error, NoValueError)):
        return UsageError(text)
    return PoisonError(error.reason, text, table=table)


def _winner(take: Take) -> Winner:
    return take if isinstance(take, Winner) else Winner.NEITHER
