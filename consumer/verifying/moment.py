"""This node at one moment, for a comparison: what is sealed, how far every log has come, what its tables look like."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TypeVar

from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from common.clock import to_iso
from common.errors import ContentionError
from common.ops.incarnation import settle_incarnation
from common.ops.pausing import paused_tables
from common.ops.rewinding import own_rewinding, settled_until
from common.ports.dialect import ColumnShape, TableShape
from common.ports.snapshot import FrozenLook
from common.runtime.node import Node
from common.wire.digests import Digested, Head, Unfit
from common.wire.forms import Form, form_of
from consumer import watermark
from consumer.apply.committing import Committing
from consumer.snapshots.own_state import own_ends

_TRIES = 20
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Moment:
    """One look, and who looks."""

    node: Node
    look: FrozenLook
    shapes: Mapping[str, TableShape]
    head: Head


@contextmanager
def moment(node: Node) -> Iterator[Moment]:
    """Seal what is committed, and look. Raises ContentionError where tables are just being altered, OutageError."""
    node = replace(node, facts=settle_incarnation(node.database, node.facts, node.clock))
    Committing(node).seal()
    shapes = node.captured_tables()
    unfit = _unfit(node, shapes)
    with node.database.snapshots().look(node.facts, list(shapes.values())) as look:
        if node.captured_tables() != shapes:
            raise ContentionError("a table was altered a moment ago")
        yield Moment(node, look, shapes, _head(node, look, shapes, unfit))


def at_one_moment(node: Node, work: Callable[[Moment], T]) -> T:
    """Run `work` on a look, again on a new one while tables are being altered. Raises OutageError, ContentionError."""

    def once() -> T:
        with moment(node) as one:
            return work(one)

    return _patiently(once)


def open_moment(node: Node, held: ExitStack) -> Moment:
    """Return a look that `held` ends. Raises OutageError, ContentionError."""
    return _patiently(lambda: held.enter_context(moment(node)))


def _patiently(work: Callable[[], T]) -> T:
    again = Retrying(
        retry=retry_if_exception_type(ContentionError),
        wait=wait_random_exponential(multiplier=0.05, max=2),
        stop=stop_after_attempt(_TRIES),
        reraise=True,
    )
    found: T = again(work)
    return found


def form_here(node: Node, column: ColumnShape) -> Form:
    """Return what counts of a column, as far as its own database tells."""
    is_padded = node.database.features.name == "postgresql" and column.declared.startswith("character(")
    return Form.PADDED if is_padded else form_of(column.logical)


def _unfit(node: Node, shapes: Mapping[str, TableShape]) -> dict[str, Unfit]:
    """Return the tables in which something may have been written that capture has not seen."""
    paused = paused_tables(node.database)
    found: dict[str, Unfit] = dict.fromkeys(node.capture().drifted(list(shapes.values())), "not-captured")
    return found | dict.fromkeys(paused, "paused")


def _head(node: Node, look: FrozenLook, shapes: Mapping[str, TableShape], unfit: Mapping[str, Unfit]) -> Head:
    facts = node.facts
    marks = [
        (one.source_node, one.incarnation, one.last_lsn, max(one.last_lsn, one.highest_lsn))
        for one, _ in watermark.read_all(look.connection).values()
    ]
    ends = {name: end.lsn for name, end in own_ends(look.connection, facts.incarnation).items()}
    for incarnation, lsn in settled_until(look.connection).items():
        # What it had lost of that log has been fetched, or can't be had any more: nothing of it is on its way.
        ends[incarnation] = max(lsn, ends.get(incarnation, 0))
    marks += [(facts.node_id, incarnation, lsn, lsn) for incarnation, lsn in ends.items()]
    tables = {
        name: Digested(
            shape.pk,
            dict(shape.meta.columns),
            {column.name: form_here(node, column) for column in shape.written},
            unfit.get(name),
        )
        for name, shape in sorted(shapes.items())
    }
    return Head(
        source_node=facts.node_id,
        incarnation=facts.incarnation,
        at=to_iso(node.clock.now_us()),
        marks=tuple(sorted(marks)),
        tables=tables,
        rewound=own_rewinding(look.connection) is not None,
    )
