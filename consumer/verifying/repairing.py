"""Sends rows that differ once more, with their versions: the higher one of the two, there or here.

Who receives a row decides about it as about any write that comes in; so nothing lower overwrites anything, and doing it
twice changes nothing."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

from common.errors import ConfigError, Reason
from common.runtime.node import Node
from common.transports.http.client import PeerClient, RefusedError
from common.wire.digests import MOST_KEYS, Asked, AskedTable, Head, RowLine, encoded
from consumer.verifying.differences import Difference, Kind, State, version_of
from consumer.verifying.sides import Forms, Listed, Side
from consumer.verifying.taking import Outcome, RowTaking, Taken

_ROWS_A_BODY = 5_000
_BODY_BYTES = 4 * 1024 * 1024
_TOO_LONG = "the row is too long to be sent once more"

REPAIRED = frozenset({State.DIFFERENT})
"""What is sent where nobody asks for more."""

Key = tuple[str, bytes]


class Peer(NamedTuple):
    """The other node: how it is asked, and what takes its rows here."""

    node_id: str
    client: PeerClient
    taking: RowTaking


class _Fetched(NamedTuple):
    head: Head
    rows: Mapping[Key, RowLine]


class Repairing:
    """Both ways between this node and one peer. Belongs to one thread; raises OutageError."""

    def __init__(
        self,
        node: Node,
        sides: tuple[Side, Side],
        peer: Peer,
        forms: Forms,
        states: Collection[State],
        advance: Callable[[int], None],
    ) -> None:
        """`sides`: this node's, the peer's. `states`: of the rows that are sent."""
        self._node = node
        self._here, self._there = sides
        self._peer = peer
        self._forms = forms
        self.states = states
        self._advance = advance
        self._refusal: str | None = None
        """Why nothing can be sent to the peer."""

    def repair(self, found: Sequence[Difference]) -> None:
        """Send what differs without a cause, and note at each what became of it."""
        for one in found:
            if one.state not in self.states:
                one.repair = _NOT_TOUCHED[one.state]
        ours = [one for one in found if one.state in self.states]
        for start in range(0, len(ours), MOST_KEYS):
            some = {one.name: one for one in ours[start : start + MOST_KEYS]}
            came = self._pull({key: one for key, one in some.items() if _is_theirs(one)})
            # Of two images under one version the greater one stands: where that is not taken here, it may be there.
            same = {key for key, taken in came.items() if taken.outcome in _NOT_TAKEN and _is_one_version(some[key])}
            went = self._push({key: one for key, one in some.items() if key in same or not _is_theirs(one)})
            # Who is not believed for a row that another wrote can't make it stand there: so what stands there does.
            unheard = {key for key in same if went.get(key, _UNKNOWN).reason == Reason.SOURCE}
            self._pull({key: some[key] for key in unheard}, yields=True)

    def _pull(self, some: Mapping[Key, Difference], *, yields: bool = False) -> dict[Key, Taken]:
        """Take rows of the peer; return what each came to."""
        found: dict[Key, Taken] = {}
        for fetched in self._fetched(self._there, some):
            took = self._peer.taking.take([*fetched.rows.values()], fetched.head.tables, yields=yields)
            for key, taken in zip(fetched.rows, took, strict=True):
                some[key].repair = _told("taken here", taken)
                found[key] = taken
        return found

    def _push(self, some: Mapping[Key, Difference]) -> dict[Key, Taken]:
        """Send rows to the peer; return what each came to there."""
        found: dict[Key, Taken] = {}
        for fetched in self._fetched(self._here, some):
            for keys in _pieces(fetched.rows):
                rows = [fetched.rows[key] for key in keys]
                for key, taken in zip(keys, self._sent(fetched.head, rows), strict=True):
                    some[key].repair = _told(f"sent to {self._peer.node_id}", taken)
                    found[key] = taken
        return found

    def _sent(self, head: Head, rows: Sequence[RowLine]) -> list[Taken]:
        if self._refusal is not None:
            return [Taken(Outcome.REFUSED, self._refusal)] * len(rows)
        try:
            body = b"".join(encoded(head, rows, self._node.config.signer()))
            results = self._peer.client.send_rows(body).results
        except RefusedError as error:
            if error.status == 413:
                return [Taken(Outcome.REFUSED, str(error))] * len(rows)
            self._refusal = str(error)
            return [Taken(Outcome.REFUSED, self._refusal)] * len(rows)
        if len(results) != len(rows):
            raise ConfigError(f"{self._peer.client.url} does not answer as a node does: {len(results)} results")
        return [
            Taken(Outcome(one.outcome) if one.outcome in _OUTCOMES else Outcome.REFUSED, one.why, one.reason)
            for one in results
        ]

    def _fetched(self, side: Side, some: Mapping[Key, Difference]) -> Iterator[_Fetched]:
        """Yield the rows themselves, as many at a time as fit into one answer."""
        left = dict.fromkeys(some)
        while left:
            listed = self._listed(side, list(left))
            rows = {(table, key): line for table, lines in listed.tables.items() for key, line in lines.items()}
            whole = {key: line for key, line in rows.items() if line.image is not None or line.state == "deleted"}
            for key in left.keys() - rows.keys():
                some[key].repair = "gone meanwhile"
            if not whole:
                for key in left.keys() & rows.keys():
                    some[key].repair = _TOO_LONG
                return
            yield _Fetched(listed.head, whole)
            left = {key: None for key in left if key in rows and key not in whole}

    def _listed(self, side: Side, keys: Sequence[Key]) -> Listed:
        by_table: dict[str, list[str]] = {}
        for table, key in keys:
            by_table.setdefault(table, []).append(key.hex())
        tables = {name: AskedTable({**self._forms[name]}, keys=tuple(some)) for name, some in sorted(by_table.items())}
        return side.list(Asked(tables, images=True), self._advance)


_NOT_TAKEN = (Outcome.KEPT, Outcome.REFUSED)
_UNKNOWN = Taken(Outcome.REFUSED)
_OUTCOMES = frozenset(outcome.value for outcome in Outcome)
_NOT_TOUCHED = {
    State.IN_FLIGHT: "left: it is on its way (--overtake sends it all the same)",
    State.EXPLAINED: "left: what waits or was set aside decides it",
    State.BEFORE_FIRST_SYNC: "left: no version says which side is right (rowferry adopt)",
}


def _is_theirs(one: Difference) -> bool:
    """Tell whether the peer's row comes here first: it is higher, or of the same version and there at all."""
    ours, theirs = version_of(one.here), version_of(one.there)
    return theirs > ours or (theirs == ours and one.kind is not Kind.MISSING_THERE)


def _is_one_version(one: Difference) -> bool:
    return version_of(one.here) == version_of(one.there)


def _told(what: str, taken: Taken) -> str:
    match taken.outcome:
        case Outcome.TAKEN:
            return what
        case Outcome.SAME:
            return f"{what}: it was there"
        case _:
            return f"{what}: {taken.outcome.value}: {taken.why}" if taken.why else f"{what}: {taken.outcome.value}"


def _pieces(rows: Mapping[Key, RowLine]) -> Iterator[list[Key]]:
    piece: list[Key] = []
    size = 0
    for key, line in rows.items():
        bytes_ = len(bytes(line.after)) + len(bytes(line.pk))
        if piece and (size + bytes_ > _BODY_BYTES or len(piece) >= _ROWS_A_BODY):
            yield piece
            piece, size = [], 0
        piece.append(key)
        size += bytes_
    if piece:
        yield piece
