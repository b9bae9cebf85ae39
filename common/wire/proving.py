"""Whether a batch is from whom it says, by its signature."""

from common.errors import PoisonError
from common.wire.records import Part
from common.wire.signing import Purpose, Trust


def part_fault(part: Part, trust: Trust) -> PoisonError | None:
    """Return why the signature of a batch does not hold; None where it does, or nobody has to sign."""
    return trust.fault(part.header.source_node, Purpose.BATCH, part.sha256, part.proof)


def is_proven(part: Part, trust: Trust) -> bool:
    """Tell whether its source has signed a batch with a key that is known here."""
    return trust.proves(part.header.source_node, Purpose.BATCH, part.sha256, part.proof)
