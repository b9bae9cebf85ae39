"""How an incoming write of a row relates to the write that the row has here. Pure."""

from enum import StrEnum

from common.versions import NEVER, Version


class Relation(StrEnum):
    """What the incoming write and the one here knew of each other."""

    SAME = "same"
    """One and the same write, or two images under one version."""
    ON_TOP = "on-top"
    """The incoming write was made by somebody who had seen what stands here."""
    LATE = "late"
    """What stands here was made by somebody who had seen the incoming write."""
    CONCURRENT = "concurrent"
    """Neither saw the other: a conflict."""


def relate(version: Version, base: Version, current: Version, current_base: Version) -> Relation:
    """Return how the write `version`, made on top of `base`, relates to `current`, made on top of `current_base`.

    A row that nobody wrote since `migrate` has nothing to be in conflict with. Each node's own writes of one row are
    a chain, since a node writes on top of what it has: so a base by the author of `current`, made after it, has seen
    it, and the other way round. That spares conflicts which would only be a matter of the order of arrival.
    """
    if version == current:
        return Relation.SAME
    if version > current:
        return Relation.ON_TOP if has_seen(base, version, current) else Relation.CONCURRENT
    return Relation.LATE if has_seen(current_base, current, version) else Relation.CONCURRENT


def has_seen(base: Version | None, later: Version, earlier: Version) -> bool:
    """Tell whether the author of `later`, made on top of `base`, had seen `earlier`; as far as versions tell."""
    base = base or NEVER
    if earlier in (NEVER, base):
        return True
    if later.node_id == earlier.node_id:
        return True
    return base.node_id == earlier.node_id and base > earlier
