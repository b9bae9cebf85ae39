"""Packing: sizes are kept, order is kept, and every envelope is whole `rowferry/1`."""

from __future__ import annotations

from common.wire.decode import read_body
from common.wire.records import Part
from producer.inflight import InFlight
from producer.packing import Packing, pack
from tests.support.producing import MemoryLog

SIZES = Packing(max_batch_bytes=6000, message_bytes=4096)


def test_small_and_large_txs_in_one_stream() -> None:
    log = MemoryLog()
    for round_number in range(3):
        for number in range(10):
            log.add(f"small {round_number} {number}")
        log.add(*("x" * 700 for _ in range(20)))
    envelopes = list(pack(log.txs, SIZES))
    seen = []
    for envelope in envelopes:
        parts = [part for part in read_body(envelope.body) if isinstance(part, Part)]
        assert parts[0].header.from_lsn == envelope.from_lsn
        assert parts[-1].header.to_lsn == envelope.to_lsn
        assert parts[0].header.tx_id == envelope.tx_id
        assert len(parts) == envelope.txs
        assert len(envelope.body) <= SIZES.max_batch_bytes
        assert (envelope.closes_lsn is None) == (parts[-1].header.part < parts[-1].header.parts)
        seen += [(part.header.tx_id, part.header.part) for part in parts]
    assert seen == sorted(seen)
    assert {tx_id for tx_id, _ in seen} == {tx.header.tx_id for tx in log.txs}
    assert len(envelopes) < len(seen)


def test_nothing_gives_nothing() -> None:
    assert list(pack([], SIZES)) == []


def test_in_flight_counts_parts_until_their_last_is_confirmed() -> None:
    log = MemoryLog()
    log.add("small")
    log.add(*("x" * 700 for _ in range(20)))
    in_flight, total = InFlight(), 0
    for envelope in pack(log.txs, SIZES):
        in_flight.add(envelope)
        total += len(envelope.body)
    assert in_flight.size == total
    in_flight.confirm(1)
    assert 0 < in_flight.size < total
    in_flight.confirm(20)
    assert in_flight
    in_flight.confirm(21)
    assert not in_flight
