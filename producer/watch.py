"""Looks whether capture still fits the tables, and installs it anew where a table changed its shape."""

import logging

import sqlalchemy as sa

from common.clock import to_iso
from common.errors import ContentionError, OutageError, RowferryError
from common.ops.pausing import paused_tables
from common.ports.dialect import TableShape
from common.runtime.node import Node
from common.runtime.recapture import install_anew
from common.visible import resume_command

log = logging.getLogger(__name__)


class CaptureWatch:
    """Notices drifted tables and, with `[node] auto_migrate`, mends them. The rest it says once while it lasts."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._said: set[str] = set()
        self._seen: set[str] = set()
        """By the look that goes on."""

    def look(self) -> list[str]:
        """Look once; return the tables whose capture didn't fit. Raises OutageError and ContentionError.

        Whatever else goes wrong is said and no more: the other tables are sealed on."""
        self._seen = set()
        drifted = self._look_and_tell()
        self._said = self._seen
        return drifted

    def _look_and_tell(self) -> list[str]:
        try:
            return self._look()
        except (OutageError, ContentionError):
            raise
        except RowferryError as error:
            self._say(f"capture could not be looked after: {error}")
        except sa.exc.SQLAlchemyError as error:
            known = self._node.database.translate(error)
            if isinstance(known, OutageError | ContentionError):
                raise known from error
            self._say(f"capture could not be looked after: {known}")
        return []

    def _look(self) -> list[str]:
        tables = self._captured()
        for name, since_us in paused_tables(self._node.database).items():
            self._say(
                f"{name} has been paused since {to_iso(since_us)}: run `{resume_command(name)}` when the work is done"
            )
        capture = self._node.capture()
        drifted = capture.drifted(tables)
        if drifted and self._node.config.node.auto_migrate:
            self._install(tables, drifted)
        elif drifted:
            self._say(
                f"capture no longer fits {', '.join(drifted)}: their changes may be missed; run `rowferry migrate`, "
                "or set node.auto_migrate"
            )
        return drifted

    def _install(self, tables: list[TableShape], drifted: list[str]) -> None:
        try:
            install_anew(self._node, tables, drifted)
        except ContentionError as error:
            # No second try before the next look: sealing must not wait for it, and writers queue behind each.
            self._say(f"capture waits for its turn on {', '.join(drifted)}: {error}")

    def _captured(self) -> list[TableShape]:
        """Return the configured tables that can be captured; name those that can't."""
        catalog, chosen = self._node.database.catalog(), self._node.config.tables
        keyless = [name for name in catalog.keyless if chosen.wants(name)]
        if keyless:
            self._say(f"not captured, for want of a primary key: {', '.join(keyless)}; add one, or exclude them")
        missing = [name for name in chosen.include if name not in ("*", *catalog.tables, *catalog.keyless)]
        if missing:
            self._say(f"tables.include names what is not in the database: {', '.join(missing)}")
        return [shape for name, shape in catalog.tables.items() if chosen.wants(name)]

    def _say(self, problem: str) -> None:
        self._seen.add(problem)
        if problem not in self._said:
            log.error("capture.incomplete", extra={"problem": problem})
