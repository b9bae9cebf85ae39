"""A change that waits for a clash in a unique key, while its own row was written by somebody who did not know of it.

Then two writes of one row have met too: elsewhere once a choice is there, here when somebody chooses."""

from common.config.model import Policy
from common.ports.dialect import ApplySession
from common.versions import NEVER, Version
from consumer.conflict.choices import base_of_clash
from consumer.conflict.detect import has_seen
from consumer.conflict.record import Conflict, Kind, State, Winner, read_version, renew_clash
from consumer.met import Met, UnseenError, own_form, what_changed


def is_beside(session: ApplySession, met: Met) -> bool:
    """Tell whether the author of a change that waits for a clash did not know what stands in its own row by now."""
    version, base = read_version(met.stored["their_version"]), their_base(met)
    if met.state.version == version:
        return False
    while not has_seen(base, version, met.state.version):
        # Its author's earlier write may have waited too: then it never stood here, and what he knew is what that knew.
        earlier = base_of_clash(session.connection, met.shape.name, met.state.key, base)
        if earlier is None or base >= version:
            return True
        version, base = base, earlier
    return False


def their_base(met: Met) -> Version:
    base = met.stored["their_base"]
    return NEVER if base is None else read_version(base)


def _kind_beside(met: Met) -> Kind:
    return Kind.INSERT if met.stored["their_base"] is None else Kind.UPDATE


def waiting_beside(met: Met) -> Conflict:
    """Return the record of a change that has waited for a clash, and of the write that its own row had meanwhile."""
    image, meta = met.recorded(Winner.THEIRS)
    return Conflict(
        table=met.shape.name,
        row_key=met.state.key,
        pk=met.pk.decode("utf-8"),
        kind=_kind_beside(met),
        state=State.WAITING,
        winner=Winner.NEITHER,
        rule=Policy.MANUAL,
        source_node=met.stored["source_node"],
        tx_id=met.stored["tx_id"],
        lsn=met.stored["lsn"],
        our_version=met.state.version,
        their_version=read_version(met.stored["their_version"]),
        their_base=None if met.stored["their_base"] is None else their_base(met),
        our_image=met.now,
        their_image=image,
        our_meta=None,
        their_meta=None if meta == met.shape.meta else meta,
    )


def show_beside(session: ApplySession, met: Met) -> None:
    """Let the conflict be that of these two writes: each of them is on record, and either can be chosen or undone."""
    renew_clash(session.connection, met.number, _kind_beside(met), met.state.version, *own_form(met))


def written_beside(met: Met) -> UnseenError:
    """Return the refusal of a choice that would overwrite what was written meanwhile."""
    row = f"{met.shape.name} {met.pk.decode()}"
    changed = what_changed(met.stored["their_image"], met.now)
    return UnseenError(
        f"nothing was done: {row} was written again by {met.state.version.node_id} while the change of conflict"
        f" {met.number} waited ({changed}), and neither knew of the other. It shows the row as it is now: look at it"
        " again"
    )
