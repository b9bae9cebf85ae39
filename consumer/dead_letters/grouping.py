"""Dead letters by reason: how many, how old, one of them, and what helps."""

from collections.abc import Sequence
from typing import Any

from common.clock import to_iso
from common.errors import Reason
from consumer.dead_letters.table_store import Letter

HELPS = {
    Reason.FORMAT: "import a whole copy of the tx from its source, or discard",
    Reason.CHECKSUM: "import a whole copy of the tx from its source, or discard",
    Reason.LIMIT: "smaller batches at the source (limits.max_batch_bytes)",
    Reason.REQUIRES: "upgrade this node, then replay",
    Reason.SOURCE: "mend the sender's account; replay --trust-source for what you answer for",
    Reason.UNSIGNED: "rowferry key create at the source; replay --trust-source for what you answer for",
    Reason.UNKNOWN_KEY: "add the source's key to [signers], then replay",
    Reason.BAD_SIGNATURE: "it is not what its source signed: find out who sent it; discard",
    Reason.VERSION: "look at the source; discard",
    Reason.CONTENT: "compare the two contents; discard",
    Reason.UNKNOWN_TABLE: "create or configure the table, then rowferry migrate; renamed here: replay --rename OLD=NEW",
    Reason.UNKNOWN_COLUMN: "add the column, then rowferry migrate; renamed here: replay --rename TABLE.OLD=NEW",
    Reason.TYPE: "change the column and run rowferry migrate, or replay --edited",
    Reason.CONSTRAINT: "mend the row in the way, then replay; or replay --edited",
    Reason.FOREIGN_KEY: "bring in the parent; what waits for it follows by itself",
    Reason.POLICY: "the same tables.policy on every node; discard, or migrate",
    Reason.DDL: "import-change-log --allow-ddl",
    Reason.NULL_KEY: "give the row a key at its source (dlq export shows it): it is sent then; discard",
    Reason.RIGHTS: "run the GRANT that the error names",
    Reason.CRASH: "find the cause before a replay; discard",
    Reason.FORKED: "rowferry rejoin at the source; a replay applies it by row versions",
    Reason.OLDER_THAN_TOMBSTONES: "compare with the source; discard",
    Reason.PAUSED: "rowferry resume TABLE",
    Reason.UNCAPTURED: "rowferry migrate",
}
"""In a few words; docs/howto/dead-letters.md has more."""


def by_reason(letters: Sequence[Letter]) -> list[dict[str, Any]]:
    """Return a group for each reason, the largest first."""
    groups: dict[str, list[Letter]] = {}
    for letter in letters:
        groups.setdefault(letter.reason, []).append(letter)
    ordered = sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))
    return [_group(reason, found) for reason, found in ordered]


def _group(reason: str, letters: Sequence[Letter]) -> dict[str, Any]:
    latest = max(letters, key=lambda one: (one.last_failed_us, one.tx_id))
    states: dict[str, int] = {}
    for letter in letters:
        states[letter.state.value] = states.get(letter.state.value, 0) + 1
    return {
        "reason": reason,
        "count": len(letters),
        "states": states,
        "sources": sorted({letter.source_node for letter in letters}),
        "tables": sorted({letter.table_name for letter in letters if letter.table_name}),
        "oldest_at": to_iso(min(letter.first_failed_us for letter in letters)),
        "newest_at": to_iso(latest.last_failed_us),
        "example": {"tx_id": latest.tx_id, "source_node": latest.source_node, "error": latest.error},
        "helps": HELPS[Reason(reason)],
    }
