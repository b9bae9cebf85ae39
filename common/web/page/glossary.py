"""The words of the page, explained: each stands as a link to a page of its own words, with the explanation on it."""

import re
from dataclasses import dataclass

from markupsafe import Markup, escape

WORDS = "/page/words"


@dataclass(frozen=True, slots=True)
class Term:
    """One word that an operator may not know."""

    slug: str
    """What its address ends with."""
    name: str
    says: str
    """In a sentence or two."""
    found_as: str = ""
    """A regular expression of how it stands in sentences that `status` and others make; empty: nowhere."""


TERMS = (
    Term(
        "transaction",
        "transaction",
        "Changes that were committed together on one node. They are sent together, and applied together or not at all.",
    ),
    Term(
        "dead-letter",
        "dead letter",
        "A transaction of another node that could not be applied here. It is kept whole, does not hold up what comes "
        "after it, and somebody replays or discards it.",
        r"dead letters?",
    ),
    Term(
        "replay",
        "replay",
        "To try a dead letter again. A row that was written later than the letter's change stays as it is.",
    ),
    Term(
        "early",
        "early",
        "A dead letter that waits for a row which has not arrived yet, like an order for its customer. It is tried "
        "again automatically.",
    ),
    Term(
        "forked",
        "forked",
        "A dead letter of a node that was restored to an earlier state: it belongs to another history than the one "
        "this node knows.",
    ),
    Term(
        "conflict",
        "conflict",
        "Two nodes wrote the same row without having seen each other's write. The rule of the table says which one "
        "wins, or that somebody chooses.",
    ),
    Term(
        "rule",
        "rule of the table",
        "Which of two writes wins: the later one (lww), the main node's (main-wins), of two inserts the later "
        "(append-only), or what somebody chooses (manual).",
    ),
    Term(
        "version",
        "version",
        "One write of a row, with its place in the order of all writes of that row: who wrote it, and when by that "
        "node's clock.",
    ),
    Term(
        "capture",
        "capture",
        "What records each change of a table as an application writes it. rowferry migrate installs it, and again "
        "after a table was added or changed: until then not every change of that table is sent.",
        r"[Cc]apture(?= is| does)|not captured",
    ),
    Term(
        "lsn",
        "LSN",
        "The number of a change in the log of the node that wrote it: 1, 2, 3 and so on, without gaps. It tells how "
        "far one node has another node's changes.",
        r"LSN(?= \d)",
    ),
    Term(
        "heartbeat",
        "heartbeat",
        "A short message in which a node says every minute that it is there, and how far it is.",
        r"heartbeats?",
    ),
    Term(
        "shared-folder",
        "shared folder",
        "A folder that several nodes can reach ([directory] in the settings): they exchange changes in it as files.",
        r"shared folder",
    ),
    Term(
        "hand-on",
        "to hand on",
        "To pass other nodes' changes on to nodes that do not get them directly (node.forward). The main node does.",
    ),
    Term(
        "incarnation",
        "incarnation",
        "One life of a node's log. A node that was restored to an earlier state starts another one.",
    ),
    Term(
        "seal",
        "to seal",
        "To give what was committed its place in the node's log, so that it can be sent. A moment after the commit.",
        r"seals?|sealed",
    ),
    Term(
        "run",
        "rowferry run",
        "The program that seals, sends and applies changes, for as long as it runs. rowferry serve answers over HTTP "
        "and shows this page.",
    ),
)
BY_SLUG = {term.slug: term for term in TERMS}
_SOUGHT = tuple((term, re.compile(rf"\b(?:{term.found_as})\b")) for term in TERMS if term.found_as)
_KEPT = re.compile(r"(<[^>]*>)")


def term(slug: str, words: str = "") -> Markup:
    """Return a word as a link to what it means, which is also what is told where it stands."""
    one = BY_SLUG[slug]
    return Markup('<a class="term" href="{}#{}" title="{}">{}</a>').format(WORDS, slug, one.says, words or one.name)


def explained(sentence: str) -> Markup:
    """Return a sentence with its words explained, each where it stands first. What is no markup yet is escaped."""
    parts = _KEPT.split(str(escape(sentence)))
    open_tags = 0
    told: set[str] = set()
    for number, part in enumerate(parts):
        if _KEPT.fullmatch(part):
            open_tags += -1 if part.startswith("</") else 1
        elif not open_tags:
            parts[number] = _linked(part, told)
    return Markup("".join(parts))


def _linked(text: str, told: set[str]) -> str:
    """Return a piece of markup without tags with the words in it that were not told yet as links."""
    places: list[tuple[int, int, Term]] = []
    for one, sought in _SOUGHT:
        found = None if one.slug in told else sought.search(text)
        if found is not None and all(found.end() <= begins or found.start() >= ends for begins, ends, _ in places):
            places.append((found.start(), found.end(), one))
            told.add(one.slug)
    for begins, ends, one in sorted(places, key=lambda place: place[0], reverse=True):
        text = text[:begins] + str(term(one.slug, Markup(text[begins:ends]))) + text[ends:]
    return text
