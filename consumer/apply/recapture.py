"""Has capture installed at once where a batch finds a table without it; batches of it wait only where that can't be."""

import logging
import time
from collections.abc import Callable

from common.errors import ConfigError, ContentionError, UncapturedError
from common.runtime.node import Node
from common.runtime.recapture import install_anew

log = logging.getLogger(__name__)

_REST_SECONDS = 5.0
"""After a try for a table that was of no use: writers queue behind each, and `run` looks by itself as often. One that
helped is no reason to wait: some tools make a table anew several times a second."""


class RecapturedError(ContentionError):
    """Capture stands again: what was written without it is there to be sealed, so try again at once."""


class Recapture:
    """Belongs to one thread; holds no transaction."""

    def __init__(self, node: Node, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._node = node
        self._monotonic = monotonic
        self._rest_until: dict[str | None, float] = {}

    def mend(self, error: UncapturedError) -> bool:
        """Install capture where it is missing; tell whether it stands now on the table that `error` names.

        Call it when the transaction that met `error` has ended. Raises OutageError."""
        now = self._monotonic()
        if not self._node.config.node.auto_migrate or now < self._rest_until.get(error.table, now):
            return False
        self._rest_until[error.table] = now + _REST_SECONDS
        tables = list(self._node.captured_tables().values())
        capture = self._node.capture()
        try:
            if drifted := capture.drifted(tables):
                install_anew(self._node, tables, drifted)
            helped = error.table in drifted
        except (ContentionError, ConfigError) as why:
            # A right that is missing, or a transaction that holds a table: its batches wait, all others go on.
            log.info("capture_not_installed", extra={"table": error.table, "error": str(why)})
            if error.table in capture.drifted(tables):
                return False
            helped = True
        if helped:
            del self._rest_until[error.table]
        return True
