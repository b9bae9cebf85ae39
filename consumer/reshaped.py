"""Tries again what was set aside because of a table's shape, once capture is installed for another one."""

import json
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from common.errors import PoisonError, Reason
from common.periodic import Periodic
from common.runtime.node import Node
from common.schema import tables as rf
from consumer.apply.group import Applier
from consumer.apply.prepare import Preparer
from consumer.dead_letters.copies import BrokerCopies
from consumer.dead_letters.loading import load
from consumer.dead_letters.states import LetterState
from consumer.dead_letters.table_store import Letter, Selection, find
from consumer.early import EarlyRetries
from consumer.forked import ForkedRetries
from consumer.incoming import Incoming, Result, written_tables
from consumer.main_node import MainNode
from consumer.statements import reading
from consumer.tables import Tables

_UNKNOWN = (Reason.UNKNOWN_TABLE, Reason.UNKNOWN_COLUMN)
_UNFIT = (Reason.TYPE, Reason.CONSTRAINT, Reason.POLICY)
"""A column may have got another type, or may be empty now; a unique key may be gone; a guard stands no more."""
_STILL = (*_UNKNOWN, Reason.POLICY)
"""What is seen before anything is tried."""
_MENDED = (Reason.RIGHTS, Reason.PAUSED, Reason.UNCAPTURED)
"""What `migrate` or `resume` may have ended."""
_FOLLOWED = (*_UNKNOWN, *_UNFIT, Reason.UNCAPTURED)
"""What an installation of capture may have ended."""
_LOOK_SECONDS = 5.0
_COPIES_SECONDS = 60.0
"""So long may the broker have a copy of a letter that was closed in some other way: by a whole copy of its batch, by a
parent that came late, by a command beside `run`."""


@dataclass(frozen=True, slots=True)
class _Installed:
    """Capture was installed anew."""

    at_us: int
    tables: frozenset[str]


class Reshaped:
    """Looks for dead letters that may fit now. Belongs to one thread."""

    def __init__(self, node: Node, stop: threading.Event | None = None) -> None:
        self._node = node
        self._applier = Applier(node, stop=stop)
        self._early = EarlyRetries(node, self._applier.apply)
        self._forked = ForkedRetries(node, self._applier.apply)
        self._trust = node.config.trust()
        self._done_us = 0
        """Up to here installations were followed up."""

    def retry(self) -> list[Result]:
        """Try all again that a table's shape or a missing right may have kept out. For the end of `migrate`."""
        with reading(self._node.database) as connection:
            waiting = [one for reason in _MENDED for one in find(connection, Selection(reason=reason))]
        return self._retry([*self._letters(*_UNKNOWN, *_UNFIT), *waiting])

    def follow_up(self) -> list[Result]:
        """The same, for the tables for which capture was installed after a letter was set aside; and what was parked of
        sources that have begun anew since."""
        return self._after_installations() + self._forked.follow_up()

    def _after_installations(self) -> list[Result]:
        # The letters themselves are read only where there is something to follow up: there may be many.
        failed_us = self._first_failed_us()
        installed = [] if failed_us is None else self._installed(max(self._done_us, failed_us))
        if not installed:
            return []
        letters = self._letters(*_FOLLOWED)
        results = self._retry([letter for letter in letters if self._is_meant(letter, installed)])
        self._done_us = max(one.at_us for one in installed) + 1
        return results

    def _retry(self, letters: Sequence[Letter]) -> list[Result]:
        preparer = Preparer(Tables(self._node), MainNode(self._node))
        results: list[Result] = []
        for letter in letters:
            tx = self._load(letter)
            error = preparer.prepare(tx).error
            if not (isinstance(error, PoisonError) and error.reason in _STILL):
                results += self._applier.apply([tx])
        return results + self._after(results)

    def _after(self, results: Sequence[Result]) -> list[Result]:
        """Try what waits for rows of the tables that were written to, also what has waited too long for them."""
        found: list[Result] = []
        while tables := set(written_tables(results)):
            waiting = [one for one in self._letters(Reason.FOREIGN_KEY) if one.table_name in tables]
            more = [result for letter in waiting for result in self._applier.apply([self._load(letter)])]
            results = [*more, *self._early.after(results)]
            found += results
        return found

    def _is_meant(self, letter: Letter, installed: Sequence[_Installed]) -> bool:
        since = [one.tables for one in installed if one.at_us >= letter.last_failed_us]
        if letter.reason in _UNKNOWN or not since:
            return bool(since)
        header = self._load(letter).header
        return header is not None and not frozenset().union(*since).isdisjoint(header.tables)

    def _letters(self, *reasons: Reason) -> list[Letter]:
        with reading(self._node.database) as connection:
            found = [find(connection, Selection(reason=one.value, state=LetterState.DEAD)) for one in reasons]
        return [letter for letters in found for letter in letters]

    def _first_failed_us(self) -> int | None:
        """Return when the letter failed that failed before all others of its kind; None where there is none."""
        letter = rf.dead_letter.c
        dead = sa.select(letter.last_failed_us).where(letter.state == LetterState.DEAD.value)
        dead = dead.order_by(letter.last_failed_us).limit(1)
        firsts = [dead.where(letter.reason == reason.value).scalar_subquery() for reason in _FOLLOWED]
        with reading(self._node.database) as connection:
            row = connection.execute(sa.select(*firsts)).one()
        return min((one for one in row if one is not None), default=None)

    def _installed(self, since_us: int) -> list[_Installed]:
        """Return what `CaptureWatch` of this node noted, in whichever process it runs."""
        table = rf.audit.c
        # Written out, and no parameter: only so it is seen that the lines have an index of their own.
        is_capture = table.action == sa.literal_column("'capture'")
        query = sa.select(table.at_us, table.detail).where(is_capture, table.at_us >= since_us)
        with reading(self._node.database) as connection:
            rows = connection.execute(query).all()
        return [_Installed(row.at_us, frozenset(json.loads(row.detail)["installed_anew_for"])) for row in rows]

    def _load(self, letter: Letter) -> Incoming:
        with reading(self._node.database) as connection:
            return load(connection, letter, self._trust)


class ReshapedRetries(Periodic):
    """`Reshaped` as a service of `run`."""

    name = "reshaped"

    def __init__(self, node: Node, copies: BrokerCopies | None, stop: threading.Event) -> None:
        super().__init__()
        self._reshaped = Reshaped(node, stop)
        self._copies = copies
        self._copies_due = False
        self._copies_at = 0.0

    def look(self) -> bool:
        """Follow up; True when something was tried again. Raises OutageError."""
        tried = bool(self._reshaped.follow_up())
        self._follow_up_copies(tried)
        self.look_again_in(_LOOK_SECONDS)
        return tried

    def close(self) -> None:
        """Give back the connection to the broker's copies."""
        if self._copies is not None:
            self._copies.close()

    def _follow_up_copies(self, tried: bool) -> None:
        if self._copies is None:
            return
        self._copies_due = self._copies_due or tried
        if not self._copies_due and time.monotonic() < self._copies_at:
            return
        if self._copies_due:
            self._copies.publish_missing()
        self._copies.remove_settled()
        self._copies_due, self._copies_at = False, time.monotonic() + _COPIES_SECONDS
