"""One adoption from its beginning to its end: compare, choose, give."""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from common.config.model import Policy
from common.errors import ConfigError, UsageError
from common.http.wire import MOST_ADOPTED
from common.runtime.node import Node
from common.transports.http.client import PeerClient, RefusedError
from common.transports.http.peer import checked_state
from common.transports.http.settings import PeerSettings
from consumer.adopting.choosing import Chooser, From
from consumer.adopting.giving import Given, Giving, Named, Outcome
from consumer.adopting.report import Adopted, Report
from consumer.apply.order import parents_first
from consumer.tables import Tables, use_of
from consumer.verifying.comparing import Comparison
from consumer.verifying.differences import State
from consumer.verifying.put_back import refuse_peer_put_back, refuse_put_back, seen_of
from consumer.verifying.sides import Advance, OwnSide, PeerSide, Side
from consumer.verifying.verification import side_of_file

_QUESTION_BYTES = 4 * 1024 * 1024
_OUTCOMES = frozenset(outcome.value for outcome in Outcome)
Give = Callable[[Sequence[Named]], list[Given]]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to adopt, and how."""

    side: From
    tables: Collection[str] | None
    """None: all that both have."""
    is_dry: bool
    most: int
    """So many rows are named."""
    actor: str
    advance: Advance


def adopt_with_peer(node: Node, settings: PeerSettings, wanted: Wanted) -> Report:
    """Adopt with a peer over HTTP, which gives its own part.

    Raises UsageError, ConfigError, OutageError, RefusedError."""
    client = PeerClient(settings)
    try:
        state = checked_state(client, node.facts.node_id)
        there = PeerSide(client, state.node, node.config.trust(), seen_of(node, state.node))
        # Where nobody is known to be main, whoever says so of itself is believed.
        main = node.main() or (state.node if state.role == "main" else None)
        return adopt(node, there, asking(client), main, wanted)
    finally:
        client.close()


def adopt_with_file(node: Node, path: Path, wanted: Wanted) -> Report:
    """Give this node's own part, against what another node wrote by `verify --export`.

    Raises UsageError, PreflightError, OutageError, RowferryError."""
    return adopt(node, side_of_file(node, path), None, node.main(), wanted)


def adopt(node: Node, there: Side, ask: Give | None, main: str | None, wanted: Wanted) -> Report:
    """Adopt with another side. `ask`: gives its part; None: it can't be asked. `main`: the main node, as far as known.

    Raises UsageError, OutageError."""
    refuse_put_back(node, "adopt")
    comparison = Comparison(OwnSide(node), there, wanted.tables, 0, wanted.advance)
    refuse_peer_put_back(node, comparison.heads[1], "adopt", is_written=there.is_fixed)
    here_id, there_id = (head.source_node for head in comparison.heads)
    chooser = Chooser(wanted.side, here_id, there_id, main, node.config.tables.policy_for)
    if wanted.side is From.MAIN and not chooser.knows_main:
        raise UsageError(
            f"--from main: neither {here_id} nor {there_id} is known to be the main node: name it in [node] main, or "
            "adopt with it"
        )
    if wanted.side is From.EACH and main is None:
        _refuse_without_main(node, comparison)
    comparison.count()
    comparison.begin_with(_parents_first(node))
    report = Report(comparison, wanted.side, wanted.is_dry, ask is not None, wanted.most)
    giving = Giving(node, there_id, wanted.actor)
    for found in comparison.rounds():
        undecided = [one for one in found if one.state is State.BEFORE_FIRST_SYNC]
        report.leave(one for one in found if one.state is not State.BEFORE_FIRST_SYNC)
        rows = [Adopted(one, chooser.givers(one)) for one in undecided]
        if not wanted.is_dry:
            _give(rows, giving.give, ask)
        report.add(rows)
    return report


def _refuse_without_main(node: Node, comparison: Comparison) -> None:
    """Raise UsageError where main's rows stand, and nobody knows which they are."""
    tables = [name for name in comparison.fit.tables if node.config.tables.policy_for(name) is Policy.MAIN_WINS]
    if tables:
        raise UsageError(
            f"{', '.join(tables)}: main wins there, but it is not known which node that is: name it in [node] main"
        )


def _parents_first(node: Node) -> list[str]:
    shapes = Tables(node).shapes()
    return [use.name for use in parents_first({use_of(shape, shape.meta) for shape in shapes.values()})]


def _give(rows: Sequence[Adopted], here: Give, there: Give | None) -> None:
    ours = [one for one in rows if one.givers.here]
    for one, given in zip(ours, here([_named(one, is_here=True) for one in ours]), strict=True):
        one.here = given
    if there is None:
        return
    theirs = [one for one in rows if one.givers.there]
    for one, given in zip(theirs, there([_named(one, is_here=False) for one in theirs]), strict=True):
        one.there = given


def _named(one: Adopted, *, is_here: bool) -> Named:
    """Return how a side calls a row: two kinds of databases may write one key in two ways."""
    line = one.found.here if is_here else one.found.there
    if line is None:
        raise RuntimeError(f"{one.found.table}: a row that a side does not have was to be given by it")
    return Named(one.found.table, bytes(line.pk), of_each=all(one.givers))


def asking(client: PeerClient) -> Give:
    """Return what asks a peer for its part."""

    def ask(rows: Sequence[Named]) -> list[Given]:
        return [given for some in _pieces(rows) for given in _asked(client, some)]

    return ask


def _pieces(rows: Sequence[Named]) -> Iterator[list[Named]]:
    piece: list[Named] = []
    size = 0
    for one in rows:
        if piece and (len(piece) >= MOST_ADOPTED or size + len(one.pk) > _QUESTION_BYTES):
            yield piece
            piece, size = [], 0
        piece.append(one)
        size += len(one.pk)
    if piece:
        yield piece


def _asked(client: PeerClient, rows: Sequence[Named]) -> list[Given]:
    question = {
        "rows": [
            {"table": one.table, "pk": msgspec.Raw(one.pk)} | ({"each": True} if one.of_each else {}) for one in rows
        ]
    }
    try:
        results = client.give_first(msgspec.json.encode(question)).results
    except RefusedError as error:
        if error.status in (404, 405):
            raise ConfigError(f"{client.url}: its release does not know how to adopt") from error
        raise
    if len(results) != len(rows):
        raise ConfigError(f"{client.url} does not answer as a node does: {len(results)} results")
    return [Given(Outcome(one.outcome if one.outcome in _OUTCOMES else Outcome.REFUSED), one.why) for one in results]
