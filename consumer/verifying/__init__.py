"""Comparing this node's tables with a peer's by digests over chunks of keys, and making equal what differs.

    Moment ─ answering ─→ lines, over HTTP or in a file ─→ Side ─ comparing ─→ differences ─ repairing ─→ rows

Both sides answer the same questions, so that the comparison asks its own node as it asks the peer.
"""
