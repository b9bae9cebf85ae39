"""What each SQLSTATE calls for: one table, by the longest beginning that fits. docs/reference/reasons.md prints it."""

from enum import StrEnum


class Kind(StrEnum):
    """What an error of the server is."""

    OUTAGE = "outage"
    """Nothing of it is the batch's doing: wait, set nothing aside."""
    TRANSIENT = "transient"
    """Somebody was in the way: roll back, try the same again; an outage once that has gone on for 30 seconds."""
    SETUP = "setup"
    """The schema or an account must be mended: told with its remedy, and waited out."""
    TYPE = "type"
    CONSTRAINT = "constraint"
    FOREIGN_KEY = "foreign-key"
    """These three are poison: a dead letter with this reason."""


KINDS: dict[str, tuple[Kind, str]] = {
    "08": (Kind.OUTAGE, "connection lost"),
    "25006": (Kind.OUTAGE, "read-only: a standby, or default_transaction_read_only"),
    "25P03": (Kind.OUTAGE, "the server ended an idle session"),
    "25P04": (Kind.TRANSIENT, "transaction_timeout"),
    "26000": (Kind.OUTAGE, "a prepared statement is gone: a connection pooler is in between"),
    "40": (Kind.TRANSIENT, "serialization failure (40001), deadlock (40P01)"),
    "42P05": (Kind.OUTAGE, "a prepared statement of another session: a connection pooler is in between"),
    "53": (Kind.OUTAGE, "disk full (53100), out of memory (53200), too many connections (53300)"),
    "55006": (Kind.OUTAGE, "the database is in use by DROP or CREATE"),
    "55P03": (Kind.TRANSIENT, "lock_timeout"),
    "57014": (Kind.TRANSIENT, "statement_timeout, or cancelled by somebody"),
    "57P": (Kind.OUTAGE, "shutdown (57P01 to 57P03), database dropped (57P04)"),
    "58": (Kind.OUTAGE, "the server's files"),
    "F0": (Kind.OUTAGE, "the server's configuration file"),
    "XX": (Kind.OUTAGE, "an internal error, damaged data"),
    "28": (Kind.SETUP, "sign-in refused"),
    "3D000": (Kind.SETUP, "no such database"),
    "3F000": (Kind.SETUP, "no such schema"),
    "42501": (Kind.SETUP, "a right is missing"),
    "42P01": (Kind.SETUP, "no such table"),
    "42703": (Kind.SETUP, "no such column"),
    "42883": (Kind.SETUP, "no such function"),
    "55000": (Kind.SETUP, "an object is not in the state that is needed"),
    "22": (Kind.TYPE, "a value that its column can't hold"),
    "42601": (Kind.TYPE, "a text that its type can't read: tsvector, ltree, jsonpath"),
    "42602": (Kind.TYPE, "a name that its type can't read: regclass"),
    "42622": (Kind.TYPE, "a label that is too long for its type: ltree"),
    "42704": (Kind.TYPE, "a name that is not here: regtype, regrole"),
    "54": (Kind.TYPE, "too large for an index or a row, nested too deep"),
    "23503": (Kind.FOREIGN_KEY, "a foreign key of the server's own"),
    "23": (Kind.CONSTRAINT, "NOT NULL, CHECK, UNIQUE, exclusion"),
}
"""Whatever is not here is poison (`constraint`): the server refuses the row for good, and says why."""


def kind_of(state: str) -> Kind:
    """Return the kind of an error by its SQLSTATE."""
    for length in range(len(state), 1, -1):
        found = KINDS.get(state[:length])
        if found is not None:
            return found[0]
    return Kind.CONSTRAINT
