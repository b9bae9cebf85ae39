"""Has capture installed at once where a batch finds a table without it; batches of it wait only where that can't be."""

import logging
import time
from collections.abc import Callable

import sqlalchemy as sa

from common.errors import ContentionError, OutageError, RowferryError, UncapturedError
from common.runtime.node import Node
from common.runtime.recapture import install_anew

log = logging.getLogger(__name__)

_REST_SECONDS = 5.0
"""After a try that was of no use, for all tables and threads: writers queue behind each, and `run` looks by itself as
often. One that helped is no reason to wait: some tools make a table anew several times a second."""


class RecapturedError(ContentionError):
    """Capture stands again: what was written without it is there to be sealed, so try again at once."""


class Recapture:
    """Belongs to one thread; holds no transaction. All of one node take turns, and rest together."""

    def __init__(self, node: Node, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._node = node
        self._rest = node.recapture_rest
        self._monotonic = monotonic
        self._stood_until: dict[str | None, float] = {}
        """So long no second try for a table that was found to be captured, against what its batch had met."""

    def mend(self, error: UncapturedError) -> bool:
        """Install capture where it is missing; tell whether it stands now on the table that `error` names.

        Call it when the transaction that met `error` has ended. Raises OutageError, and nothing else: what goes wrong
        is no fault of the batch."""
        if not self._node.config.node.auto_migrate:
            return False
        with self._rest.turn:
            now = self._monotonic()
            if now < max(self._rest.until, self._stood_until.get(error.table, now)):
                return False
            stands = self._stands_now(error.table)
            if not stands:
                self._rest.until = self._monotonic() + _REST_SECONDS
        return stands

    def _stands_now(self, table: str | None) -> bool:
        try:
            return self._install(table)
        except OutageError:
            raise
        except (RowferryError, sa.exc.SQLAlchemyError) as error:
            known = self._node.database.translate(error) if isinstance(error, sa.exc.SQLAlchemyError) else error
            if isinstance(known, OutageError):
                raise known from error
            log.info("capture_not_installed", extra={"table": table, "error": str(known)})
        return False

    def _install(self, table: str | None) -> bool:
        tables, capture = list(self._node.captured_tables().values()), self._node.capture()
        drifted = capture.drifted(tables)
        if table not in drifted:
            # Another thread, or another process, was faster.
            self._stood_until[table] = self._monotonic() + _REST_SECONDS
            return True
        try:
            install_anew(self._node, tables, drifted)
        except OutageError:
            raise
        except RowferryError as error:
            # A right that is missing, or a transaction that holds a table: its batches wait, all others go on.
            log.info("capture_not_installed", extra={"table": table, "error": str(error)})
            return table not in capture.drifted(tables)
        return True
