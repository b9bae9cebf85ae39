"""Which of two writes of one row stands. Pure."""

from typing import assert_never

import msgspec

from common.config.model import Policy
from common.errors import PoisonError, Reason
from common.versions import Version

_sorted = msgspec.json.Encoder(order="sorted")


def incoming_stands(policy: Policy, version: Version, current: Version) -> bool:
    """Tell whether the incoming write `version` takes the place of `current`. The versions differ."""
    match policy:
        case Policy.LWW | Policy.MAIN_WINS | Policy.APPEND_ONLY | Policy.MANUAL:
            # What main has written stands in the version itself: its main_epoch counts first. A conflict of `manual`
            # never comes here; of two choices between the same writes the higher version stands.
            return version > current
        case _:
            assert_never(policy)


def comparable(image: bytes | None) -> bytes | None:
    """Return an image so that two nodes that hold the same row get the same bytes: keys sorted, no blanks.

    Raises PoisonError for what JSON allows and nobody can read, like a number outside every range."""
    if image is None:
        return None
    try:
        return _sorted.encode(msgspec.json.decode(image))
    except (msgspec.DecodeError, RecursionError) as error:
        raise PoisonError(Reason.FORMAT, f"an image that can't be read: {error}") from error


def greater_image(ours: bytes | None, theirs: bytes | None) -> bool:
    """Tell whether `theirs` stands, where two images have one version. A deleted row is the least."""
    return (theirs or b"") > (ours or b"")
