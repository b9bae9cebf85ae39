"""How batches travel over HTTP: paths, headers and media types that client and server share."""

PUSH_PATH = "/sync/push"
PULL_PATH = "/sync/pull"
STATE_PATH = "/sync/state"
HEARTBEAT_PATH = "/sync/heartbeat"
AGAIN_PATH = "/sync/again"
DIGESTS_PATH = "/sync/digests"
ROWS_PATH = "/sync/rows"
ADOPT_PATH = "/sync/adopt"
CURSOR_HEADER = "Rowferry-Cursor"
"""The mark of an answer: shown as `after` in the next request, it says that everything up to it was taken."""
TXS_HEADER = "Rowferry-Txs"
"""How many txs are in an answer."""
MORE_HEADER = "Rowferry-More"
"""`true` or `false`: whether there was more to give than is in an answer."""
GONE_HEADER = "Rowferry-Gone-Until"
"""Up to here the log was asked for once more, and is not kept any more."""
MEDIA_TYPE = "application/x-ndjson"
MOST_TXS = 10_000
MOST_ADOPTED = 5_000
"""Rows that are named in one question for their first version."""
LONGEST_WAIT_SECONDS = 55.0
"""Below the minute after which proxies give up on a silent connection."""
