"""Words of a comparison that several commands tell people."""

from consumer.verifying.differences import Difference
from consumer.verifying.fitting import NotCompared

NOT_COMPARED = {
    NotCompared.ONLY_HERE: "{peer} does not sync it",
    NotCompared.ONLY_THERE: "this node does not sync it",
    NotCompared.OTHER_KEY: "its key is different there",
    NotCompared.PAUSED: "it is paused",
    NotCompared.NOT_CAPTURED: "it is not captured as it is now: run `rowferry migrate`",
    NotCompared.OTHER_COLUMNS: "the file has other columns or types: write it with --like and a file of this node",
}


def key_text(one: Difference) -> str:
    """Return the key of a row as people read it."""
    return ", ".join(str(value) for value in one.pk.values())
