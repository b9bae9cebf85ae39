"""The short way for what is plain: whole messages of txs whose changes meet exactly what they were made on.

    deliveries ─ reading ─→ PlainGroup ─ applying ─→ one commit, or nothing at all

Nothing is decided here. Whatever takes a decision (a conflict, a copy, a gap, a fault, a row that is not there) ends
the attempt, and the same deliveries go the long way: `consumer.arrivals`, `consumer.apply`. So this way only has to
know what is plain, and tests hold both ways together: what it commits is what the long way would have.
"""
