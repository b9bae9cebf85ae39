"""From the kind of an error to what is done about it: the one table."""

from enum import StrEnum

from common.errors import AccountError, ContentionError, EarlyError, OutageError, PoisonError, Reason


class Decision(StrEnum):
    """What follows from a failure."""

    WAIT = "wait"
    """Give everything back, consume nothing, set nothing aside, come back later."""
    RETRY = "retry"
    """Roll back and try the same again at once."""
    PARK = "park"
    """Keep it as `early` and try again until its time is over."""
    SET_ASIDE = "set-aside"
    """A dead letter; the stream goes on."""
    STOP = "stop"
    """Nobody foresaw it: let it go up, acknowledge nothing."""


_TABLE: tuple[tuple[type[Exception], Decision], ...] = (
    (OutageError, Decision.WAIT),
    (AccountError, Decision.WAIT),
    (ContentionError, Decision.RETRY),
    (EarlyError, Decision.PARK),
    (PoisonError, Decision.SET_ASIDE),
)


def decide(error: Exception) -> Decision:
    """Return what `error` calls for."""
    for kind, decision in _TABLE:
        if isinstance(error, kind):
            return decision
    return Decision.STOP


def reason_of(error: EarlyError | PoisonError) -> Reason:
    """Return the reason under which `error` sets a tx aside."""
    return error.reason
