"""The `rf_*` tables that all dialects share. What is a dialect's own (log, versions, locks) is made by its migration.

Alembic makes them (`common/schema/migrations`); a test holds that its result equals this module.
"""

import sqlalchemy as sa

metadata = sa.MetaData()

_text = sa.Text()
_id = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
"""Node ids, incarnations, tx_ids: compared by their bytes, and not in a language's order, which takes longer."""
_lsn = sa.BigInteger()
_us = sa.BigInteger()
"""Instants are microseconds since the epoch: the same integer on every database."""

node = sa.Table(
    "rf_node",
    metadata,
    sa.Column("node_id", _id, primary_key=True),
    sa.Column("role", _text, nullable=False, server_default="branch"),
    sa.Column("incarnation", _id, nullable=False),
    sa.Column("is_self", sa.Boolean, nullable=False),
    sa.Column("server_identity", _text),
    sa.Column("first_seen_us", _us, nullable=False),
    sa.Column("last_seen_us", _us, nullable=False),
    sa.Column(
        "ahead_us", _us, nullable=False, server_default="0", comment="its clock before this node's; 0: in bounds"
    ),
    sa.Column("ahead_seen_us", _us, nullable=False, server_default="0", comment="when that was seen last"),
    sa.Column("heard_us", _us, comment="its last heartbeat; of this node: when it listened last"),
    sa.Column("heartbeat_us", _us, comment="that heartbeat by the peer's clock"),
    sa.Column("said", _text, comment="its last heartbeat, as it came"),
    sa.Column("every_us", _us, comment="how often it sends one"),
    sa.Column("head_incarnation", _id, comment="what the LSNs of its heartbeats count in"),
    sa.Column("head_lsn", _lsn, comment="the end of its log"),
    sa.Column("head_tx_id", _id),
    sa.Column("sent_lsn", _lsn, comment="up to here the broker has confirmed its log"),
    sa.Column("clock_us", _us, comment="its clock before this node's, by its last heartbeat"),
    sa.Column("clock_steady", sa.Boolean, comment="the heartbeat before that said the same"),
    sa.Column("release", _text),
    sa.Column("schema_sha256", _text, comment="of the tables that travel"),
    sa.Column("policies_sha256", _text),
    sa.Column("rewound_us", _us, comment="since when its log is another one than it was"),
    sa.Column("retired_us", _us, comment="nothing is kept for it since then"),
    sa.Column("returned_us", _us, comment="it was retired, and spoke again then"),
    sa.Column("verified_us", _us, comment="its tables were equal to ours last"),
    comment="This node and the peers it has heard of.",
)

tx = sa.Table(
    "rf_tx",
    metadata,
    sa.Column("incarnation", _id, primary_key=True),
    sa.Column("to_lsn", _lsn, primary_key=True, autoincrement=False),
    sa.Column("from_lsn", _lsn, nullable=False),
    sa.Column("prev_lsn", _lsn, nullable=False),
    # Unique, and on SQLite with an index: its log is joined by it.
    sa.Column("tx_id", _id, nullable=False),
    sa.Column("exported_at", _text, nullable=False),
    sa.Column("grouped", sa.Boolean, nullable=False),
    sa.Column("tables", _text, nullable=False, comment="JSON object: table name -> pk and columns, as in the header"),
    sa.Column("bytes", _lsn, nullable=False, comment="about what the change lines weigh"),
    sa.Column("captured_us", _us, nullable=False, comment="its oldest change: lag is counted from here"),
    comment="The sealed txs of this node, in LSN order.",
)

cursor = sa.Table(
    "rf_cursor",
    metadata,
    sa.Column("sink", _text, primary_key=True),
    sa.Column("incarnation", _id, primary_key=True),
    sa.Column("lsn", _lsn, nullable=False),
    sa.Column("updated_us", _us, nullable=False),
    comment="How far each sink has durably taken the sealed log.",
)

applied_tx = sa.Table(
    "rf_applied_tx",
    metadata,
    sa.Column("source_node", _id, primary_key=True),
    sa.Column("tx_id", _id, primary_key=True),
    sa.Column("incarnation", _id, nullable=False),
    sa.Column("prev_lsn", _lsn, nullable=False),
    sa.Column("to_lsn", _lsn, nullable=False),
    sa.Column("sha256", _text, nullable=False, comment="over the tx's change lines"),
    sa.Column("applied_us", _us, nullable=False),
    sa.Index("rf_applied_tx_order", "source_node", "incarnation", "prev_lsn"),
    comment="Dedup: the txs of other nodes that were applied.",
)

