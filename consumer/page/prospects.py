"""Which dead letters nothing blocks any more: tried out and taken back, few at a time and not again at once.

A try takes the rows' locks for a moment, on SQLite the database's: a list that looks again by itself must not do that
for each of its letters each time. And whoever holds these locks must not hold up the list: a thread beside it tries."""

import logging
import threading
import time
from collections.abc import Callable, Sequence

from common.errors import ContentionError, OutageError
from common.runtime.node import Node
from consumer.apply.group import Applier
from consumer.dead_letters.loading import load
from consumer.dead_letters.states import LetterState
from consumer.dead_letters.table_store import Letter
from consumer.statements import reading

log = logging.getLogger(__name__)

KEPT_SECONDS = 60.0
"""So long what was seen is told again, on a page that looks again by itself."""
PERSONS_SECONDS = 5.0
"""And to somebody who loads the page."""
AT_ONCE = 10
"""So many letters are tried for one page."""
PATIENCE_SECONDS = 1.0
"""So long a page waits for what is tried; what comes later is told by the next one."""
MOST_CHANGES = 200
"""What holds more is tried on its own page alone."""
_MOST_KEPT = 2_000
_Key = tuple[str, str, int]


class Prospects:
    """What replays would come to, as it was seen lately. Any thread."""

    def __init__(
        self,
        node: Node,
        monotonic: Callable[[], float] = time.monotonic,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        self._node = node
        self._monotonic = monotonic
        self._patience_seconds = patience_seconds
        self._lock = threading.Lock()
        self._seen: dict[_Key, tuple[float, bool]] = {}
        self._tries: threading.Thread | None = None

    def of(self, letters: Sequence[Letter], *, by_person: bool) -> list[bool | None]:
        """Tell of each letter whether a replay would apply it now; None where that is not known.

        Who loads the page wants to know it anew, after having mended what was in the way. Raises nothing: a database
        that is away is told by what the page itself reads."""
        kept_seconds = PERSONS_SECONDS if by_person else KEPT_SECONDS
        wanted = [one for one in letters if _is_tried(one) and self._known(one, kept_seconds) is None][:AT_ONCE]
        if wanted and (tries := self._begin(wanted)) is not None:
            tries.join(self._patience_seconds)
        return [self._known(one, kept_seconds) for one in letters]

    def _begin(self, letters: Sequence[Letter]) -> threading.Thread | None:
        """Try letters in a thread; None while an earlier one still does."""
        with self._lock:
            if self._tries is not None and self._tries.is_alive():
                return None
            self._tries = threading.Thread(target=self._try_all, args=(letters,), name="page-prospects", daemon=True)
            self._tries.start()
            return self._tries

    def _try_all(self, letters: Sequence[Letter]) -> None:
        try:
            for letter in letters:
                self._try(letter)
        except (OutageError, ContentionError) as error:
            # Nothing is told of the rest then: the next page asks again.
            log.debug("prospects.not_tried", extra={"error": str(error)})

    def _try(self, letter: Letter) -> None:
        with reading(self._node.database) as connection:
            tx = load(connection, letter, self._node.config.trust(), replayed_by="nobody")
        is_free = not Applier(self._node).try_out(tx, lambda _: None).outcome.set_aside
        with self._lock:
            if len(self._seen) >= _MOST_KEPT:
                self._seen.clear()
            self._seen[_key(letter)] = self._monotonic(), is_free

    def _known(self, letter: Letter, kept_seconds: float) -> bool | None:
        with self._lock:
            at, is_free = self._seen.get(_key(letter), (-kept_seconds, False))
            is_fresh = _key(letter) in self._seen and self._monotonic() - at < kept_seconds
        return is_free if is_fresh else None


def _is_tried(letter: Letter) -> bool:
    """Tell whether a list tries a letter: what is early is tried again by itself anyway."""
    return letter.state is LetterState.DEAD and letter.changes is not None and letter.changes <= MOST_CHANGES


def _key(letter: Letter) -> _Key:
    """Return what a letter is known by: another try may have come to something else."""
    return letter.source_node, letter.tx_id, letter.last_failed_us
