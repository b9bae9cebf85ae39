"""How values read on a page: ages, instants, JSON of a row."""

import json
import re
from collections.abc import Callable
from datetime import datetime
from typing import Any

from markupsafe import Markup, escape

from common.clock import Clock, to_iso, to_us
from common.http.actors import name_of
from common.ops.status import CONFLICTS_COMMAND, LETTERS_COMMAND
from common.ops.status_words import came_by, place

_CODE = re.compile(r"`([^`]+)`")
_INSTANT = re.compile(r"\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z")
BY_ITSELF = "rowferry by itself"
"""Who did what nobody asked for."""
_LAST_US = 253_402_300_799_000_000
"""The end of the year 9999."""
CELL = 200
"""Characters of a value that a table shows."""
WHOLE = 20_000
"""Characters that a page shows of one value at most, also where the whole of it was asked for."""


def filters(clock: Clock) -> dict[str, Callable[..., Any]]:
    """Return the filters of the templates. None but `coded` gives markup: what they return is escaped as all else."""

    def since(iso: str | None) -> str:
        """Return how long ago an instant was."""
        if iso is None:
            return "never"
        # Less is what two clocks differ by.
        if (ahead := (_us(iso) - clock.now_us()) / 1e6) >= 60:
            return f"in {age(ahead)}"
        return f"{age((clock.now_us() - _us(iso)) / 1e6)} ago"

    def dated(iso: str | None, *, exact: bool = False) -> str:
        """Return an instant with how long ago it was; the beginning of time is where nobody wrote one.

        To the second, so that what happened in one minute is in order; `exact`: to the millisecond. The zone stands
        once a page, at its head."""
        if iso is None:
            return "never"
        if iso.startswith("1970-"):
            return "time unknown"
        return f"{iso[:10]} {iso[11 : 23 if exact else 19].removesuffix('Z')} ({since(iso)})"

    def told(sentence: str) -> str:
        """Return a sentence of `status` or `why` with its instants for a person."""
        return _INSTANT.sub(lambda found: dated(found[0]), sentence)

    return {
        "buttoned": _buttoned,
        "dated": dated,
        "told": told,
        "coded": coded,
        "who": who,
        "is_cut": is_cut,
        "age": age,
        "cell": cell,
        "moment": moment,
        "counted": counted,
        "key": key,
        "clock": clock_words,
        "place": place,
        "came_by": came_by,
    }


def _buttoned(sentence: str) -> str:
    """Return a sentence of `status` without the command beside which a page has a button."""
    return sentence.replace(LETTERS_COMMAND, "").replace(CONFLICTS_COMMAND, "")


def coded(sentence: str) -> Markup:
    """Return a sentence as markup: what stands between backticks is code, and all of it is escaped."""
    return Markup(_CODE.sub(r"<code>\1</code>", str(escape(sentence))))


def who(actor: str | None) -> str:
    """Return who did something: of a person the name alone, without the number of the token."""
    return BY_ITSELF if actor is None or actor == "rowferry" else name_of(actor)


def age(seconds: float | None) -> str:
    """Return a span in its largest unit; what is unknown as a dash."""
    if seconds is None:
        return "–"
    for length, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= length:
            return f"{int(seconds // length)} {unit}"
    return f"{max(0, int(seconds))} s"


def written(hlc: int) -> str | None:
    """Return when a write was made by its author's clock; None where nobody wrote that down. `hlc`: microseconds."""
    return to_iso(hlc) if 0 < hlc < _LAST_US else None


def moment(iso: str | None) -> str:
    """Return an instant for a person, in UTC, to the second, where no head of a page says the zone."""
    return "–" if iso is None else f"{iso[:10]} {iso[11:19]} UTC"


def cell(value: Any, most: int = CELL) -> str:
    """Return a value of a row as text, not more than `most` characters of it."""
    text = _text(value)
    return text if len(text) <= most else f"{text[:most]}…"


def is_cut(value: Any, most: int = CELL) -> bool:
    """Tell whether `cell` leaves some of a value out."""
    return len(_text(value)) > most


def clock_words(seconds: float) -> str:
    """Return how far a clock is off."""
    if abs(seconds) < 1:
        return "right"
    side = "ahead" if seconds > 0 else "behind"
    return f"{age(abs(seconds))} {side}"


def key(pk: Any) -> str:
    """Return a row's key as it is typed: the value alone where the key has one column."""
    if isinstance(pk, dict) and len(pk) == 1:
        return _text(next(iter(pk.values())))
    return _text(pk)


def counted(count: int, one: str, many: str | None = None) -> str:
    """Return a count with its noun."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def _text(value: Any) -> str:
    if value is None:
        return "null"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _us(iso: str) -> int:
    return to_us(datetime.fromisoformat(iso))