sync_state = sa.Table(
    "rf_sync_state",
    metadata,
    sa.Column("peer", _id, primary_key=True),
    sa.Column("direction", _text, primary_key=True, comment="in: watermark of a source; out: what a client has taken"),
    sa.Column("incarnation", _id, primary_key=True),
    sa.Column("last_lsn", _lsn, nullable=False),
    sa.Column("last_tx_id", _id),
    sa.Column("highest_lsn", _lsn, nullable=False, server_default="0", comment="the highest LSN seen, above gaps too"),
    sa.Column("updated_us", _us, nullable=False),
    sa.CheckConstraint("direction IN ('in', 'out')", name="rf_sync_state_direction"),
    comment="Where this node stands with each peer.",
)

tx_part = sa.Table(
    "rf_tx_part",
    metadata,
    sa.Column("source_node", _id, primary_key=True),
    sa.Column("tx_id", _id, primary_key=True),
    sa.Column("part", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("parts", sa.Integer, nullable=False),
    sa.Column("tx_sha256", _text, nullable=False),
    sa.Column("header", _text, nullable=False),
    sa.Column("payload", sa.LargeBinary, nullable=False, comment="change, chunk and end lines, zstd"),
    sa.Column("bytes", _lsn, nullable=False, comment="of change and chunk lines, uncompressed"),
    sa.Column("received_us", _us, nullable=False),
    comment="Parts of large txs until all are there; those of dead letters until they are replayed or discarded.",
)

dead_letter = sa.Table(
    "rf_dead_letter",
    metadata,
    sa.Column("source_node", _id, primary_key=True),
    sa.Column("tx_id", _id, primary_key=True),
    sa.Column("incarnation", _id),
    sa.Column("prev_lsn", _lsn),
    sa.Column("from_lsn", _lsn),
    sa.Column("to_lsn", _lsn),
    sa.Column("exported_at", _text),
    sa.Column("changes", sa.Integer),
    sa.Column("parts", sa.Integer, nullable=False, server_default="1"),
    sa.Column("reason", _text, nullable=False),
    sa.Column("state", _text, nullable=False, comment="dead, early, forked; replayed, discarded"),
    sa.Column("table_name", _text),
    sa.Column("error", _text, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("first_failed_us", _us, nullable=False),
    sa.Column("last_failed_us", _us, nullable=False),
    sa.Column("origin", _text, nullable=False, comment="queue or file it came by"),
    sa.Column("sha256", _text, nullable=False, comment="over the tx's change lines, or over the bytes if unreadable"),
    sa.Column("body", sa.LargeBinary, comment="the batch as it came, zstd; null when its parts stand in rf_tx_part"),
    sa.Column("applied_lsns", _text, comment="JSON ranges of LSNs: what was applied in pieces"),
    sa.Column("broker_copy", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("settled_us", _us),
    sa.Column("settled_by", _text),
    sa.Column("settled_note", _text),
    sa.Index("rf_dead_letter_order", "source_node", "incarnation", "prev_lsn"),
    sa.Index("rf_dead_letter_state", "state", "last_failed_us"),
    sa.Index("rf_dead_letter_table", "state", "table_name", "last_failed_us"),
    sa.Index("rf_dead_letter_reason", "state", "reason", "last_failed_us"),
    sa.Index("rf_dead_letter_first", "state", "first_failed_us"),
    sa.Index("rf_dead_letter_copy", "broker_copy", "state", "last_failed_us"),
    comment="Txs that could not be applied, each whole, with its reason.",
)
OPEN_DEAD_LETTERS = ("dead", "early", "forked")
"""The states in which a letter waits for somebody or something."""

attempt = sa.Table(
    "rf_attempt",
    metadata,
    sa.Column("source_node", _id, primary_key=True),
    sa.Column("tx_id", _id, primary_key=True),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("began_us", _us, nullable=False),
    comment="Txs begun one by one after a redelivery and not ended: one that kills the process is found by this.",
)

road = sa.Table(
    "rf_road",
    metadata,
    sa.Column("sink", _text, primary_key=True),
    sa.Column("failing_since_us", _us, comment="null: it can be used"),
    sa.Column("error", _text, comment="why it can't be used"),
    sa.Column("fallback_since_us", _us, comment="since when files are written instead"),
    sa.Column("fallback_error", _text, comment="why files can't be written either"),
    sa.Column("updated_us", _us, nullable=False),
    comment="Whether the broker can be used, and since when files are written in its place.",
)

watch = sa.Table(
    "rf_watch",
    metadata,
    sa.Column("work", _text, primary_key=True, comment="sealer, sink NAME, intake NAME, source NODE"),
    sa.Column("pending", _lsn, nullable=False, comment="how much of it waited"),
    sa.Column("mark", _text, nullable=False, comment="another one whenever some of it was done"),
    sa.Column("oldest_us", _us, comment="since when the oldest of it waited"),
    sa.Column("still_us", _us, comment="since when nothing of it was done; null: nothing waited"),
    sa.Column("looked_us", _us, nullable=False),
    comment="What the watchdog saw last of the work of this node.",
)

paused = sa.Table(
    "rf_paused",
    metadata,
    sa.Column("table_name", _text, primary_key=True),
    sa.Column("since_us", _us, nullable=False),
    sa.Column("paused_by", _text, nullable=False),
    comment="Tables that capture is off by command, until they are resumed.",
)

request = sa.Table(
    "rf_request",
    metadata,
    sa.Column("peer", _id, primary_key=True),
    sa.Column("direction", _text, primary_key=True, comment="out: this node asked; in: the peer asked this node"),
    sa.Column("incarnation", _id, primary_key=True),
    sa.Column("after_lsn", _lsn, nullable=False),
    sa.Column("until_lsn", _lsn, nullable=False),
    sa.Column("asked", sa.Integer, nullable=False, comment="how often"),
    sa.Column("first_asked_us", _us, nullable=False),
    sa.Column("last_asked_us", _us, nullable=False),
    sa.Column("gone_until_lsn", _lsn, comment="out: up to here its source has it no more"),
    sa.CheckConstraint("direction IN ('in', 'out')", name="rf_request_direction"),
    comment="Stretches of logs asked for once more: by this node, and of this node until they are answered.",
)

conflict = sa.Table(
    "rf_conflict",
    metadata,
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
    sa.Column("table_name", _text, nullable=False),
    sa.Column("pk", _text, nullable=False),
    sa.Column("kind", _text, nullable=False, comment="update, insert, delete, identity"),
    sa.Column("state", _text, nullable=False, comment="settled or waiting"),
    sa.Column("winner", _text, nullable=False, comment="ours or theirs"),
    sa.Column("rule", _text, nullable=False),
    sa.Column("source_node", _id, nullable=False),
    sa.Column("tx_id", _id, nullable=False),
    sa.Column("lsn", _lsn, nullable=False),
    sa.Column("our_version", _text, nullable=False),
    sa.Column("their_version", _text, nullable=False),
    sa.Column("their_base", _text),
    sa.Column("our_image", _text),
    sa.Column("their_image", _text),
    sa.Column("recorded_us", _us, nullable=False),
    sa.Column("row_key", _text, comment="the dialect's canonical key; null in records of before"),
    sa.Column("our_meta", _text, comment="JSON: key and columns of our_image; null: as the table is here"),
    sa.Column("their_meta", _text, comment="JSON: key and columns of their_image; null: as the table is here"),
    sa.Column("settled_by", _text),
    sa.Column("settled_note", _text),
    sa.Column("settled_us", _us),
    sa.Index("rf_conflict_state", "state", "recorded_us"),
    sa.Index("rf_conflict_key", "table_name", "row_key", "state"),
    comment="Changes whose base was not the version the row had here: both images, the winner and the rule.",
)

choice = sa.Table(
    "rf_choice",
    metadata,
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
    sa.Column("table_name", _text, nullable=False),
    sa.Column("row_key", _text, nullable=False),
    sa.Column("node_id", _id, nullable=False, comment="who chose"),
    sa.Column("base", _text, nullable=False, comment="the highest of the versions that it settles"),
    sa.Column("version", _text, comment="null: this node's own, not sealed when it was made"),
    sa.Column("resolves", _text, nullable=False, comment="JSON list of the versions that it settles"),
    sa.Column("chosen_us", _us, nullable=False),
    sa.Index("rf_choice_row", "table_name", "row_key"),
    comment="Choices that settled conflicts, this node's and others'.",
)

stepped_back = sa.Table(
    "rf_stepped_back",
    metadata,
    sa.Column("table_name", _text, primary_key=True),
    sa.Column("key", _id, primary_key=True, comment="as in rf_row_version"),
    sa.Column("version", _text, nullable=False, comment="the copy counts as long as the row has this version"),
    sa.Column("facts", _text, nullable=False, comment="JSON: key, image, unique values and references of the row"),
    sa.Column("meta", _text, nullable=False, comment="JSON: the table as its columns are named in the image"),
    sa.Column("kind", _text, nullable=False, comment="unique or foreign-key: why it does not stand"),
    sa.Column("stepped_us", _us, nullable=False),
    comment="Rows that do not stand in their table: they clash with one of higher rank, or their parent is gone.",
)

claim = sa.Table(
    "rf_claim",
    metadata,
    sa.Column("rule", _id, primary_key=True, comment="a unique key, or a reference from either side"),
    sa.Column("token", _id, primary_key=True, comment="equal values have equal ones"),
    sa.Column("table_name", _text, primary_key=True),
    sa.Column("key", _id, primary_key=True),
    sa.Index("rf_claim_row", "table_name", "key"),
    comment="What the rows in rf_stepped_back claim, point to, and are pointed to by.",
)

standing_mark = sa.Table(
    "rf_standing_mark",
    metadata,
    sa.Column("incarnation", _id, primary_key=True),
    sa.Column("lsn", _lsn, nullable=False),
    comment="How far this node's own sealed changes were looked through for what they let stand.",
)

relay = sa.Table(
    "rf_relay",
    metadata,
    sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("part", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("parts", sa.Integer, nullable=False),
    sa.Column("source_node", _id, nullable=False),
    sa.Column("tx_id", _id, nullable=False),
    sa.Column("incarnation", _id, nullable=False),
    sa.Column("from_lsn", _lsn, nullable=False),
    sa.Column("to_lsn", _lsn, nullable=False),
    sa.Column("header", _text, nullable=False),
    sa.Column("payload", sa.LargeBinary, nullable=False, comment="everything after the header line, zstd"),
    sa.Column("bytes", _lsn, nullable=False, comment="of its lines, uncompressed"),
    sa.Column("by_directory", sa.Boolean, nullable=False, comment="it came by the shared folder"),
    sa.Column("received_us", _us, nullable=False),
    sa.Index("rf_relay_tx", "source_node", "tx_id", "part", unique=True),
    sa.Index("rf_relay_age", "received_us", "bytes"),
    sa.Index("rf_relay_log", "source_node", "incarnation", "to_lsn", "seq"),
    comment="Other nodes' batches as they came, in the order in which they were committed here, to be handed on.",
)

relay_head = sa.Table(
    "rf_relay_head",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("seq", sa.BigInteger, nullable=False),
    comment="One row: the last number given in rf_relay. Locked until the commit, so numbers follow commits.",
)

relay_reader = sa.Table(
    "rf_relay_reader",
    metadata,
    sa.Column("reader", _id, primary_key=True, comment="pull:NODE, push:PEER or directory"),
    sa.Column("era", _id, nullable=False, comment="this node's incarnation when the numbers were given"),
    sa.Column("seq", sa.BigInteger, nullable=False),
    sa.Column("updated_us", _us, nullable=False),
    comment="How far each reader has durably taken rf_relay.",
)

pull = sa.Table(
    "rf_pull",
    metadata,
    sa.Column("peer", _id, primary_key=True),
    sa.Column("cursor", _text, nullable=False, comment="the peer's own mark; only it can read it"),
    sa.Column("updated_us", _us, nullable=False),
    comment="Where this node is in the answers of the peers that it pulls from.",
)

token = sa.Table(
    "rf_token",
    metadata,
    sa.Column("id", _id, primary_key=True),
    sa.Column("node_id", _id, nullable=False, comment="whom it speaks for"),
    sa.Column("scopes", _text, nullable=False, comment="of push,pull,forward,ops"),
    sa.Column("hash", _text, nullable=False, comment="scrypt, its costs, salt and sum"),
    sa.Column("created_us", _us, nullable=False),
    sa.Column("created_by", _text, nullable=False),
    sa.Column("expires_us", _us, comment="null: never"),
    sa.Column("last_used_us", _us, comment="to the minute"),
    sa.Column("revoked_us", _us),
    sa.Column("revoked_by", _text),
    comment="Tokens that nodes and people show over HTTP; their secrets are nowhere.",
)

_OF_CAPTURE = sa.text("action = 'capture'")
"""Few among millions of lines; asked for every few seconds."""
audit = sa.Table(
    "rf_audit",
    metadata,
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
    sa.Column("at_us", _us, nullable=False),
    sa.Column("actor", _text, nullable=False),
    sa.Column("action", _text, nullable=False),
    sa.Column("source_node", _id),
    sa.Column("tx_id", _id),
    sa.Column("detail", _text, comment="JSON object"),
    sa.Index("rf_audit_at", "at_us"),
    sa.Index("rf_audit_capture", "at_us", postgresql_where=_OF_CAPTURE, sqlite_where=_OF_CAPTURE),
    comment="Who applied, rejected, replayed, discarded what, and when.",
)

passed = sa.Table(
    "rf_passed",
    metadata,
    sa.Column("peer", _id, primary_key=True),
    sa.Column("origin", _id, primary_key=True),
    sa.Column("incarnation", _id, primary_key=True),
    sa.Column("lsn", _lsn, nullable=False, comment="up to here the peer has seen all of the origin's"),
    sa.Column("said_us", _us, nullable=False),
    comment="What peers have said of how far they are; with themselves as origin the end of their own log.",
)

purged = sa.Table(
    "rf_purged",
    metadata,
    sa.Column("what", _text, primary_key=True),
    sa.Column("name", _id, primary_key=True, comment="the incarnation of a log, the node of an override; else empty"),
    sa.Column("until_lsn", _lsn),
    sa.Column("until_us", _us, comment="what is gone is older than this"),
    sa.Column("purged_us", _us, nullable=False),
    sa.Column("rows", sa.BigInteger, nullable=False, comment="how many in all"),
    comment="What is no longer here, so that nobody takes it for never having been.",
)

horizon = sa.Table(
    "rf_horizon",
    metadata,
    sa.Column("table_id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("main_epoch", sa.BigInteger, nullable=False),
    sa.Column("hlc", sa.BigInteger, nullable=False),
    sa.Column("node_id", _id, nullable=False),
    comment="The highest version of the tombstones that were purged, by table: of what is older nothing is known.",
)

purge_round = sa.Table(
    "rf_purge_round",
    metadata,
    sa.Column("round", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("began_us", _us, nullable=False),
    sa.Column("choice_id", sa.BigInteger, nullable=False, comment="choices up to this one go with the round"),
    sa.Column("wanted", _text, nullable=False, comment="JSON: what a peer must have passed"),
    sa.Column("passed", _text, nullable=False, comment="JSON: peers that have, and the end of their log then"),
    comment="Tombstones that were old enough at one moment, and how far the logs were then.",
)

purge_tombstone = sa.Table(
    "rf_purge_tombstone",
    metadata,
    sa.Column("table_id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("key", _id, primary_key=True),
    sa.Column("hlc", sa.BigInteger, nullable=False),
    sa.Column("node_id", _id, nullable=False),
    sa.Column("round", sa.BigInteger, nullable=False),
    sa.Index("rf_purge_tombstone_round", "round"),
    comment="Tombstones that go once every peer has passed their round.",
)

metric = sa.Table(
    "rf_metric",
    metadata,
    sa.Column("minute", sa.BigInteger, primary_key=True, autoincrement=False, comment="since the epoch"),
    sa.Column("seq", sa.BigInteger, nullable=False, comment="in the order in which they were written"),
    sa.Column("at_us", _us, nullable=False),
    sa.Column("sealed_changes", _lsn, nullable=False, comment="these five: since sampling began"),
    sa.Column("sealed_txs", _lsn, nullable=False),
    sa.Column("published_changes", _lsn, nullable=False, comment="once for each road that took it"),
    sa.Column("applied_changes", _lsn, nullable=False),
    sa.Column("applied_txs", _lsn, nullable=False),
    sa.Column("unpublished_changes", _lsn, nullable=False),
    sa.Column("unpublished_age_us", _us, nullable=False, comment="of the oldest change"),
    sa.Column("unapplied_changes", _lsn, nullable=False),
    sa.Column("unapplied_age_us", _us, nullable=False, comment="since when the oldest waits"),
    sa.Column("dead_letters", _lsn, nullable=False, comment="open ones"),
    sa.Column("waiting_conflicts", _lsn, nullable=False),
    sa.Column("log_changes", _lsn, nullable=False, comment="sealed and not purged"),
    sa.Column("queue_messages", _lsn, comment="in the broker's queue; null: not known"),
    sa.Column("marks", _text, comment="JSON, in the newest row alone: up to where everything was counted"),
    sa.Index("rf_metric_seq", "seq", unique=True),
    comment="Samples of how the node does, a row a minute, kept for seven days.",
)
