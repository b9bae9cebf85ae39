"""The error tree, named by the decision an error calls for, and the closed list of reasons."""

from enum import StrEnum

from common.visible import resume_command


class Reason(StrEnum):
    """Why a tx was set aside. Headers, tables, the API and the docs share this list."""

    FORMAT = "format"
    CHECKSUM = "checksum"
    LIMIT = "limit"
    REQUIRES = "requires"
    SOURCE = "source"
    UNSIGNED = "unsigned"
    UNKNOWN_KEY = "unknown-key"
    BAD_SIGNATURE = "bad-signature"
    VERSION = "version"
    CONTENT = "content"
    UNKNOWN_TABLE = "unknown-table"
    UNKNOWN_COLUMN = "unknown-column"
    TYPE = "type"
    CONSTRAINT = "constraint"
    FOREIGN_KEY = "foreign-key"
    POLICY = "policy"
    DDL = "ddl"
    NULL_KEY = "null-key"
    RIGHTS = "rights"
    CRASH = "crash"
    FORKED = "forked"
    OLDER_THAN_TOMBSTONES = "older-than-tombstones"
    PAUSED = "paused"
    UNCAPTURED = "uncaptured"


class RowferryError(Exception):
    """Base of all errors that Rowferry raises on purpose. The message names the place and the remedy."""


class ConfigError(RowferryError):
    """A setting is missing or wrong: nothing was started."""


class AccountError(ConfigError):
    """The database account lacks a right without which nothing is applied: no fault of a tx, all wait for a GRANT."""


class UsageError(RowferryError):
    """The command line asks for something that can't be."""


class ReopenNodeError(RowferryError):
    """What a node was opened with is no longer true (its incarnation, its server): open it anew, then go on."""


class IncarnationEndedError(ReopenNodeError):
    """Another process has given the node a new incarnation: nothing more is sealed under the one of before."""

    def __init__(self, incarnation: str) -> None:
        super().__init__(
            f"incarnation {incarnation} of this node has ended: a new incarnation has started since (by `rejoin`, "
            "or because the database was restored); run this again"
        )


class OutageError(RowferryError):
    """A database, broker or folder is out of reach: wait and try again, dead-letter nothing."""


class StoppingError(OutageError):
    """The node stops in the middle of long work: what is not committed comes again. Not an outage to be told of."""


class ContentionError(RowferryError):
    """Somebody else held the rows (lock timeout, deadlock, serialization): roll back and try again at once."""


class EarlyError(RowferryError):
    """What the tx needs is not here yet, most often a row that it points to: try again later, up to a limit."""

    reason = Reason.FOREIGN_KEY
    table: str | None = None
    """The table whose rows may end the wait."""


class RightsError(EarlyError):
    """The database account may not do this to a table: that table waits for a GRANT, everything else goes on."""

    reason = Reason.RIGHTS

    def __init__(self, message: str, *, table: str) -> None:
        super().__init__(message)
        self.table = table


class PausedError(EarlyError):
    """A row of a paused table that its owner has written meanwhile: what comes for it waits for `resume`."""

    reason = Reason.PAUSED

    def __init__(self, table: str, key: str) -> None:
        self.found = f"{table} {key} was written while {table} is paused"
        self.remedy = f"`{resume_command(table)}`"
        super().__init__(f"{self.found}: this waits for {self.remedy}, otherwise it would overwrite what was written")
        self.table = table


class UncapturedError(EarlyError):
    """A table that was captured has lost its triggers, most often because it was made anew under its name: what was
    written to it since is not known, and nothing may be written over it before capture is installed again."""

    reason = Reason.UNCAPTURED

    def __init__(self, table: str) -> None:
        self.found = f"{table} is not captured for now (it was recreated, or its triggers were removed)"
        self.remedy = "`rowferry migrate` or `rowferry run` with node.auto_migrate"
        super().__init__(f"{self.found}: this waits for {self.remedy}, otherwise it might overwrite what was written")
        self.table = table


_MOST_CHARACTERS = 2_000
_OF_THE_END = 400


def _readable(message: str) -> str:
    """Return a message with no more of a value in it than a person reads: that may be megabytes. What is wrong with
    it stands at the one end or the other."""
    if len(message) <= _MOST_CHARACTERS:
        return message
    return f"{message[: _MOST_CHARACTERS - _OF_THE_END]} … {message[-_OF_THE_END:]}"


class PoisonError(RowferryError):
    """A tx that can't be applied, however often it is tried: a dead letter with its reason."""

    def __init__(self, reason: Reason, message: str, *, table: str | None = None) -> None:
        super().__init__(_readable(message))
        self.reason = reason
        self.table = table


class NoValueError(PoisonError):
    """A column that may not be empty got no value. `column` is its name; None where the database does not tell."""

    def __init__(self, message: str, *, table: str | None, column: str | None) -> None:
        super().__init__(Reason.CONSTRAINT, message, table=table)
        self.column = column


class PreflightError(RowferryError):
    """Input was refused before its first row was written (exit code 3)."""
