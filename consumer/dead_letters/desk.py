"""The dead letters of a node for somebody who works on them, with the broker's copies where it keeps some."""

from collections.abc import Iterator
from contextlib import contextmanager

from common.runtime.node import Node
from common.runtime.transports import open_dead_letter_mirror
from consumer.dead_letters.copies import BrokerCopies
from consumer.dead_letters.operations import DeadLetters


@contextmanager
def desk_of(node: Node) -> Iterator[DeadLetters]:
    """Give what works on the letters; the broker is connected to when it is needed first."""
    mirror = open_dead_letter_mirror(node)
    copies = BrokerCopies(node, mirror) if mirror is not None else None
    try:
        yield DeadLetters(node, copies)
    finally:
        if copies is not None:
            copies.close()
